"""Input that is damaged, through the whole stage: an error that names the file, or counted records."""

import codecs
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks._errors import StageError
from tasks.corpus import reading
from tasks.corpus.sources import portions
from tests.tasks.corpus.small_corpora import (
    GOOD,
    STRINGS,
    as_lines,
    as_parquet,
    bad_records,
    make_rows,
    make_text,
    run_corpus,
)


# --- damaged files --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [0, 3, 8, 500, -1, -8, -100])
def test_a_parquet_file_cut_anywhere_is_one_bad_record(tmp_path: Path, keep: int) -> None:
    content = as_parquet({"text": STRINGS})
    cut = content[:keep]
    report = run_corpus(tmp_path, {**GOOD, "cut.parquet": cut})
    assert bad_records(report) == [("cut.parquet", 0)]
    assert report["total"]["documents"] == 12


def test_a_damaged_row_group_is_counted_and_the_next_is_read(tmp_path: Path) -> None:
    content = bytearray(as_parquet({"text": STRINGS}, row_group_size=5, use_dictionary=False, write_page_checksum=True))
    column = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(0)
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    report = run_corpus(tmp_path, {"damaged.parquet": bytes(content)})
    assert bad_records(report) == [("damaged.parquet", 6)]
    assert "5 of its rows are lost" in report["unreadable_samples"][0]["reason"]
    assert report["total"]["documents"] == 15


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": STRINGS}, r"wrong.parquet has no column 'text'; found: body; next"),
        ({"text": pa.array(range(20))}, r"wrong.parquet: column 'text' has type int64; allowed: .*; next"),
        ({"text": pa.array([[b"x"]] * 20)}, r"wrong.parquet: column 'text' has type list.*; next"),
        ({"text": STRINGS, "id": pa.array([{"a": 1}] * 20)}, r"wrong.parquet: column 'id' has type struct.*; next"),
        ({"text": STRINGS, "domain": pa.array([[1]] * 20)}, r"wrong.parquet: column 'domain' has type list.*; next"),
    ],
)
@pytest.mark.parametrize("workers", [1])
def test_columns_that_cannot_be_used_are_errors(
    tmp_path: Path, columns: dict[str, Any], message: str, workers: int
) -> None:
    with pytest.raises(StageError, match=message):
        run_corpus(tmp_path, {**GOOD, "wrong.parquet": as_parquet(columns)}, workers)


def test_an_error_in_a_worker_process_names_the_file_too(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"wrong.parquet has no column 'text'"):
        run_corpus(tmp_path, {**GOOD, "wrong.parquet": as_parquet({"body": STRINGS})}, workers=2)


def test_columns_of_unusual_but_usable_types(tmp_path: Path) -> None:
    columns = {
        "text": STRINGS.cast(pa.large_binary()), "id": pa.array(range(20)), "title": pa.nulls(20),
        "domain": pa.array(["one", "two"] * 10).dictionary_encode(), "source": pa.array([1.5] * 20),
    }  # fmt: skip
    report = run_corpus(tmp_path, {"odd.parquet": as_parquet(columns)})
    assert (report["total"]["kept"], sorted(report["domains"])) == (20, ["one", "two"])


def test_bad_rows_are_counted_by_line_and_reason(tmp_path: Path) -> None:
    lines = [
        b'{"text": null}', b'{"text": 5}', b'{"text": ""}', b'{"text": " \\n\\t "}', b"[]", b"5", b"", b"{",
        b"\xff\xfe",
        b'{"text": "' + b"\xc3(" + b'"}',
        b'{"txt": "x"}', b'{"text": "x", "id": {}}', b"[" * 100_000, b"NaN",
    ]  # fmt: skip
    table = pa.table({"text": pa.array([None, "", " ", STRINGS[0].as_py()])})
    files = {**GOOD, "lines.jsonl": b"\n".join(lines), "rows.parquet": as_parquet(table)}
    report = run_corpus(tmp_path, files)
    blank = lines.index(b"") + 1
    expected = [("lines.jsonl", number) for number in range(1, len(lines) + 1) if number != blank]
    assert bad_records(report) == [*expected, ("rows.parquet", 1), ("rows.parquet", 2), ("rows.parquet", 3)]
    assert all(sample["reason"] for sample in report["unreadable_samples"])
    with pytest.raises(StageError, match=r"16 of 29 records of source 0 .*max_bad_fraction=0\.5; next: mend"):
        run_corpus(tmp_path, files, max_bad_fraction=0.5)


def test_text_that_is_empty_after_cleaning_is_bad_under_its_files_name(tmp_path: Path) -> None:
    """Catches samples that named what the record calls its source instead of the file it lies in."""
    rows = [
        *make_rows(),
        {"id": "controls", "text": "\x00\x01\x02", "source": "somewhere"},
        {"id": "page", "text": "<!DOCTYPE html><html><head><title>x</title></head><body></body></html>"},
    ]
    report = run_corpus(tmp_path, {"some.jsonl": as_lines(rows)})
    assert report["unreadable"] == 2
    assert bad_records(report) == [("some.jsonl", 0)] * 2
    reasons = " ".join(sample["reason"] for sample in report["unreadable_samples"])
    assert "id files:controls, source somewhere" in reasons and "id files:page" in reasons


