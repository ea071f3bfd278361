"""Row files: <split>_NNNNN.bin with the rows, <split>_NNNNN.pieces.npy with what lies where in them."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.shards.encoding import read_ids
from tasks.shards.packing import Plan, piece_type, plan_rows, shuffled, write_pieces
from tasks.shards.windows import Window

SPLITS = ("train", "val")


class Layout(NamedTuple):
    """How rows are written."""

    tokens_per_row: int
    max_padding_fraction: float
    bos_id: int
    pad_id: int
    dtype: str
    seed: int


class RowFile(NamedTuple):
    """A written file: its entry in the manifest, and what it adds to the statistics of its split."""

    entry: dict[str, Any]
    counts: dict[str, int]


def write_row_file(
    folder: str, split: str, number: int, units: list[str], windows: list[Window], layout: Layout
) -> RowFile:
    """Pack windows one after the other into one row file; rows are shuffled within a window. Runs in a worker."""
    name = f"{split}_{number:05d}"
    digest, rows, counts = hashlib.sha256(), 0, dict.fromkeys(COUNTS, 0)
    pieces = [np.zeros(0, piece_type(layout.tokens_per_row))]
    with (Path(folder) / f"{name}.bin").open("wb") as target:
        for window in windows:
            plan = plan_rows(window.tokens, layout.tokens_per_row, layout.max_padding_fraction)
            plan = shuffled(plan, (layout.seed, SPLITS.index(split), window.number))
            content = _rows(plan, units, window, layout)
            target.write(content)
            digest.update(content)
            pieces.append(_entries(plan, rows, window, layout))
            rows += plan.rows
            for key, value in _count(plan, window, layout).items():
                counts[key] += value
    path = Path(folder) / f"{name}.pieces.npy"
    np.save(path, np.concatenate(pieces), allow_pickle=False)
    with path.open("rb") as file:
        pieces_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    entry = {"name": f"{name}.bin", "rows": rows, "sha256": digest.hexdigest(), "pieces_sha256": pieces_sha256}
    return RowFile(entry, counts)


def _rows(plan: Plan, units: list[str], window: Window, layout: Layout) -> memoryview:
    ids = read_ids(units, window.file, window.first, window.tokens, layout.dtype)
    starts = np.cumsum(window.tokens.astype(np.int64)) - window.tokens
    rows = write_pieces(plan, ids, starts, layout.tokens_per_row, layout.bos_id, layout.pad_id, layout.dtype)
    return rows.reshape(-1).view(np.uint8).data


def _entries(plan: Plan, first_row: int, window: Window, layout: Layout) -> NDArray[Any]:
    entries = np.empty(len(plan.row), piece_type(layout.tokens_per_row))
    entries["row"], entries["start"], entries["stop"] = plan.row + first_row, plan.start, plan.stop
    entries["document"], entries["offset"] = window.document[plan.document], plan.offset
    return entries


COUNTS = ("tokens", "padding", "split_documents", "cut_documents", "continuation_bos")
"""tokens: ids in rows, BOS included; split: documents in several pieces; cut: those of them that a row could hold;
continuation_bos: pieces beyond the first of each document."""


def _count(plan: Plan, window: Window, layout: Layout) -> dict[str, int]:
    pieces = np.bincount(plan.document, minlength=len(window.tokens))
    # Tokens in = tokens packed: every document's tokens, and a BOS per piece.
    assert plan.ids == int(window.tokens.sum(dtype=np.int64)) + len(plan.row), "packing lost or repeated tokens"
    split = pieces > 1
    return {
        "tokens": plan.ids,
        "padding": plan.rows * (layout.tokens_per_row + 1) - plan.ids,
        "split_documents": int(split.sum()),
        "cut_documents": int((split & (window.tokens <= layout.tokens_per_row)).sum()),
        "continuation_bos": len(plan.row) - len(window.tokens),
    }
