"""The corpus stage as a whole, on small files."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks._context import read_events
from tasks._errors import StageError
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.corpus import passes
from tasks.corpus.records import Document
from tasks.corpus.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context

WORDS = ["the", "of", "model", "token", "row", "loss", "learning", "document", "about", "which", "because", "pipeline"]
RARE = [
    f"{start}{end}" for start in ("plan", "cart", "mist", "port", "lamb") for end in ("er", "ing", "al", "ed", "ous")
]
FILES = [{"kind": "files", "glob": "**/*.jsonl"}]


def _rows(count: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Distinct documents, then one exact copy, one longer near copy and one too short."""
    source = random.Random(seed)
    texts = [" ".join(source.choices([*WORDS, *RARE], k=80)) for _ in range(count)]
    rows = [{"id": f"a{i:03d}", "text": text, "domain": "one" if i % 2 else "two"} for i, text in enumerate(texts)]
    rows.append({"id": "z-copy", "text": texts[3].upper() + "!", "domain": "one"})
    rows.append({"id": "z-near", "text": texts[5] + " and two more", "domain": "one"})
    rows.append({"id": "z-short", "text": "too short", "domain": "two"})
    return rows


def _run(root: Path, rows: list[dict[str, str]], files: int = 1, workers: int = 1, **params: Any) -> Path:
    for name in ("benchmarks", "earlier", "quality"):
        (root / "data" / name).mkdir(parents=True, exist_ok=True)
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
    assert kept.columns == [*Document._fields, "cluster_id", "repeats"]
    assert kept["id"].is_sorted()
    assert sorted([*kept["id"], *rejected["id"]]) == sorted(f"files:{row['id']}" for row in rows)
    found = {row["id"].removeprefix("files:"): row for row in rejected.iter_rows(named=True)}
    assert {name: row["reason"] for name, row in found.items()} == {
        "a003": "exact_duplicate",
        "a005": "near_duplicate",
        "z-short": "min_characters",
    }
    # Of a cluster the longest text stays: the upper-case copy with one more character, the near copy with three words.
    assert found["a003"]["cluster_id"] == "files:z-copy"
    assert found["a005"]["cluster_id"] == "files:z-near"
    clusters = dict(zip(kept["id"], kept["cluster_id"], strict=True))
    assert clusters["files:z-near"] == "files:z-near"
    assert clusters["files:a001"] is None
    assert 0.7 <= found["a005"]["value"] < 1
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


WRITTEN = ("documents/00000.parquet", "rejected/00000.parquet")


def _same_content(one: Path, two: Path) -> None:
    for name in WRITTEN:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_order_shards_and_workers_do_not_change_what_is_written(tmp_path: Path) -> None:
    """The same rows in one file, shuffled, dealt out to three files, and read by two workers; sources are named in the
    rows, since a row without one is named after its file."""
    rows = [{**row, "source": f"page {row['id']}"} for row in _rows()]
    first = _run(tmp_path / "a", rows)
    shuffled = random.Random(1).sample(rows, len(rows))
    for name, variant in (
        ("b", _run(tmp_path / "b", shuffled)),
        ("c", _run(tmp_path / "c", rows, files=3)),
        ("d", _run(tmp_path / "d", shuffled, files=3, workers=2)),
    ):
        _same_content(first, variant)
        ours, theirs = (json.loads((out / "report.json").read_text()) for out in (first, variant))
        assert {**ours, "shards": 0} == {**theirs, "shards": 0}, name
        assert sum(shard["in"] for shard in theirs["shards"]) == len(rows)


def test_a_changed_threshold_reads_and_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(tmp_path, _rows())
    for module in ("tasks.corpus.reading", "tasks.corpus.passes"):
        for name in ("read", "measure", "sign"):
            monkeypatch.setattr(f"{module}.{name}", _never, raising=False)
    middle = sorted(len(row["text"]) for row in _rows())[30]
    out = _again(tmp_path, quality={"min_characters": middle})
    counted = [
        event["values"]
        for event in read_events(tmp_path / "work/corpus/resume/events.jsonl")
        if event["event"] == "amounts"
    ]
    assert counted[0]["new_bytes"] == counted[0]["raw_bytes"] > 0 == counted[1]["new_bytes"]
    dropped = _rejected(out).filter(pl.col("reason") == "min_characters")
    assert dropped.height == sum(len(row["text"]) < middle for row in _rows())
    assert set(dropped["threshold"]) == {float(middle)}


def _never(*_: object) -> None:
    raise AssertionError("a cached unit was computed again")


def _again(root: Path, **params: Any) -> Path:
    """Another run on the same files, with what earlier runs left in the cache."""
    shutil.rmtree(root / "work/corpus/out")
    values = validate(Params, {"sources": FILES, **params}, "test")
    context = make_context(root, Stage.CORPUS, values)
    run(context)
    return context.out