def test_invalid_utf_8_in_every_format(tmp_path: Path) -> None:
    broken = b"caf\xe9 " * 30
    table = pa.table({"text": pa.array([broken, make_text("fine").encode()], pa.binary())})
    files = {
        "a.txt": broken, "b.md": b"\xff\xfe" + broken,
        "c.jsonl": b'{"text": "' + broken + b'"}\n' + as_lines(make_rows(2)),
        "d.parquet": as_parquet(table), "e.txt": codecs.BOM_UTF8 + make_text("bom").encode(),
    }  # fmt: skip
    report = run_corpus(tmp_path, files)
    assert bad_records(report) == [("a.txt", 0), ("b.md", 0), ("c.jsonl", 1), ("d.parquet", 1)]
    assert report["total"]["kept"] == 4


def test_one_endless_line_is_skipped_not_held(tmp_path: Path) -> None:
    """Portions are made small, so that the line spans several of them."""
    long = b'{"text": "' + b"x" * 3_000_000 + b'"}\n'
    content = (
        as_lines(make_rows(6))
        + long
        + as_lines([{**row, "id": f"b{n}", "text": make_text(f"b{n}")} for n, row in enumerate(make_rows(6))])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "PORTION_BYTES", 500_000)
        report = run_corpus(tmp_path, {"long.jsonl": content}, max_record_bytes=100_000)
    assert (report["unreadable"], report["total"]["kept"]) == (1, 12)
    assert "longer than max_record_bytes=100000" in report["unreadable_samples"][0]["reason"]


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.jsonl.zst"])
def test_a_compressed_file_that_breaks_off(tmp_path: Path, name: str) -> None:
    import gzip

    import zstandard

    content = as_lines(make_rows(200))
    packed = gzip.compress(content) if name.endswith("gz") else zstandard.compress(content)
    report = run_corpus(tmp_path, {**GOOD, name: packed[: len(packed) // 2]})
    assert report["unreadable"] >= 1
    assert {file for file, _ in bad_records(report)} == {name}


def test_a_file_of_nothing_but_bad_lines_does_not_fill_the_memory(tmp_path: Path) -> None:
    """All are counted, some are remembered."""
    report = run_corpus(tmp_path, {**GOOD, "noise.jsonl": b"{\n" * 50_000})
    assert report["unreadable"] == 50_000
    assert bad_records(report) == [("noise.jsonl", number) for number in range(1, 51)]
    unit = next((tmp_path / "work/corpus/cache").glob("read/*/info.json"))
    assert all(path.stat().st_size < 1_000_000 for path in unit.parent.parent.glob("*/info.json"))


# --- what is missing ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("when", ["find_files", "portions_of"])
def test_a_file_that_disappears_after_it_was_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    step = getattr(portions, when)

    def then_gone(root: Path, *arguments: Any) -> Any:
        result = step(root, *arguments)
        (root / "gone.jsonl").unlink(missing_ok=True)
        return result

    monkeypatch.setattr(portions, when, then_gone)
    with pytest.raises(StageError, match=r"gone\.jsonl is gone; it was there when the files were listed; next"):
        run_corpus(tmp_path, {"gone.jsonl": as_lines(make_rows())})


def test_a_file_that_disappears_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reading.read

    def gone_before(out: Path, *arguments: Any) -> None:
        (tmp_path / "data/text/gone.jsonl").unlink()
        read(out, *arguments)

    monkeypatch.setattr(reading, "read", gone_before)
    with pytest.raises(StageError, match=r"gone\.jsonl is gone"):
        run_corpus(tmp_path, {"gone.jsonl": as_lines(make_rows())})
    assert not list((tmp_path / "work/corpus/cache/read").glob("*"))


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"glob '\*\*/\*' matches no file in data/text; next"):
        run_corpus(tmp_path / "a", {})
    with pytest.raises(StageError, match=r"hold no document; allowed: at least one; next"):
        run_corpus(tmp_path / "b", {"blank.jsonl": b"\n\n\n"})
    with pytest.raises(StageError, match=r"hold no document"):
        run_corpus(tmp_path / "c", {"none.parquet": as_parquet({"text": pa.array([], pa.string())})})
    with pytest.raises(StageError, match=r"1 of 1 records of source 0 (.|\n)*empty.jsonl:0: the file is empty"):
        run_corpus(tmp_path / "d", {"empty.jsonl": b""}, max_bad_fraction=0.5)
    with pytest.raises(StageError, match=r"hold no document"):
        run_corpus(tmp_path / "e", {"bad.jsonl": b"{\n{\n"})


def test_a_source_without_records_beside_one_with(tmp_path: Path) -> None:
    report = run_corpus(
        tmp_path, {**GOOD, "blank.jsonl": b"\n\n", "none.parquet": as_parquet({"text": pa.array([], pa.string())})}
    )
    shards = {shard["name"]: (shard["records"], shard["in"]) for shard in report["shards"]}
    assert shards == {"blank.jsonl": (0, 0), "good.jsonl": (12, 12), "none.parquet": (0, 0)}


# --- odd records ----------------------------------------------------------------------------------------------------
