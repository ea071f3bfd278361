"""Reading the user's own files: every kind, every way a record can be unusable, every cut into portions."""

import gzip
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks._errors import StageError
from tasks.corpus.records import BadRecord, Document
from tasks.corpus.sources.files import Portion, find_files, portions_of, read_portion

LIMIT = 10_000
ROWS = b'{"text": "first", "id": "a", "domain": "books", "title": "T", "source": "S"}\n\n{"text": "second"}\n'
PACKINGS = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.ZstdCompressor().compress}
same_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # every example overwrites the file of the one before


def read(root: Path, name: str, limit: int = LIMIT) -> tuple[list[Document], list[BadRecord]]:
    records = list(read_portion(root, Portion(name, 0, -1), limit))
    documents = [record for record in records if isinstance(record, Document)]
    return documents, [record for record in records if isinstance(record, BadRecord)]


@pytest.mark.parametrize("suffix", PACKINGS)
def test_json_lines_in_every_packing(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(PACKINGS[suffix](ROWS))
    documents, bad = read(tmp_path, f"x{suffix}")
    assert bad == []
    assert documents == [
        Document("files:a", "first", "S", "books", "T", "file"),
        Document(f"files:x{suffix}@{ROWS.rindex(b'{')}", "second", f"x{suffix}", "files", "", "file"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "broken', "not JSON"),
        (b'{"txt": "no text"}', "no text of type string in field 'text'; found: keys txt"),
        (b'{"text": 5}', "found: int"),
        (b'{"text": null}', "found: null"),
        (b'{"text": NaN}', "found: float"),
        (b'{"text": {"deep": ["er"]}}', "found: dict"),
        (b'["text"]', "found: list"),
        (b'{"text": "x", "title": ["a"]}', "field 'title' is a list; allowed: text, a number or null"),
        (b'{"text": "  \\n "}', "the text is empty"),
        (b'{"text": ""}', "the text is empty"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "x", "id": ' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"text": "' + b"x" * LIMIT + b'"}', "longer than max_record_bytes=10000"),
        (b'{"text": "' + b"x" * 3 * LIMIT + b'"}', "longer than max_record_bytes=10000"),
        (b"[" * 5000, "not JSON"),
    ],
)
def test_a_bad_line_is_reported_with_its_place_and_reading_goes_on(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}')
    documents, bad = read(tmp_path, "x.jsonl")
    assert [document.text for document in documents] == ["before", "after"]
    assert [(record.file, record.line) for record in bad] == [("x.jsonl", 2)]
    assert bad[0].reason.startswith("byte 19: ")
    assert reason in bad[0].reason


def test_the_size_limit_is_exact_for_the_line_without_its_end(tmp_path: Path) -> None:
    fitting = b'{"text": "' + b"x" * (LIMIT - 12) + b'"}'
    assert len(fitting) == LIMIT
    (tmp_path / "x.jsonl").write_bytes(fitting + b"\n" + fitting + b" \n" + fitting)
    documents, bad = read(tmp_path, "x.jsonl")
    assert (len(documents), [record.line for record in bad]) == (2, [2])
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "before"}\n{"text": "' + b"x" * LIMIT)
    documents, bad = read(tmp_path, "x.jsonl")
    assert len(documents) == len(bad) == 1


def test_a_line_far_over_the_limit_is_never_held_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    limit = 1 << 16
    with gzip.open(tmp_path / "x.jsonl.gz", "wb", 1) as file:
        file.write(b'{"text": "' + b"x" * (40 << 20) + b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    documents, bad = read(tmp_path, "x.jsonl.gz", limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [document.text for document in documents] == ["after"] and len(bad) == 1
    assert peak < 8 << 20  # a few read buffers of 1 MiB; the line has 40


def test_ids_numbers_marks_and_halves_of_characters(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "mark", "id": 7}\r\n',
        b'{"text": "NaN", "id": NaN}\r\n',
        b'{"text": "half \\ud83d", "id": "h", "license": "MIT", "url": "https://x.org/"}\r\n',
        b'{"text": "whole \\ud83d\\ude00", "id": "", "licence": "CC0", "domain": null}\r\n',
    ]
    (tmp_path / "x.jsonl").write_bytes(b"".join(lines))
    documents, bad = read(tmp_path, "x.jsonl")
    assert bad == []
    assert [(d.id, d.text, d.url, d.licence) for d in documents] == [
        ("files:7", "mark", None, None),
        (f"files:x.jsonl@{len(lines[0])}", "NaN", None, None),
        ("files:h", "half \ufffd", "https://x.org/", "MIT"),
        (f"files:x.jsonl@{len(b''.join(lines[:3]))}", "whole 😀", None, "CC0"),
    ]


# --- portions ---------------------------------------------------------------------------------------------------------
texts = st.text(st.characters(codec="utf-8"), max_size=30)
json_line = st.one_of(texts.map(lambda text: json.dumps({"text": text})), st.just(""), st.just("{"), st.just("y" * 200))


@same_folder
@given(st.lists(json_line, max_size=12), st.sampled_from(["\n", "\r\n"]), st.integers(1, 300), st.booleans())
def test_any_cut_into_byte_ranges_gives_the_same_records(
    tmp_path: Path, lines: list[str], end: str, target: int, ended: bool
) -> None:
    content = end.join(lines) + (end if ended else "")
    (tmp_path / "x.jsonl").write_bytes(content.encode())
    place = [record._replace(line=0) if isinstance(record, BadRecord) else record for record in whole(tmp_path, 150)]
    portions = portions_of(tmp_path, "x.jsonl", target)
    assert len(portions) >= max(1, math.floor(len(content.encode()) / target))
    cut = [record for portion in portions for record in read_portion(tmp_path, portion, 150)]
    assert [r._replace(line=0) if isinstance(r, BadRecord) else r for r in cut] == place


def whole(root: Path, limit: int) -> list[Document | BadRecord]:
    return list(read_portion(root, Portion("x.jsonl", 0, -1), limit))


@pytest.mark.parametrize("target", [1, 2_000, 10**9])
def test_row_group_portions_read_every_row_once_with_its_number(tmp_path: Path, target: int) -> None:
    frame = pl.DataFrame({"text": [f"text number {i}" for i in range(1000)]})
    frame.write_parquet(tmp_path / "x.parquet", row_group_size=64)
    portions = portions_of(tmp_path, "x.parquet", target)
    groups = pq.ParquetFile(tmp_path / "x.parquet").num_row_groups
    assert len(portions) == {1: groups, 10**9: 1}.get(target, len(portions)) and len(portions) <= groups
    found = [record for portion in portions for record in read_portion(tmp_path, portion, LIMIT)]
    assert [record.id for record in found] == [f"files:x.parquet#{i}" for i in range(1, 1001)]
    assert [record.text for record in found] == frame["text"].to_list()


def test_only_plain_lines_and_parquet_are_cut(tmp_path: Path) -> None:
    for name in ("x.txt", "x.html", "x.jsonl.gz", "x.jsonl.zst"):
        (tmp_path / name).write_bytes(b"x" * 1000)
        assert portions_of(tmp_path, name, 10) == [Portion(name, 0, -1)]
    (tmp_path / "x.jsonl").write_bytes(b"x" * 1000)
    assert portions_of(tmp_path, "x.jsonl", 1000) == [Portion("x.jsonl", 0, -1)]
    assert portions_of(tmp_path, "x.jsonl", 500) == [Portion("x.jsonl", 0, 500), Portion("x.jsonl", 500, -1)]


# --- damage -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_damaged_compression_keeps_what_came_before_and_says_so(tmp_path: Path, suffix: str) -> None:
    many = b"".join(json.dumps({"text": f"line {i} {i * 7919 % 1000}"}).encode() + b"\n" for i in range(20_000))
    packed, name = PACKINGS[suffix](many), f"x{suffix}"
    for damaged, least in [(packed[: len(packed) // 2], 4_000), (packed[:-3], 15_000), (packed + b"junk", 15_000)]:
        (tmp_path / name).write_bytes(damaged)
        documents, bad = read(tmp_path, name)
        assert len(documents) >= least
        assert len(bad) == 1 and "the compressed file is damaged" in bad[0].reason
        assert bad[0].line == len(documents) + 1
    (tmp_path / name).write_bytes(packed + packed)  # two members or frames are one valid file
    assert [len(found) for found in read(tmp_path, name)] == [40_000, 0]
    (tmp_path / name).write_bytes(b"not packed at all")
    assert "damaged" in read(tmp_path, name)[1][0].reason


def test_a_truncated_parquet_file_is_one_bad_record(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["one", "two"]}).write_parquet(tmp_path / "x.parquet")
    content = (tmp_path / "x.parquet").read_bytes()
    for damaged in (content[:-9], content[: len(content) // 2], b"PAR1 this is not parquet"):
        (tmp_path / "x.parquet").write_bytes(damaged)
        assert portions_of(tmp_path, "x.parquet", 1) == [Portion("x.parquet", 0, -1)]
        documents, bad = read(tmp_path, "x.parquet")
        assert documents == [] and len(bad) == 1
        assert "not a Parquet file, or damaged" in bad[0].reason


def test_a_damaged_row_group_is_named_and_the_next_ones_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {i}" for i in range(300)]})
    pq.write_table(
        table,
        tmp_path / "x.parquet",
        row_group_size=100,
        compression="none",
        write_page_checksum=True,
        use_dictionary=False,
    )
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[content.index(b"text 150")] ^= 0xFF
    (tmp_path / "x.parquet").write_bytes(content)
    documents, bad = read(tmp_path, "x.parquet")
    assert [document.id for document in documents] == [
        f"files:x.parquet#{i}" for i in (*range(1, 101), *range(201, 301))
    ]
    assert len(bad) == 1 and bad[0].line == 101
    assert bad[0].reason.startswith("row group 1 is damaged: ") and bad[0].reason.endswith("; 100 of its rows are lost")


def test_parquet_rows_of_every_usable_type(tmp_path: Path) -> None:
    texts = ["one", "two", None, " ", "ä" * LIMIT]
    ids = {
        "string": pa.array(["p", None, "r", "s", "t"]),
        "int": pa.array([7, None, 8, 9, 10]),
        "float": pa.array([0.5, float("nan"), 1, 2, 3]),
    }
    for kind, first in (("string", "p"), ("int", "7"), ("float", "0.5")):
        for text_type in (pa.string(), pa.large_string(), pa.binary(), pa.string_view()):
            text = pa.array(texts).cast(text_type)
            pq.write_table(pa.table({"other": [[1]] * 5, "text": text, "id": ids[kind]}), tmp_path / "x.parquet")
            documents, bad = read(tmp_path, "x.parquet")
            assert [(d.id, d.text) for d in documents] == [(f"files:{first}", "one"), ("files:x.parquet#2", "two")]
            assert [record.line for record in bad] == [3, 4, 5]
            assert "found: null" in bad[0].reason and "empty" in bad[1].reason and "20000 bytes" in bad[2].reason
    pq.write_table(pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()}), tmp_path / "d.parquet")
    assert [document.text for document in read(tmp_path, "d.parquet")[0]] == ["a", "b", "a"]


def test_parquet_values_that_are_not_utf8_are_bad_rows(tmp_path: Path) -> None:
    for make in (pa.string(), pa.binary()):
        text = pa.array([b"good", b"bad \xff", b"good"], pa.binary())
        column = pa.Array.from_buffers(make, 3, text.buffers())
        pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
        documents, bad = read(tmp_path, "x.parquet")
        assert [document.id for document in documents] == ["files:x.parquet#1", "files:x.parquet#3"]
        assert [(record.line, record.reason) for record in bad] == [(2, "not UTF-8: byte 4 of a value")]


def test_parquet_columns_that_cannot_be_used_are_an_error_that_names_them(tmp_path: Path) -> None:
    for table, message in [
        ({"content": ["x"], "url": ["y"]}, "no column 'text'; found: content, url"),
        ({"text": [5]}, r"x\.parquet: column 'text' has type int64; allowed: string or binary"),
        ({"text": [["x"]]}, "column 'text' has type list"),
        ({"text": ["x"], "title": [{"a": 1}]}, "column 'title' has type struct"),
    ]:
        pq.write_table(pa.table(table), tmp_path / "x.parquet")
        with pytest.raises(StageError, match=message):
            read(tmp_path, "x.parquet")


def test_files_that_vanish_or_are_no_files_are_errors_that_name_them(tmp_path: Path) -> None:
    for name in ("gone.jsonl", "gone.jsonl.gz", "gone.jsonl.zst", "gone.parquet", "gone.txt"):
        with pytest.raises(StageError, match=f"{name} is gone"):
            portions_of(tmp_path, name, 100)
        with pytest.raises(StageError, match=f"{name} is gone"):
            read(tmp_path, name)
    for name in ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.md"):
        (tmp_path / name).mkdir()
        with pytest.raises(StageError, match=f"{name} cannot be read: it is a directory"):
            read(tmp_path, name)


def fuzzed_files() -> dict[str, bytes]:
    """One good file of each kind; Parquet with and without checksums."""
    import io

    rows = [{"text": f"line {i} ä " + "word " * (i % 7), "id": str(i)} for i in range(60)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    files = {f"x{suffix}": pack(lines) for suffix, pack in PACKINGS.items()}
    for name, options in (("x.parquet", {}), ("y.parquet", {"compression": "none", "write_page_checksum": True})):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=20, **options)
        files[name] = buffer.getvalue()
    return files


FUZZED = fuzzed_files()
edit = st.tuples(st.sampled_from(["set", "cut", "insert", "end", "append"]), st.floats(0, 1), st.binary(max_size=8))


@settings(same_folder, max_examples=250)
@given(st.sampled_from(sorted(FUZZED)), st.lists(edit, min_size=1, max_size=4), st.sampled_from([300, 10**9]))
def test_no_damage_makes_anything_but_documents_bad_records_or_a_named_error(
    tmp_path: Path, name: str, edits: list[tuple[str, float, bytes]], target: int
) -> None:
    content = FUZZED[name]
    for kind, where, data in edits:
        at = int(where * len(content))
        behind = {"set": at + len(data), "cut": at + 8, "insert": at, "end": len(content), "append": at}[kind]
        content = content + data if kind == "append" else content[:at] + data + content[behind:]
    (tmp_path / name).write_bytes(content)
    records: list[Document | BadRecord] = []
    try:
        for portion in portions_of(tmp_path, name, target):
            records += read_portion(tmp_path, portion, 2000)
    except StageError as error:
        named = name in str(error)
    else:
        named = len(records) > 0 or not content.strip()
    assert named
    assert all(isinstance(record, (Document, BadRecord)) for record in records)
    if name == "x.jsonl":  # here nothing may be lost: every line that is not blank is a document or a bad record
        assert len(records) == max(
            1 - len(content), sum(1 for line in content.split(b"\n") if line.strip(b" \t\r\x0b\x0c"))
        )


# --- whole files and globs --------------------------------------------------------------------------------------------
def test_whole_text_files(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_bytes(b"\xef\xbb\xbf" + "# Größe\r\n".encode())
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "long.txt").write_bytes(b"x" * (LIMIT + 1))
    (tmp_path / "fits.txt").write_bytes(b"x" * LIMIT)
    assert read(tmp_path, "good.md")[0] == [
        Document("files:good.md", "# Größe\r\n", "good.md", "files", "good", "file")
    ]
    assert len(read(tmp_path, "fits.txt")[0]) == 1
    for name, reason in [
        ("latin.txt", "not UTF-8: byte 2 is 0xf6"),
        ("empty.txt", "empty"),
        ("long.txt", "10001 bytes"),
    ]:
        documents, bad = read(tmp_path, name)
        assert documents == []
        assert reason in bad[0].reason


def test_a_page_is_read_raw_and_in_the_charset_it_names(tmp_path: Path) -> None:
    for charset in ("utf-8", "euc-kr", "shift_jis", "windows-1251", "no-such-charset", "unicode_escape"):
        text = {"euc-kr": "한국어", "shift_jis": "日本語", "windows-1251": "Привет"}.get(charset, "Größe")
        page = f'<html><meta charset="{charset}"><p>{text}</p></html>'
        known = charset not in ("no-such-charset", "unicode_escape")
        (tmp_path / "x.html").write_bytes(page.encode(charset if known else "latin-1"))
        documents, bad = read(tmp_path, "x.html")
        assert [document.text for document in documents] == ([page] if known else [])
        assert ["not UTF-8" in record.reason for record in bad] == ([] if known else [True])


def test_globs_stay_inside_and_must_match(tmp_path: Path) -> None:
    root = tmp_path / "text"
    (root / "sub").mkdir(parents=True)
    (root / "parts.jsonl").mkdir()
    (root / "parts.jsonl/0.jsonl").write_text("x")
    (root / "sub/b.txt").write_text("x")
    (root / "a.txt").write_text("x")
    (root / ".gitkeep").write_text("")
    (root / "c.pdf").write_text("x")
    (tmp_path / "secret.txt").write_text("x")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert find_files(root, "sub/*") == ["sub/b.txt"]
    assert find_files(root, "[ab].txt") == ["a.txt"]
    assert find_files(root, "**/*.jsonl") == ["parts.jsonl/0.jsonl"]
    for glob, message in [
        ("../*.txt", "outside data/text"),
        ("/etc/*", "outside data/text"),
        ("*.jsonl", "matches no file"),
        ("link*", "link to a place outside"),
        ("c*", "unknown kind, such as 'c.pdf'"),
    ]:
        with pytest.raises(StageError, match=message):
            find_files(root, glob)


def test_the_same_record_has_the_same_identity_in_every_file_when_it_brings_an_id(tmp_path: Path) -> None:
    """Sharding must not change a document: its id is its own, without the file name."""
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "t", "id": "doc"}')
    shutil.copy(tmp_path / "x.jsonl", tmp_path / "y.jsonl")
    ids = Counter(document.id for name in ("x.jsonl", "y.jsonl") for document in read(tmp_path, name)[0])
    assert ids == {"files:doc": 2}
