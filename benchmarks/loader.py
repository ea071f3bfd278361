"""Speed of the loader from the page cache: `python -m benchmarks.loader [--tokens 16000000 ...]`, one thread.

Random ids in row files as the shards stage writes them; the share of rows with padding is that of well packed text. The
row-by-row loader is the control: the straightforward way (one read, conversion and comparison per row). Seconds are CPU
seconds of the process, the best of several passes, so that other work on the machine counts as little as possible; a
pass over a prefetcher is timed by the clock, as two threads share it. Tokens per second and core; training consumes
what `python -m benchmarks.train_throughput` says.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from model.batches import Batch, RowBatches, write_rows
from model.prefetch import Prefetcher

INFO = {"vocab_size": 16_384, "bos_id": 16_375, "pad_id": 16_383, "tokenizer_sha256": "random"}
PADDED_SHARE = 0.05


def write_random_rows(folder: Path, rows: int, tokens_per_row: int, masked: bool) -> None:
    """A split `train` of random ids; a few rows end in padding."""
    draw = np.random.default_rng(0)
    ids = draw.integers(0, INFO["bos_id"], (rows, tokens_per_row + 1), dtype=np.int32)
    ids[:, 0] = INFO["bos_id"]
    ids[draw.random(rows) < PADDED_SHARE, -8:] = INFO["pad_id"]
    write_rows(folder, "train", ids, (ids % 2).astype(np.uint8) if masked else None, INFO)


def row_by_row(folder: Path, numbers: np.ndarray) -> Batch:
    """The control: what a loader does that handles each row on its own."""
    manifest = json.loads((folder / "manifest.json").read_text())
    width = manifest["tokens_per_row"] + 1
    entry = manifest["train"]["files"][0]
    stored = np.memmap(folder / entry["name"], "<u2", "r", shape=(entry["rows"], width))
    rows = [torch.from_numpy(stored[number].astype(np.int64)) for number in numbers]
    ids = torch.stack(rows)
    weights = torch.stack([(row[1:] != INFO["pad_id"]).float() for row in rows])
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights)


def best_seconds(run: Callable[[], object], passes: int, clock: Callable[[], float]) -> float:
    best = float("inf")
    for _ in range(passes):
        started = clock()
        run()
        best = min(best, clock() - started)
    return best


def measure(tokens_per_row: int, rows_per_step: int, options: argparse.Namespace) -> dict[str, float | int]:
    """One line of the table, in million tokens per second."""
    rows = options.tokens // tokens_per_row // rows_per_step * rows_per_step
    tokens = rows * tokens_per_row
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_rows(folder, rows, tokens_per_row, options.masked)
        batches = RowBatches(folder, "train", rows_per_step, seed=0)
        ahead = Prefetcher(RowBatches(folder, "train", rows_per_step, seed=0))
        steps = rows // rows_per_step
        order = np.random.default_rng(0).permutation(rows)

        def take(source: RowBatches | Prefetcher) -> Callable[[], None]:
            def run() -> None:
                for _ in range(steps):
                    source.next()

            return run

        def control() -> None:
            for step in range(steps):
                row_by_row(folder, order[step * rows_per_step : (step + 1) * rows_per_step])

        take(batches)()  # the page cache holds everything from here on
        rates = {
            "loader": best_seconds(take(batches), options.passes, time.process_time),
            "row_by_row": best_seconds(control, options.passes, time.process_time),
            "prefetched": best_seconds(take(ahead), options.passes, time.perf_counter),
        }
        ahead.close()
    speeds = {f"{what}_mtokens_per_second": round(tokens / seconds / 1e6, 1) for what, seconds in rates.items()}
    return {"tokens_per_row": tokens_per_row, "rows_per_step": rows_per_step, **speeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_000_000, help="tokens of the split")
    parser.add_argument("--tokens-per-row", type=int, nargs="+", default=[256, 512, 2048])
    parser.add_argument("--tokens-per-step", type=int, nargs="+", default=[8_192, 131_072])
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--masked", action="store_true", help="rows with a mask file, as conversations have")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    print(json.dumps({**versions, "machine": platform.machine(), **vars(options)}))
    for tokens_per_row in options.tokens_per_row:
        for tokens_per_step in options.tokens_per_step:
            print(json.dumps(measure(tokens_per_row, max(1, tokens_per_step // tokens_per_row), options)))


if __name__ == "__main__":
    main()
