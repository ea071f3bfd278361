"""Rows of token ids on disk, and the batches a training step takes from them.

A row folder holds `<split>_NNNNN.bin` (little-endian ids, row-major, tokens_per_row + 1 ids a row), for conversations
also `<split>_NNNNN.mask.bin` (uint8, same shape, 1 = this position is a supervised target), and manifest.json. Rows are
mapped, not read: memory does not grow with the data.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
ROWS_PER_FILE = 65_536


@dataclass
class Batch:
    """ids_BT and targets_BT (int64; target i follows id i) and weights_BT (float32; 0 = not supervised)."""

    ids_BT: Tensor  # noqa: N815 - shape suffix
    targets_BT: Tensor  # noqa: N815
    weights_BT: Tensor  # noqa: N815

    def rows(self, start: int, end: int) -> "Batch":
        """The micro-batch of rows [start, end)."""
        return Batch(self.ids_BT[start:end], self.targets_BT[start:end], self.weights_BT[start:end])

    def to(self, device: torch.device) -> "Batch":
        """Copy to the device; towards CUDA from pinned memory and without waiting."""
        if device.type == "cpu":
            return self
        parts = (self.ids_BT, self.targets_BT, self.weights_BT)
        if device.type == "cuda":
            return Batch(*(part.pin_memory().to(device, non_blocking=True) for part in parts))
        return Batch(*(part.to(device) for part in parts))


class RowFolder:
    """Read access to one split by row number; ValueError if manifest and files disagree."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.manifest = read_manifest(self.folder)
        if split not in self.manifest:
            raise ValueError(f"{folder}/manifest.json has no split {split!r}; next: build the rows again")
        section = self.manifest[split]
        self.tokens_per_row = int(self.manifest["tokens_per_row"])
        self.vocab_size, self.pad_id = int(self.manifest["vocab_size"]), int(self.manifest["pad_id"])
        self.masked = bool(self.manifest.get("masked", False))
        dtype, width = _DTYPES[self.manifest["dtype"]], self.tokens_per_row + 1
        self._ids = [self._map(f["name"], f["rows"], dtype, width) for f in section["files"]]
        self._masks = [
            self._map(_mask_name(f["name"]), f["rows"], np.dtype(np.uint8), width)
            for f in section["files"]
            if self.masked
        ]
        self._first_rows = np.cumsum([0] + [f["rows"] for f in section["files"]])
        self.rows = int(self._first_rows[-1])
        if self.rows != section["rows"]:
            raise ValueError(
                f"{folder}/manifest.json: split {split!r} names {section['rows']} rows, its files hold {self.rows}; "
                f"next: build the rows again"
            )

    def _map(self, name: str, rows: int, dtype: np.dtype, width: int) -> np.ndarray:
        path, expected = self.folder / name, rows * width * dtype.itemsize
        found = path.stat().st_size if path.exists() else None
        if found != expected:
            what = "is missing" if found is None else f"has {found} bytes"
            raise ValueError(f"{path} {what}; manifest.json says {expected}; next: build the rows again")
        if rows == 0:
            return np.zeros((0, width), dtype)
        return np.memmap(path, dtype, "r", shape=(rows, width))

    def batch(self, numbers: np.ndarray) -> Batch:
        """The rows with these numbers, in this order."""
        files = np.searchsorted(self._first_rows, numbers, side="right") - 1
        inside = numbers - self._first_rows[files]
        ids = np.empty((len(numbers), self.tokens_per_row + 1), np.int64)
        mask = np.empty(ids.shape, np.float32)
        for i, (file, row) in enumerate(zip(files, inside, strict=True)):
            ids[i] = self._ids[file][row]
            if self.masked:
                mask[i] = self._masks[file][row]
        if ids.size and ids.max() >= self.vocab_size:
            raise ValueError(f"{self.folder}: a row of split {self.split!r} holds id {ids.max()} >= {self.vocab_size}")
        if not self.masked:
            np.not_equal(ids, self.pad_id, out=mask, casting="unsafe")
        together = torch.from_numpy(ids)
        weights = torch.from_numpy(mask)[:, 1:].contiguous()
        return Batch(together[:, :-1].contiguous(), together[:, 1:].contiguous(), weights)


