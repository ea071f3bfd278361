"""Small corpora for tests of the whole stage."""

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks._params import validate
from tasks._runtime import Runtime
from tasks.corpus.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context

EVERYTHING = [{"kind": "files", "glob": "**/*"}]
LOOSE = {"quality": {"recipes": []}, "max_bad_fraction": 1.0, "max_dropped_fraction": 1.0}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_text(seed: object, words: int = 60) -> str:
    source = random.Random(str(seed))
    return " ".join("".join(source.choices(LETTERS, k=source.randint(2, 9))) for _ in range(words))


def make_rows(count: int = 12) -> list[dict[str, Any]]:
    return [{"id": f"a{n:03d}", "text": make_text(n), "source": f"page {n}"} for n in range(count)]


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(table: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), content, **options)
    return content.getvalue()


def run_corpus(root: Path, files: dict[str, bytes], workers: int = 1, **params: Any) -> dict[str, Any]:
    """Run the stage on these files; checks that nothing is lost, returns the report."""
    (root / "data/benchmarks").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "data/text", ignore_errors=True)
    shutil.rmtree(root / "work/corpus/out", ignore_errors=True)
    (root / "data/text").mkdir()
    for name, content in files.items():
        target = root / "data/text" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    values = validate(Params, {"sources": EVERYTHING, **LOOSE, **params}, "test")
    context = make_context(root, Stage.CORPUS, values, runtime=Runtime(workers=workers))
    run(context)
    report = json.loads((context.out / "report.json").read_text())
    kept, rejected = read_kept(root), read_rejected(root)
    assert report["records"] == kept.height + rejected.height + report["unreadable"]
    assert (report["total"]["kept"], report["total"]["dropped"]) == (kept.height, rejected.height)
    assert sum(shard["records"] for shard in report["shards"]) == report["records"]
    return report


def read_kept(root: Path) -> pl.DataFrame:
    return pl.read_parquet(root / "work/corpus/out/documents/*.parquet")


def read_rejected(root: Path) -> pl.DataFrame:
    return pl.read_parquet(root / "work/corpus/out/rejected/*.parquet")


def bad_records(report: dict[str, Any]) -> list[tuple[str, int]]:
    return [(sample["file"], sample["line"]) for sample in report["unreadable_samples"]]


GOOD = {"good.jsonl": as_lines(make_rows())}
STRINGS = pa.array([make_text(n) for n in range(40, 60)])
