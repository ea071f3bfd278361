"""Reading the user's own files: every kind, every way a record can be unusable."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
import zstandard

from tasks._errors import StageError
from tasks.corpus.files import find_files, harvest_file

LIMIT = 10_000
ROWS = b'{"text": "first", "id": "a", "domain": "books", "title": "T", "source": "S"}\n\n{"text": "second"}\n'


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".jsonl", bytes), (".jsonl.gz", gzip.compress), (".jsonl.zst", zstandard.ZstdCompressor().compress)],
)
def test_json_lines_in_every_packing(tmp_path: Path, suffix: str, pack) -> None:
    (tmp_path / f"x{suffix}").write_bytes(pack(ROWS))
    harvest = harvest_file(tmp_path, f"x{suffix}", LIMIT)
    assert harvest.bad == []
    assert [tuple(document) for document in harvest.documents] == [
        (f"files:x{suffix}#a", "first", "S", "books", "T", "file"),
        (f"files:x{suffix}#3", "second", f"x{suffix}", "files", "", "file"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "broken', "not JSON"),
        (b'{"txt": "no text"}', "no text of type string in field 'text'; found: keys txt"),
        (b'{"text": 5}', "no text"),
        (b'["text"]', "found: list"),
        (b'{"text": "  \\n "}', "the text is empty"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "' + b"x" * LIMIT + b'"}', "longer than max_record_bytes=10000"),
        (b'{"text": "' + b"x" * 3 * LIMIT + b'"}', "longer than max_record_bytes=10000"),
        (b"[" * 5000, "not JSON"),
    ],
)
def test_a_bad_line_is_reported_with_its_number_and_reading_goes_on(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}')
    harvest = harvest_file(tmp_path, "x.jsonl", LIMIT)
    assert [document.text for document in harvest.documents] == ["before", "after"]
    assert [(bad.file, bad.line) for bad in harvest.bad] == [("x.jsonl", 2)]
    assert reason in harvest.bad[0].reason


def test_a_line_over_the_limit_at_the_end_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "before"}\n{"text": "' + b"x" * LIMIT)
    harvest = harvest_file(tmp_path, "x.jsonl", LIMIT)
    assert len(harvest.documents) == len(harvest.bad) == 1


def test_damaged_compression_keeps_what_came_before(tmp_path: Path) -> None:
    many = b"".join(json.dumps({"text": f"line {i} {i * 7919 % 1000}"}).encode() + b"\n" for i in range(5000))
    for name, packed in [("x.jsonl.gz", gzip.compress(many)), ("x.jsonl.zst", b"not zstd at all")]:
        (tmp_path / name).write_bytes(packed[: len(packed) // 2])
        harvest = harvest_file(tmp_path, name, LIMIT)
        assert any("damaged" in bad.reason for bad in harvest.bad)
        assert len(harvest.bad) <= 2  # the cut line itself may be counted, too
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(many)[:-4])
    assert len(harvest_file(tmp_path, "y.jsonl.gz", LIMIT).documents) > 4000


def test_parquet_rows(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["p", None, "r"], "text": ["one", "two", None], "other": [1, 2, 3]}).write_parquet(
        tmp_path / "x.parquet"
    )
    harvest = harvest_file(tmp_path, "x.parquet", LIMIT)
    assert [(d.id, d.text) for d in harvest.documents] == [("files:x.parquet#p", "one"), ("files:x.parquet#2", "two")]
    assert [(bad.line, "no text" in bad.reason) for bad in harvest.bad] == [(3, True)]


def test_parquet_without_text_names_the_columns_found(tmp_path: Path) -> None:
    pl.DataFrame({"content": ["x"], "url": ["y"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(StageError, match="no column 'text'; found: content, url"):
        harvest_file(tmp_path, "x.parquet", LIMIT)
    (tmp_path / "z.parquet").write_bytes(b"PAR1 this is not parquet")
    assert "not a Parquet file" in harvest_file(tmp_path, "z.parquet", LIMIT).bad[0].reason


def test_whole_text_files(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_bytes("# Größe\r\n".encode())
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "long.txt").write_bytes(b"x" * (LIMIT + 1))
    assert harvest_file(tmp_path, "good.md", LIMIT).documents[0][:2] == ("files:good.md", "# Größe")
    for name, reason in [
        ("latin.txt", "not UTF-8: byte 2 is 0xf6"),
        ("empty.txt", "empty"),
        ("long.txt", "10001 bytes"),
    ]:
        harvest = harvest_file(tmp_path, name, LIMIT)
        assert harvest.documents == []
        assert reason in harvest.bad[0].reason


def test_globs_stay_inside_and_must_match(tmp_path: Path) -> None:
    root = tmp_path / "text"
    (root / "sub").mkdir(parents=True)
    (root / "sub/b.txt").write_text("x")
    (root / "a.txt").write_text("x")
    (root / ".gitkeep").write_text("")
    (root / "c.pdf").write_text("x")
    (tmp_path / "secret.txt").write_text("x")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert find_files(root, "sub/*") == ["sub/b.txt"]
    assert find_files(root, "[ab].txt") == ["a.txt"]
    for glob, message in [
        ("../*.txt", "outside data/text"),
        ("/etc/*", "outside data/text"),
        ("*.jsonl", "matches no file"),
        ("link*", "link to a place outside"),
        ("c*", "unknown kind, such as 'c.pdf'"),
    ]:
        with pytest.raises(StageError, match=message):
            find_files(root, glob)