class RowBatches:
    """An endless stream of batches: every epoch a new seeded order, the same on any number of ranks.

    `rows_per_step` is this rank's share; a step takes world_size times as many consecutive rows of the common order.
    """

    prefetchable = True
    """next() does not depend on the weights, so it may be called while the device still works on the last step."""

    def __init__(
        self, folder: Path, split: str, rows_per_step: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if rows_per_step < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"rows_per_step={rows_per_step}, rank={rank} of {world_size}; allowed: at least 1 row, rank in range"
            )
        self.source = RowFolder(folder, split)
        if self.source.rows == 0:
            raise ValueError(f"{folder}: split {split!r} has no rows; next: give it more text")
        self.rows_per_step, self.seed, self.rank, self.world_size = rows_per_step, seed, rank, world_size
        self.rows_taken = 0
        """Rows all ranks together have taken since the start."""
        self._order = lru_cache(maxsize=2)(self._order_of_epoch)

    @property
    def tokens_per_row(self) -> int:
        return self.source.tokens_per_row

    @property
    def epochs(self) -> float:
        """Passes over the split so far."""
        return self.rows_taken / self.source.rows

    def next(self) -> Batch:
        """This rank's rows of the next step."""
        first = self.rows_taken + self.rank * self.rows_per_step
        numbers = np.arange(first, first + self.rows_per_step)
        self.rows_taken += self.rows_per_step * self.world_size
        epochs, places = np.divmod(numbers, self.source.rows)
        return self.source.batch(np.array([self._order(int(e))[p] for e, p in zip(epochs, places, strict=True)]))

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox([self.seed, epoch])).permutation(self.source.rows)

    def state_dict(self) -> dict[str, int]:
        """Position in GLOBAL rows: valid on any number of ranks."""
        return {"rows_taken": self.rows_taken, "seed": self.seed, "rows": self.source.rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken; ValueError if it belongs to other rows or another order."""
        for name, own in (("seed", self.seed), ("rows", self.source.rows)):
            if state[name] != own:
                raise ValueError(
                    f"saved loader position has {name}={state[name]}, these rows have {name}={own}; "
                    f"next: remove the saved state to train from the start"
                )
        self.rows_taken = state["rows_taken"]


def iterate_rows(folder: Path, split: str, rows_per_batch: int, max_rows: int | None = None) -> Iterator[Batch]:
    """The rows of a split in order, once; with `max_rows`, that many spread evenly over the whole split.

    Evenly, because packing sorts long documents first: a prefix would not stand for the split.
    """
    source = RowFolder(folder, split)
    count = source.rows if max_rows is None else min(max_rows, source.rows)
    numbers = np.arange(count) * source.rows // max(count, 1)
    for start in range(0, count, rows_per_batch):
        yield source.batch(numbers[start : start + rows_per_batch])


def write_rows(folder: Path, split: str, rows: np.ndarray, mask: np.ndarray | None, info: dict[str, Any]) -> None:
    """Write a split and enter it in manifest.json (last, atomically); other splits of the manifest stay.

    `rows` [rows, tokens_per_row + 1] ids; `mask` the same shape of 0/1, or None for rows supervised everywhere.
    `info` needs vocab_size, bos_id, pad_id, tokenizer_sha256 (manifest fields; further ones such as dropped_tokens are
    kept) and may hold "statistics": a mapping stored in the split's own section (tokens, padding, documents, bytes).
    ValueError if ids do not fit the vocabulary or the folder's other splits have another shape.
    """
    if rows.ndim != 2 or (mask is not None and mask.shape != rows.shape):
        raise ValueError(
            f"rows of shape {rows.shape} and mask {None if mask is None else mask.shape}: must be equal and 2-D"
        )
    fields = {key: value for key, value in info.items() if key != "statistics"}
    vocab_size = int(fields["vocab_size"])
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < vocab_size:
        raise ValueError(f"{split}: ids {rows.min()}..{rows.max()} do not fit vocab_size={vocab_size}")
    dtype = "uint16" if vocab_size <= 65_536 else "uint32"
    fields |= {"tokens_per_row": rows.shape[1] - 1, "dtype": dtype, "masked": mask is not None}
    manifest = read_manifest(folder) if (folder / "manifest.json").exists() else {}
    differing = [
        k for k in ("tokens_per_row", "vocab_size", "pad_id", "masked") if manifest.get(k, fields[k]) != fields[k]
    ]
    if differing:
        raise ValueError(
            f"{folder}/manifest.json already holds rows with another {', '.join(differing)}; next: empty it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, Any]] = []
    for start in range(0, max(len(rows), 1), ROWS_PER_FILE):
        name, part = f"{split}_{len(files):05d}.bin", rows[start : start + ROWS_PER_FILE].astype(_DTYPES[dtype])
        entry = {"name": name, "rows": len(part), "sha256": _write_bytes(folder / name, part.tobytes())}
        if mask is not None:
            part_mask = mask[start : start + ROWS_PER_FILE].astype(np.uint8)
            entry["mask_sha256"] = _write_bytes(folder / _mask_name(name), part_mask.tobytes())
        files.append(entry)
    section = {"files": files, "rows": len(rows), **info.get("statistics", {})}
    manifest = manifest | fields | {split: section}
    temporary = folder / "manifest.json.unfinished"
    temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "manifest.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a row folder; ValueError if it is missing, unreadable or lacks a field."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable manifest ({error}); next: build the rows again") from None
    missing = [f for f in ("tokens_per_row", "dtype", "vocab_size", "bos_id", "pad_id") if f not in manifest]
    if missing or manifest["dtype"] not in _DTYPES:
        raise ValueError(f"{path}: missing {missing}, dtype {manifest.get('dtype')!r}; allowed: {', '.join(_DTYPES)}")
    return manifest


def verify_rows(folder: Path) -> int:
    """Compare every file with its sha256 in the manifest; -> number of files; ValueError names one that differs."""
    checked = 0
    for section in read_manifest(folder).values():
        for entry in section.get("files", []) if isinstance(section, dict) else []:
            expected = {entry["name"]: entry["sha256"]}
            if "mask_sha256" in entry:
                expected[_mask_name(entry["name"])] = entry["mask_sha256"]
            for name, sha256 in expected.items():
                found = hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()
                if found != sha256:
                    raise ValueError(
                        f"{folder}/{name}: sha256 is {found}, manifest.json says {sha256}; next: build it again"
                    )
                checked += 1
    return checked


def _mask_name(name: str) -> str:
    return name.removesuffix(".bin") + ".mask.bin"


def _write_bytes(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
