"""Show packed rows as text: `python -m tasks.shards.inspect artifacts/shards [--split val] [--row 7]`."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from model.tokenizer import Tokenizer


def describe_row(tokenizer: Tokenizer, ids: list[int], pad_id: int) -> str:
    """A row as readable text: one block per document or piece of one, padding counted at the end."""
    lines: list[str] = []
    starts = [place for place, number in enumerate(ids) if number == tokenizer.bos_id]
    end = next((place for place, number in enumerate(ids) if number == pad_id), len(ids))
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        lines.append(f"--- position {start}: {stop - start} tokens")
        lines.append(tokenizer.decode(ids[start + 1 : stop]))
    lines.append(f"--- padding: {len(ids) - end} tokens")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print one row, or the first three."""
    parser = argparse.ArgumentParser(prog="python -m tasks.shards.inspect", description="Show packed rows as text.")
    parser.add_argument("folder", type=Path, help="a folder with manifest.json, such as artifacts/shards")
    parser.add_argument("--split", default="train", help="train or val (default: train)")
    parser.add_argument("--row", type=int, help="row number; without it the first three")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json (default: ../tokenizer/ beside the folder)")
    options = parser.parse_args(arguments)
    try:
        print(_show(options.folder, options.split, options.row, options.tokenizer))
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _show(folder: Path, split: str, row: int | None, tokenizer_path: Path | None) -> str:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(tokenizer_path or folder.resolve().parent / "tokenizer" / "tokenizer.json")
    if tokenizer.sha256 != manifest["tokenizer_sha256"]:
        raise ValueError(f"{folder} was written with another tokenizer; next: name that one with --tokenizer")
    if split not in manifest or not isinstance(manifest[split], dict):
        raise ValueError(f"{folder} has no split {split!r}; next: --split train or --split val")
    count = manifest[split]["rows"]
    if row is not None and not 0 <= row < count:
        raise ValueError(f"split {split!r} has no row {row}; allowed: 0..{count - 1}")
    wanted = range(min(3, count)) if row is None else [row]
    dtype, width = np.dtype(manifest["dtype"]).newbyteorder("<"), manifest["tokens_per_row"] + 1
    blocks, first = [], 0
    for file in manifest[split]["files"]:
        rows = np.fromfile(folder / file["name"], dtype).reshape(file["rows"], width)
        for number in wanted:
            if first <= number < first + file["rows"]:
                text = describe_row(tokenizer, rows[number - first].tolist(), manifest["pad_id"])
                blocks.append(f"===== {split} row {number} of {count}\n{text}")
        first += file["rows"]
    return "\n".join(blocks)


if __name__ == "__main__":
    sys.exit(main())
