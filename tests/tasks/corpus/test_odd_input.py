"""Input that is odd or much, and a full disk, through the whole stage."""

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks._errors import StageError
from tasks.run import disk_is_full
from tests.tasks.corpus.small_corpora import GOOD, as_lines, make_rows, make_text, read_kept, read_rejected, run_corpus

ODD = [
    "",
    " ",
    "a/b",
    "*",
    "../up",
    "a\nb",
    "a\x00b",
    "\U0001f600",
    "<b>&amp;</b>",
    "x" * 10_000,
    "\ud800",
    '"',
    "#2",
    "-",
]


def test_odd_ids_titles_domains_and_sources(tmp_path: Path) -> None:
    rows = [
        {"id": odd, "title": odd, "domain": odd, "source": odd, "url": odd, "licence": odd, "text": make_text(n)}
        for n, odd in enumerate(ODD)
    ]
    report = run_corpus(tmp_path, {"odd.jsonl": as_lines(rows)})
    assert report["total"]["kept"] == len(rows)
    kept = read_kept(tmp_path)
    assert set(kept["domain"]) == {*ODD, "files", "\ufffd"} - {"", "\ud800"}
    assert set(kept["id"]) == {f"files:{odd}" for odd in ODD if odd not in ("", "\ud800")} | {
        "files:odd.jsonl@0", "files:\ufffd",
    }  # fmt: skip
    for name in ("report.md", "report.html"):
        assert "<b>&amp;</b>" not in (tmp_path / "work/corpus/out" / name).read_text() or name == "report.md"


