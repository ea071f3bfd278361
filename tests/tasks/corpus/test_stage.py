"""The corpus stage as a whole, on small files."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks._errors import StageError
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.corpus.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context

WORDS = ["the", "of", "model", "token", "row", "loss", "learning", "document", "about", "which", "because", "pipeline"]
RARE = [
    f"{start}{end}" for start in ("plan", "cart", "mist", "port", "lamb") for end in ("er", "ing", "al", "ed", "ous")
]
FILES = [{"kind": "files", "glob": "**/*.jsonl"}]


def _rows(count: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Distinct documents, then one exact copy, one near copy and one too short, all three with late ids."""
    source = random.Random(seed)
    texts = [" ".join(source.choices([*WORDS, *RARE], k=80)) for _ in range(count)]
    rows = [{"id": f"a{i:03d}", "text": text, "domain": "one" if i % 2 else "two"} for i, text in enumerate(texts)]
    rows.append({"id": "z-copy", "text": texts[3].upper() + "!", "domain": "one"})
    rows.append({"id": "z-near", "text": texts[5] + " and two more", "domain": "one"})
    rows.append({"id": "z-short", "text": "too short", "domain": "two"})
    return rows


def _run(root: Path, rows: list[dict[str, str]], files: int = 1, workers: int = 1, **params: Any) -> Path:
    folder = root / "data/text"
    folder.mkdir(parents=True)
    for number in range(files):
        part = rows[number::files]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    values = validate(Params, {"sources": FILES, **params}, "test")
    context = make_context(root, Stage.CORPUS, values, runtime=Runtime(workers=workers))
    run(context)
    return context.out


def _kept(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "documents/*.parquet")


def _rejected(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "rejected/*.parquet")


def test_documents_in_equal_kept_plus_dropped_with_reasons(tmp_path: Path) -> None:
    rows = _rows()
    out = _run(tmp_path, rows)
    kept, rejected = _kept(out), _rejected(out)
    assert kept.columns == ["id", "text", "source", "domain", "title", "kind"]
    assert kept["id"].is_sorted()
    assert sorted([*kept["id"], *rejected["id"]]) == sorted(f"files:0.jsonl#{row['id']}" for row in rows)
    found = {row["id"].split("#")[1]: row for row in rejected.iter_rows(named=True)}
    assert {name: row["reason"] for name, row in found.items()} == {
        "z-copy": "exact_duplicate",
        "z-near": "near_duplicate",
        "z-short": "min_characters",
    }
    assert found["z-copy"]["cluster_id"] == "files:0.jsonl#a003"
    assert found["z-near"]["cluster_id"] == "files:0.jsonl#a005"
    assert 0.7 <= found["z-near"]["value"] < 1
    assert (found["z-short"]["value"], found["z-short"]["sample"]) == (9.0, "too short")
    report = json.loads((out / "report.json").read_text())
    assert report["total"] == {
        "documents": 63,
        "kept": 60,
        "dropped": 3,
        "bytes": sum(len(row["text"]) for row in rows),
        "kept_bytes": int(kept["text"].str.len_bytes().sum()),
    }
    for domain in report["domains"].values():
        assert domain["in"] == domain["kept"] + sum(domain["dropped"].values())
    assert "exact_duplicate | 1" in (out / "report.md").read_text()


