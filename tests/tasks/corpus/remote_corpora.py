"""A hub and plain addresses on loopback, for tests of the whole stage."""

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from tasks._params import validate
from tasks._runtime import Runtime
from tasks.corpus.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.corpus.sources.hub_server import HubServer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FUNCTION_WORDS = ["the", "of", "and", "to", "that", "with", "have", "be"]
FILES = 5
ROWS = 6


def file_name(number: int) -> str:
    return f"data/{number:03d}.parquet"


def make_rows(seed: int, count: int = ROWS, words: int = 80) -> list[dict[str, str]]:
    """Documents of made-up words, so that no two are near each other; they name their source themselves, since one
    without is named after its file."""
    source = random.Random(seed)
    made_up = ["".join(source.choices(LETTERS, k=source.randint(3, 8))) for _ in range(400)]
    return [
        {
            "id": f"{seed}-{row}",
            "text": " ".join(source.choices([*made_up, *FUNCTION_WORDS * 12], k=words)),
            "source": f"page {seed}-{row}",
        }
        for row in range(count)
    ]


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    content = io.BytesIO()
    pl.DataFrame(rows).write_parquet(content)
    return content.getvalue()


def as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def hub_source(server: HubServer, **options: Any) -> dict[str, Any]:
    return {"kind": "hub", "dataset": "owner/name", "endpoint": server.url, "domain": "web", **options}


def url_source(server: HubServer, *names: str, **options: Any) -> dict[str, Any]:
    return {"kind": "url", "urls": [server.address(name) for name in names], "domain": "web", **options}


def run_corpus(root: Path, *sources: dict[str, Any], workers: int = 1, **params: Any) -> Path:
    (root / "data/benchmarks").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "work/corpus/out", ignore_errors=True)
    values = validate(Params, {"sources": sources, **params}, "test")
    context = make_context(root, Stage.CORPUS, values, runtime=Runtime(workers=workers))
    run(context)
    return context.out


def read_kept(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "documents/*.parquet")


def read_report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def same_content(one: Path, two: Path) -> None:
    for name in ("documents/00000.parquet", "rejected/00000.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def raw_files(root: Path) -> list[Path]:
    """Downloaded files that lie on disk whole."""
    found = (root / "work/corpus/fetched").rglob("*.[jp]*")
    return [path for path in found if path.is_file() and not path.name.endswith((".part", ".part.json"))]


def read_pins(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "data/pins").iterdir())]


def fetched_names(server: HubServer, since: int = 0) -> list[str]:
    """Names of the files asked for."""
    return sorted(
        next(name for name in server.files if seen.path.endswith(name))
        for seen in server.seen[since:]
        if not seen.path.startswith("/api/")
    )


def never(*_: object) -> None:
    raise AssertionError("a cached unit was computed again")
