"""The shards stage on real text: time and memory, and what packing costs against cropping.

    python -m benchmarks.packing stage --text DIR --out DIR [--copies 3] [--workers 2]
        encoding and packing with a vocabulary of 16,384: first run, another seed (encoding from the cache)
    python -m benchmarks.packing rows --out DIR
        after `stage`: utilisation, dropped tokens and cut documents of four ways to make rows, at three row lengths

DIR of --text holds Parquet files with columns id, text, domain. The text is written anew as the corpus stage does, in
files of about 48 MB; --copies takes it several times, to see what grows. Two quiet cores.
"""

import argparse
import bisect
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

FILE_BYTES = 48 << 20
VOCAB_SIZE = 16_384
TRAINING_BYTES = 20_000_000
LONGEST_TRAINING_TEXT = 10_000
SAMPLED_SECONDS = 0.05
ROW_LENGTHS = (256, 512, 2048)
USUAL_TOKENS = 2048
BUFFER_DOCUMENTS = 1000
"""Documents best-fit cropping chooses from, as nanochat's loader does."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stage", "rows", "run"])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.what == "run":
        run_stage(arguments.out, arguments.workers, arguments.seed)
        return
    print(json.dumps(stage(arguments) if arguments.what == "stage" else rows(arguments.out), indent=2))


def stage(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak memory of all processes together; of a first run, and of one that finds the ids encoded."""
    root = arguments.out
    shutil.rmtree(root / "artifacts", ignore_errors=True)
    shutil.rmtree(root / "work", ignore_errors=True)
    size = _write_corpus(arguments.text, root, arguments.copies)
    found: dict[str, Any] = {"text_bytes": size, "copies": arguments.copies, "workers": arguments.workers}
    for name, seed in (("first run", 0), ("another seed", 1)):
        shutil.rmtree(root / "work/shards/out", ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.packing", "run", "--out", str(root)]
        command += ["--workers", str(arguments.workers), "--seed", str(seed)]
        found[name] = _watched(command)
    manifest = json.loads((root / "work/shards/out/manifest.json").read_text())
    for split in ("train", "val"):
        section = manifest[split]
        found[split] = {name: value for name, value in section.items() if name not in ("files", "domains")}
        found[split]["files"] = len(section["files"])
        found[split]["utilisation"] = section["tokens"] / (section["tokens"] + section["padding"])
    return found


def run_stage(root: Path, workers: int, seed: int) -> None:
    """The stage in this process, as the runner would call it."""
    from tasks._context import EventLog, StageContext
    from tasks._runtime import Runtime
    from tasks.shards.stage import Params, run
    from tasks.stages import Stage

    out, resume = root / "work/shards/out", root / "work/shards/resume"
    out.mkdir(parents=True)
    params = Params(tokens_per_row=512, seed=seed)
    runtime = Runtime(device="cpu", workers=workers)
    run(StageContext(Stage.SHARDS, params, runtime, root, out, resume, EventLog(resume / "events.jsonl")))


def _write_corpus(text: Path, root: Path, copies: int) -> int:
    """The corpus in files as large as those of the corpus stage, and a tokenizer learned from 20 MB of it."""
    import polars as pl

    from model.tokenizer import train_tokenizer_json

    folder = root / "artifacts/corpus/documents"
    folder.mkdir(parents=True)
    table = pl.read_parquet(sorted(text.glob("*.parquet")), columns=["id", "text", "domain"]).unique(
        "id", keep="first", maintain_order=True
    )
    table = table.sample(fraction=1.0, shuffle=True, seed=0)  # files of the corpus stage hold ranges of hashes
    size = int(table["text"].str.len_bytes().sum())
    files = max(1, -(-size // FILE_BYTES))
    for copy in range(copies):
        own = table.with_columns(pl.format("{}#{}", "id", pl.lit(copy))) if copy else table
        for number in range(files):
            own.gather_every(files, number).sort("id").write_parquet(folder / f"{copy * files + number:05d}.parquet")
    beginnings = table["text"].str.slice(0, LONGEST_TRAINING_TEXT)
    chosen = beginnings.filter(beginnings.str.len_bytes().cast(pl.Int64).cum_sum() <= TRAINING_BYTES)
    target = root / "artifacts/tokenizer/tokenizer.json"
    target.parent.mkdir()
    target.write_text(train_tokenizer_json(chosen, VOCAB_SIZE), encoding="utf-8")
    return size * copies


def _watched(command: list[str]) -> dict[str, float]:
    peak = [0]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    root = psutil.Process(process.pid)

    def watch() -> None:
        while process.poll() is None:
            try:
                family = [root, *root.children(recursive=True)]
                peak[0] = max(peak[0], sum(member.memory_info().rss for member in family))
            except psutil.Error:
                pass  # a worker has just ended
            time.sleep(SAMPLED_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} failed with {code}")
    return {"seconds": round(seconds, 1), "peak_rss_gb": round(peak[0] / 1e9, 2)}


def rows(root: Path) -> list[dict[str, Any]]:
    """One line per way and row length: over all documents, and over those of usual length on the web alone."""
    import polars as pl

    table = pl.read_parquet(root / "work/shards/out/documents.parquet")
    every = np.random.default_rng(0).permutation(table["tokens"].to_numpy())
    chosen = {"all": every, f"up to {USUAL_TOKENS} tokens": every[every <= USUAL_TOKENS]}
    ways: dict[str, Callable[[np.ndarray, int], dict[str, float]]] = {
        "split, then best-fit decreasing": pack,
        "best-fit crop, buffer of 1000": best_fit_crop,
        "concatenation": concatenate,
        "a row per document": own_rows,
    }
    found = []
    for (documents, lengths), tokens_per_row in itertools.product(chosen.items(), ROW_LENGTHS):
        for name, way in ways.items():
            started = time.perf_counter()
            figures = way(lengths, tokens_per_row)
            seconds = round(time.perf_counter() - started, 3)
            row = {"documents": documents, "tokens_per_row": tokens_per_row, "way": name}
            found.append({**row, **figures, "seconds": seconds})
    return found


def pack(lengths: np.ndarray, tokens_per_row: int) -> dict[str, float]:
    """What the shards stage does with one window of these documents."""
    from tasks.shards.packing import plan_rows

    plan = plan_rows(lengths, tokens_per_row, 0.005)
    pieces = np.bincount(plan.document, minlength=len(lengths))
    cut = ((pieces > 1) & (lengths <= tokens_per_row)).mean()
    return _figures(plan.ids, plan.rows * (tokens_per_row + 1), 0, int(lengths.sum()), float(cut))


def best_fit_crop(lengths: np.ndarray, tokens_per_row: int) -> dict[str, float]:
    """Rows without padding: the longest document of a buffer that still fits, and when none does, the shortest one
    cropped to the room that is left. A document begins with BOS; one longer than a row always loses its end.

    Ends when no document is left to fill the buffer; those still in it count neither as packed nor as dropped.
    """
    width, documents = tokens_per_row + 1, (lengths + 1).tolist()
    buffer = sorted(documents[:BUFFER_DOCUMENTS])
    rows = dropped = cut = taken = 0
    following = iter(documents[BUFFER_DOCUMENTS:])
    room = width
    for arriving in following:
        place = bisect.bisect_right(buffer, room)
        size = buffer.pop(place - 1 if place else 0)
        taken += size
        if size > room:
            dropped, cut = dropped + size - room, cut + (size <= width)
        room -= min(size, room)
        if not room:
            rows, room = rows + 1, width
        bisect.insort(buffer, arriving)
    used = len(documents) - len(buffer)
    return _figures(taken - dropped, rows * width + width - room, dropped, taken, cut / max(1, used))


def concatenate(lengths: np.ndarray, tokens_per_row: int) -> dict[str, float]:
    """All documents one after the other, cut wherever a row ends: nothing is lost, rows begin anywhere."""
    ends = np.cumsum(lengths + 1)
    width = tokens_per_row + 1
    crosses = (ends - 1) // width != (ends - lengths - 1) // width
    cut = (crosses & (lengths <= tokens_per_row)).mean()
    ids = int(ends[-1])
    return _figures(ids, -(-ids // width) * width, 0, int(lengths.sum()), float(cut))


def own_rows(lengths: np.ndarray, tokens_per_row: int) -> dict[str, float]:
    """No packing: every document begins a row, and its end is padded."""
    counts = np.maximum(1, -(-lengths // tokens_per_row))
    ids = int(lengths.sum() + counts.sum())
    return _figures(ids, int(counts.sum()) * (tokens_per_row + 1), 0, int(lengths.sum()), 0.0)


def _figures(ids: int, places: int, dropped: int, tokens: int, cut: float) -> dict[str, float]:
    return {
        "utilisation_percent": round(100 * ids / places, 3),
        "dropped_percent": round(100 * dropped / tokens, 2),
        "cut_although_they_fit_percent": round(100 * cut, 2),
    }


if __name__ == "__main__":
    main()