def test_a_run_cut_short_leaves_nothing_that_counts_and_finished_units_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of four shards fails to be measured; the next run measures that one and the last, and no other."""
    calls: list[str] = []
    measure = passes.measure

    def failing(out: Path, shard: str) -> None:
        calls.append(shard)
        measure(out, shard)
        if len(calls) == 3:
            raise OSError("killed here")

    monkeypatch.setattr(passes, "measure", failing)
    with pytest.raises(OSError, match="killed here"):
        _run(tmp_path / "a", _rows(), files=4)
    units = list((tmp_path / "a/work/corpus/cache/measure").iterdir())
    assert len(units) >= 2
    assert not [unit for unit in units if unit.name.startswith(".")]
    before = len(calls)
    out = _again(tmp_path / "a")
    assert 1 <= len(calls) - before <= 2
    _same_content(out, _run(tmp_path / "b", _rows(), files=4))


def test_documents_of_benchmarks_are_left_out_and_reported(tmp_path: Path) -> None:
    rows = _rows()
    planted = rows[7]["text"].split()[20:36]
    question = " ".join(planted).upper().replace(" ", ", ")
    folder = tmp_path / "data/benchmarks"
    folder.mkdir(parents=True)
    items = [
        {"query": question, "choices": ["a", "b"], "gold": 0},
        {"query": "one two three", "choices": [], "gold": 0},
    ]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    out = _run(tmp_path, rows)
    dropped = _rejected(out).filter(pl.col("reason") == "contaminated")
    assert dropped.select("id", "threshold").rows() == [("files:a007", 1.0)]
    assert dropped["value"][0] == len(planted) - 12
    report = json.loads((out / "report.json").read_text())["benchmarks"]["quiz"]
    assert (report["items"], report["searchable"], report["items_found"], report["documents"]) == (2, 1, 1, 1)
    assert report["samples"][0]["words"] == " ".join(planted[:13])
    kept = _kept(_again(tmp_path, decontamination=None))
    assert "files:a007" in kept["id"].to_list()


def test_a_later_crawl_is_deduplicated_against_the_index_of_an_earlier_one(tmp_path: Path) -> None:
    rows = _rows()
    first = _run(tmp_path / "first", rows, duplicates={"write_index": True})
    fresh = _rows(count=20, seed=9)[:20]
    changed = {"id": "longer", "text": rows[8]["text"] + " with some more words"}
    later = [{**row, "id": f"b{row['id']}"} for row in fresh] + [{**rows[4], "id": "again"}, changed]
    shutil.copytree(first / "index", tmp_path / "second/data/earlier/crawls")
    out = _run(tmp_path / "second", later, duplicates={"earlier": "crawls"})
    dropped = {row["id"]: row for row in _rejected(out).iter_rows(named=True)}
    assert {name: (row["reason"], row["cluster_id"]) for name, row in dropped.items()} == {
        "files:again": ("exact_duplicate", "files:a004"),
        "files:longer": ("near_duplicate", "files:a008"),
    }
    assert _kept(out).height == 20


def test_paragraphs_of_many_documents_stay_in_one(tmp_path: Path) -> None:
    notice = (
        "Permission is granted to anyone to use this page for any purpose, and nobody is liable for anything in it."
    )
    rows = [{**row, "text": f"{row['text']}\n\n{notice}"} for row in _rows()[:12]]
    out = _run(tmp_path, rows, duplicates={"max_paragraph_documents": 3, "min_paragraph_characters": 60})
    texts = _kept(out)["text"].to_list()
    assert len(texts) == 12
    assert sum(notice in text for text in texts) == 1
    report = json.loads((out / "report.json").read_text())["total"]
    assert report["kept_bytes"] == sum(len(text.encode()) for text in texts)


def test_mixing_leaves_out_and_repeats_documents(tmp_path: Path) -> None:
    out = _run(tmp_path, _rows(), mixing={"weights": {"one": 3, "two": 1}, "max_epochs": 2.0})
    kept = _kept(out)
    sizes = kept.group_by("domain").agg((pl.col("text").str.len_bytes() * pl.col("repeats")).sum()).sort("domain")
    shares = sizes["text"] / sizes["text"].sum()
    assert shares[0] == pytest.approx(0.75, abs=0.03)  # a document is three hundredths of a domain
    assert set(kept["repeats"]) <= {1, 2}
    report = json.loads((out / "report.json").read_text())
    assert [row["domain"] for row in report["mixing"]] == ["one", "two"]
    assert report["dropped_by_reason"]["mixing"] > 0


def test_the_classifier_keeps_the_better_share_of_every_domain(tmp_path: Path) -> None:
    rows = _rows()
    for row in rows[:30]:
        row["text"] = " ".join(random.Random(row["id"]).choices(["buy", "cheap", "click", "offer", "now"], k=60))
    source = random.Random(3)
    for name, words in (("good", [*WORDS, *RARE]), ("bad", ["buy", "cheap", "click", "offer", "now"])):
        folder = tmp_path / "data/quality" / name
        folder.mkdir(parents=True)
        lines = [json.dumps({"text": " ".join(source.choices(words, k=50))}) for _ in range(60)]
        (folder / "examples.jsonl").write_text("\n".join(lines))
    out = _run(
        tmp_path, rows, classifier={"good": "good/*.jsonl", "bad": "bad/*.jsonl", "min_score": 0.5},
        quality={"recipes": []}, duplicates={"min_jaccard": None},
    )  # fmt: skip
    scored = _rejected(out).filter(pl.col("reason") == "classifier")
    assert scored.height == 30
    assert scored["value"].max() < 0.5
    assert json.loads((out / "report.json").read_text())["classifier"]["auc"] > 0.9


def test_blocked_addresses_are_left_out(tmp_path: Path) -> None:
    rows = [
        {**row, "url": f"https://{'spam.example' if n < 5 else 'good.example'}/{n}"} for n, row in enumerate(_rows())
    ]
    out = _run(tmp_path, rows, blocklist={"domains": ["spam.example"]})
    assert _rejected(out)["reason"].value_counts().sort("reason").rows()[0] == ("blocked_host", 5)


def test_the_guard_names_rules_that_take_everything(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"max_words|min_words \(1000\): removes 31 of 31"):
        _run(tmp_path, _rows(), quality={"min_words": 1000})


def test_the_guard_also_watches_duplicates(tmp_path: Path) -> None:
    rows = _rows()
    copies = [{"id": f"copy{n:02d}", "text": rows[0]["text"], "domain": "mirror"} for n in range(20)]
    with pytest.raises(StageError, match=r"exact_duplicate: removes 20 of 20 documents \(100.0%\) of domain mirror"):
        _run(tmp_path / "a", [*rows, *copies])
    out = _run(tmp_path / "b", [*rows, *copies], guard={"allow_drop": ["mirror:exact_duplicate"]})
    assert _rejected(out).filter(pl.col("domain") == "mirror").height == 20


def test_personal_data_is_replaced_and_counted(tmp_path: Path) -> None:
    rows = _rows()
    rows[0]["text"] += " Write to jane.doe@company.com today."
    out = _run(tmp_path, rows)
    text = _kept(out).filter(pl.col("id") == "files:a000")["text"][0]
    assert text.endswith("Write to <EMAIL> today.")
    report = json.loads((out / "report.json").read_text())
    assert report["text"]["two"]["email.replacements"] == 1


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
    loose = {"two": {"min_characters": 0, "min_words": None}}
    out = _run(tmp_path, _rows(), quality_by_domain=loose)
    assert "files:z-short" in _kept(out)["id"].to_list()


def test_equal_ids_are_made_unique(tmp_path: Path) -> None:
    rows = [{**row, "id": "same"} for row in _rows(10)[:10]]
    ids = _kept(_run(tmp_path, rows))["id"]
    assert ids.n_unique() == 10
    assert {"files:same", "files:same#2", "files:same#10"} <= set(ids)


def test_too_many_bad_records_fail_with_samples(tmp_path: Path) -> None:
    rows = [*_rows(), {"no_text": "x"}]
    out = _run(tmp_path / "a", rows, max_bad_fraction=0.02)
    report = json.loads((out / "report.json").read_text())
    assert (report["records"], report["unreadable"]) == (64, 1)
    assert report["unreadable_samples"][0]["line"] == 64
    with pytest.raises(StageError, match=r"1 of 64 records(.|\n)*0.jsonl:64: byte \d+: no text"):
        _run(tmp_path / "b", rows, max_bad_fraction=0.01)


def test_dropping_nearly_everything_is_an_error(tmp_path: Path) -> None:
    allowed = {"allow_drop": ["*"]}
    with pytest.raises(StageError, match=r"63 of 63 documents are dropped, 0 kept.*reasons: min_characters 63; next"):
        _run(tmp_path / "a", _rows(), quality={"min_characters": 10_000}, guard=allowed)
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
    monkeypatch.setattr("tasks.corpus.sources.python_docs._standard_library", list)
    (tmp_path / "requirements.lock").write_text("pyyaml==6.0\nhttpx==0.1\n")
    (tmp_path / "data/benchmarks").mkdir(parents=True)
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