def test_domains_by_the_hundred(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": make_text(n), "domain": f"host{n % 300}.example"} for n in range(600)]
    report = run_corpus(tmp_path, {"many.jsonl": as_lines(rows)}, mixing={"weights": {"host7.example": 1, "*": 9}})
    assert len(report["domains"]) == 300


def test_more_domains_than_there_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.corpus.documents.MAX_DOMAINS", 20)
    rows = [{**row, "domain": str(n)} for n, row in enumerate(make_rows(21))]
    with pytest.raises(StageError, match=r"name 21 domains, such as '0' and '9'; allowed: at most 20; next"):
        run_corpus(tmp_path / "a", {"many.jsonl": as_lines(rows)})
    assert len(run_corpus(tmp_path / "b", {"many.jsonl": as_lines(rows[:20])})["domains"]) == 20


def test_half_a_surrogate_pair_in_json(tmp_path: Path) -> None:
    line = b'{"id": "half", "text": "\\ud800 ' + make_text(0).encode() + b' \\udc00"}\n'
    pair = b'{"id": "whole", "text": "\\ud83d\\ude00 ' + make_text(1).encode() + b'"}\n'
    run_corpus(tmp_path, {"half.jsonl": line + pair})
    texts = dict(read_kept(tmp_path).select("id", "text").iter_rows())
    assert texts["files:half"] == f"\ufffd {make_text(0)} \ufffd"
    assert texts["files:whole"].startswith("\U0001f600 ")


def test_equal_ids_and_equal_records(tmp_path: Path) -> None:
    """Five times one record, five times its id with other texts: all ten are accounted for, ids stay distinct."""
    rows = [{"id": "same", "text": make_text(0), "source": "s"}] * 5
    rows += [{"id": "same", "text": make_text(n), "source": "s"} for n in range(1, 6)]
    report = run_corpus(tmp_path, {"same.jsonl": as_lines(rows)})
    assert report["duplicate_ids"] == 9
    kept, rejected = read_kept(tmp_path), read_rejected(tmp_path)
    assert (kept.height, rejected["reason"].to_list()) == (6, ["exact_duplicate"] * 4)
    names = [*kept["id"], *rejected["id"]]
    assert sorted(names) == sorted(["files:same", *(f"files:same#{n}" for n in range(2, 11))])
    assert set(rejected["cluster_id"]) < set(kept["id"])


def test_one_id_for_more_documents_than_sixteen_bits_count(tmp_path: Path) -> None:
    lines = b"".join(b'{"id": "same", "text": "word%d"}\n' % n for n in range(70_000))
    report = run_corpus(
        tmp_path, {"same.jsonl": lines}, duplicates={"exact": False, "min_jaccard": None}, decontamination=None
    )
    assert report["duplicate_ids"] == 69_999
    assert read_kept(tmp_path)["id"].n_unique() == 70_000


def test_records_that_differ_in_their_domain_alone(tmp_path: Path) -> None:
    """Whichever came first was kept: with equal ids and texts nothing else decided between them."""
    rows = [{"id": "same", "text": make_text(0), "source": "s", "domain": domain} for domain in ("two", "one", "three")]
    for number, order in enumerate((rows, rows[::-1])):
        run_corpus(tmp_path / str(number), {"same.jsonl": as_lines(order)})
        assert read_kept(tmp_path / str(number)).select("id", "domain").rows() == [("files:same", "one")]


def test_caps_and_mixing_together(tmp_path: Path) -> None:
    """A document that is mixed in twice takes twice its bytes of the cap."""
    lines = as_lines(make_rows(30))
    size = sum(len(row["text"]) for row in make_rows(30))
    params: dict[str, Any] = {"mixing": {"weights": {"*": 1}, "bytes": 2 * size, "max_epochs": 2}, "max_bytes": size}
    run_corpus(tmp_path / "a", {"rows.jsonl": lines}, **params)
    kept = read_kept(tmp_path / "a")
    assert set(kept["repeats"]) == {2}
    assert 0.85 * size < 2 * kept["text"].str.len_bytes().sum() <= size
    assert set(read_rejected(tmp_path / "a")["reason"]) == {"kept_max_bytes_or_documents"}
    run_corpus(tmp_path / "b", {"rows.jsonl": lines}, **params, max_documents=3)
    assert set(read_kept(tmp_path / "b")["id"]) < set(kept["id"])
    assert read_kept(tmp_path / "b").height == 3


# --- sizes ----------------------------------------------------------------------------------------------------------
def test_one_document(tmp_path: Path) -> None:
    assert run_corpus(tmp_path, {"one.txt": make_text(0).encode()})["total"]["kept"] == 1


def test_one_large_document(tmp_path: Path) -> None:
    source = random.Random(0)
    words = [make_text(n, 1) for n in range(5000)]
    large = "\n".join(" ".join(source.choices(words, k=12)) for _ in range(250_000)).encode()
    assert len(large) > 16e6  # more than a row group
    report = run_corpus(tmp_path, {"large.txt": large, **GOOD})
    assert report["total"]["kept"] == 13
    assert report["total"]["kept_bytes"] > 16e6


def test_a_hundred_thousand_tiny_documents_take_seconds(tmp_path: Path) -> None:
    """The limit is several times what it takes; it catches work per pair of documents, or per document and shard."""
    source = random.Random(0)
    words = [make_text(n, 1) for n in range(1000)]
    lines = as_lines([{"id": str(n), "text": " ".join(source.choices(words, k=6))} for n in range(100_000)])
    before = time.monotonic()
    report = run_corpus(tmp_path, {"tiny.jsonl": lines})
    assert report["total"]["documents"] == 100_000
    assert time.monotonic() - before < 60


# --- a full disk ----------------------------------------------------------------------------------------------------
@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Callable[[str], object]]:
    """A tmpfs at `folder`; yields a function that changes its size."""
    mount = shutil.which("mount")
    folder.mkdir(parents=True)
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        yield lambda new: subprocess.run([mount, "-o", f"remount,size={new}", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_leaves_the_former_artifacts_and_a_larger_one_finishes(tmp_path: Path) -> None:
    """At every size the run ends in an error known to mean a full disk, or in the result of an undisturbed run; what
    was published before is not touched."""
    files = {
        f"{part}.jsonl": as_lines([{"id": f"{part}-{n}", "text": make_text((part, n), 200)} for n in range(60)])
        for part in range(3)
    }
    run_corpus(tmp_path / "undisturbed", files)
    root = tmp_path / "small"
    published = root / "artifacts/corpus/report.json"
    published.parent.mkdir(parents=True)
    published.write_text("former")
    known: list[bool] = []  # not the errors themselves, whose frames hold open files
    with _small_disk(root / "work", "64k") as resize:
        for size in ("64k", "200k", "400k", "600k", "800k", "1000k", "100m"):
            resize(size)
            try:
                run_corpus(root, files)
            except (StageError, OSError, pl.exceptions.PolarsError) as error:
                known.append(disk_is_full(error))
            assert published.read_text() == "former"
        for name in ("documents/00000.parquet", "rejected/00000.parquet"):
            own, other = (folder / "work/corpus/out" / name for folder in (root, tmp_path / "undisturbed"))
            assert own.read_bytes() == other.read_bytes()
    assert len(known) >= 3 and all(known)


# --- every combination ----------------------------------------------------------------------------------------------