def test_order_workers_and_repetition_do_not_change_the_result(tmp_path: Path) -> None:
    """Ids carry the file name, so the same rows are shuffled within two files and read by one and by two workers."""
    rows = _rows()
    first = _run(tmp_path / "a", rows, files=1)
    again = _run(tmp_path / "b", random.Random(1).sample(rows, len(rows)), files=1)
    assert (first / "documents/00000.parquet").read_bytes() == (again / "documents/00000.parquet").read_bytes()
    assert (first / "report.json").read_bytes() == (again / "report.json").read_bytes()
    one, two = _run(tmp_path / "c", rows, files=2), _run(tmp_path / "d", rows, files=2, workers=2)
    for name in ("documents/00000.parquet", "rejected/00000.parquet", "report.json", "report.md"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_caps_take_a_prefix_of_the_hash_order(tmp_path: Path) -> None:
    rows = _rows()
    small = _kept(_run(tmp_path / "a", rows, max_documents=10))
    large = _kept(_run(tmp_path / "b", rows, max_bytes=12_000))
    assert small.height == 10
    assert 10 < large.height < 60
    assert large["text"].str.len_bytes().sum() <= 12_000
    assert set(small["id"]) < set(large["id"])
    rejected = _rejected(tmp_path / "a/work/corpus/out")
    assert small.height + rejected.height == 63
    with pytest.raises(StageError, match="no document fits max_bytes=10"):
        _run(tmp_path / "c", rows, max_bytes=10)


def test_one_domain_may_have_other_thresholds(tmp_path: Path) -> None:
    loose = {"two": {"min_characters": 0, "min_words": 0}}
    out = _run(tmp_path, _rows(), quality_by_domain=loose)
    assert "files:0.jsonl#z-short" in _kept(out)["id"].to_list()


def test_equal_ids_are_made_unique(tmp_path: Path) -> None:
    rows = [{**row, "id": "same"} for row in _rows(10)[:10]]
    ids = _kept(_run(tmp_path, rows))["id"]
    assert ids.n_unique() == 10
    assert "files:0.jsonl#same" in ids.to_list()
    assert "files:0.jsonl#same#2" in ids.to_list()


def test_too_many_bad_records_fail_with_samples(tmp_path: Path) -> None:
    rows = [*_rows(), {"no_text": "x"}]
    out = _run(tmp_path / "a", rows, max_bad_fraction=0.02)
    report = json.loads((out / "report.json").read_text())
    assert (report["records"], report["bad_records"]) == (64, 1)
    assert report["bad_record_samples"][0]["line"] == 64
    with pytest.raises(StageError, match=r"1 of 64 records(.|\n)*0.jsonl:64: no text"):
        _run(tmp_path / "b", rows, max_bad_fraction=0.01)


def test_dropping_nearly_everything_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        StageError,
        match=r"63 of 63 documents are dropped.*min_characters 63; next: loosen corpus.quality.min_characters",
    ):
        _run(tmp_path / "a", _rows(), quality={"min_characters": 10_000})
    with pytest.raises(StageError, match=r"max_dropped_fraction=0\.01"):
        _run(tmp_path / "b", _rows(), max_dropped_fraction=0.01)


def test_parameters_are_checked(tmp_path: Path) -> None:
    for values, message in [
        ({"sources": []}, "at least 1 item"),
        ({"sources": [{"kind": "web"}]}, "python_docs"),
        ({"sources": FILES, "quality_by_domain": {"x": {"min_wrods": 1}}}, "min_wrods"),
        ({"min_jacard": 0.5}, "unknown key 'min_jacard'"),
    ]:
        with pytest.raises(StageError, match=message):
            validate(Params, values, "params.yaml")


def test_python_docs_source_caps_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole stage on the topics and one package; the standard library is left out for speed."""
    monkeypatch.setattr("tasks.corpus.python_docs._standard_library", list)
    (tmp_path / "requirements.lock").write_text("pyyaml==6.0\nhttpx==0.1\n")
    values = validate(Params, {"sources": [{"kind": "python_docs", "max_bytes": 200_000}]}, "test")
    context = make_context(tmp_path, Stage.CORPUS, values)
    run(context)
    kept, rejected = _kept(context.out), _rejected(context.out)
    assert set(kept["domain"]) == {"packages", "topics", "descriptions"}
    capped = rejected.filter(pl.col("reason") == "source_max_bytes")
    assert capped.height > 0
    report = json.loads((context.out / "report.json").read_text())
    assert report["total"]["documents"] == kept.height + rejected.height
    assert report["total"]["kept_bytes"] <= 200_000
