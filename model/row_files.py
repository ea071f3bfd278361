"""Rows of token ids on disk: what a row folder holds, how it is written, and how rows are read by number.

A row folder holds `<split>_NNNNN.bin` (little-endian ids, row-major, tokens_per_row + 1 ids a row), for conversations
also `<split>_NNNNN.mask.bin` (uint8, same shape, 1 = this position is a supervised target), for documents
`<split>_NNNNN.pieces.npy` (see model/pieces.py), and manifest.json. Rows are mapped, not read: memory does not grow
with the data.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
ROWS_PER_FILE = 65_536


class StoredRows:
    """Read access to one split by row number.

    ValueError if manifest and files disagree in number or size, if `tokenizer_sha256` is given and another tokenizer
    wrote the rows, and, with `verify`, if the bytes of a file are not those that were written.
    """

    def __init__(self, folder: Path, split: str, tokenizer_sha256: str | None = None, verify: bool = False) -> None:
        self.folder, self.split = Path(folder), split
        self.manifest = read_manifest(self.folder)
        section = split_section(self.folder, self.manifest, split)
        self._check_tokenizer(tokenizer_sha256)
        self.tokens_per_row = int(self.manifest["tokens_per_row"])
        self.vocab_size, self.pad_id = int(self.manifest["vocab_size"]), int(self.manifest["pad_id"])
        self.bos_id = int(self.manifest["bos_id"])
        self.masked = bool(self.manifest.get("masked", False))
        dtype, files = _DTYPES[self.manifest["dtype"]], section["files"]
        self._ids = [self._map(f["name"], f["rows"], dtype) for f in files]
        self._masks = [self._map(mask_name(f["name"]), f["rows"], np.dtype(np.uint8)) for f in files if self.masked]
        self._first_rows = np.cumsum([0] + [f["rows"] for f in files])
        self.rows = int(self._first_rows[-1])
        named = section.get("rows")
        if self.rows != named:
            raise ValueError(
                f"{folder}/manifest.json: split {split!r} names {named} rows, its files hold {self.rows}; "
                f"next: build the rows again"
            )
        if verify:
            verify_rows(self.folder, split)
        self.sha256 = hashlib.sha256("".join(f.get("sha256", "") for f in files).encode()).hexdigest()
        """Identity of the split's ids, from the hashes in the manifest."""

    def _check_tokenizer(self, expected: str | None) -> None:
        found = self.manifest.get("tokenizer_sha256")
        if expected is not None and found != expected:
            raise ValueError(
                f"{self.folder} was written with tokenizer {str(found)[:12]}, this run uses {expected[:12]}; "
                f"next: build the rows again with this tokenizer"
            )

    def _map(self, name: str, rows: int, dtype: "np.dtype[Any]") -> NDArray[Any]:
        width = self.tokens_per_row + 1
        path, expected = self.folder / name, rows * width * dtype.itemsize
        found = path.stat().st_size if path.exists() else None
        if found != expected:
            what = "is missing" if found is None else f"has {found} bytes"
            raise ValueError(f"{path} {what}; manifest.json says {expected}; next: build the rows again")
        if rows == 0:
            return np.zeros((0, width), dtype)
        # The plain view indexes faster than the memmap class and keeps the mapping alive.
        return np.asarray(np.memmap(path, dtype, "r", shape=(rows, width)))

    def ids(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Ids [len(numbers), tokens_per_row + 1] of these rows, in this order, in the width they are stored in."""
        return self._gather(self._ids, numbers)

    def masks(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """The masks of these rows; None when the rows have none."""
        return self._gather(self._masks, numbers) if self.masked else None

    def _gather(self, files: list[NDArray[Any]], numbers: NDArray[np.int64]) -> NDArray[Any]:
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < self.rows):
            raise ValueError(
                f"{self.folder}: rows {numbers.min()}..{numbers.max()} of split {self.split!r}; "
                f"allowed: 0..{self.rows - 1}"
            )
        if len(files) == 1:
            return files[0].take(numbers, axis=0)
        gathered = np.empty((len(numbers), self.tokens_per_row + 1), files[0].dtype)
        places = np.searchsorted(self._first_rows, numbers, side="right") - 1
        for file in np.unique(places):
            own = np.flatnonzero(places == file)
            gathered[own] = files[file].take(numbers[own] - self._first_rows[file], axis=0)
        return gathered


def write_rows(folder: Path, split: str, rows: NDArray[Any], mask: NDArray[Any] | None, info: dict[str, Any]) -> None:
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
    vocab_size = int(info["vocab_size"])
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < vocab_size:
        raise ValueError(f"{split}: ids {rows.min()}..{rows.max()} do not fit vocab_size={vocab_size}")
    dtype = "uint16" if vocab_size <= 65_536 else "uint32"
    fields = {key: value for key, value in info.items() if key != "statistics"}
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
        entry = {"name": name, "rows": len(part), "sha256": _write_bytes(folder / name, part)}
        if mask is not None:
            part_mask = mask[start : start + ROWS_PER_FILE].astype(np.uint8)
            entry["mask_sha256"] = _write_bytes(folder / mask_name(name), part_mask)
        files.append(entry)
    section = {"files": files, "rows": len(rows), **info.get("statistics", {})}
    temporary = folder / "manifest.json.unfinished"
    temporary.write_text(json.dumps(manifest | fields | {split: section}, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "manifest.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a row folder; ValueError if it is missing, unreadable or lacks a field."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable manifest ({error}); next: build the rows again") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}: holds a {type(manifest).__name__}; needed: an object; next: build the rows again")
    missing = [f for f in ("tokens_per_row", "dtype", "vocab_size", "bos_id", "pad_id") if f not in manifest]
    if missing or manifest["dtype"] not in _DTYPES:
        raise ValueError(f"{path}: missing {missing}, dtype {manifest.get('dtype')!r}; allowed: {', '.join(_DTYPES)}")
    return manifest


def split_section(folder: Path, manifest: dict[str, Any], split: str) -> dict[str, Any]:
    """The split's part of a manifest; ValueError names the splits there are."""
    section = manifest.get(split)
    if not isinstance(section, dict) or "files" not in section:
        there = sorted(name for name, value in manifest.items() if isinstance(value, dict) and "files" in value)
        raise ValueError(
            f"{folder}/manifest.json has no split {split!r}; allowed: {', '.join(there) or 'none'}; "
            f"next: build the rows again"
        )
    if bad := [f for f in section["files"] if not isinstance(f, dict) or not {"name", "rows"} <= f.keys()]:
        raise ValueError(
            f"{folder}/manifest.json: split {split!r} lists {bad[0]!r}; needed: an object with name and rows; "
            f"next: build the rows again"
        )
    return section


def verify_rows(folder: Path, split: str | None = None) -> int:
    """Compare every file (of one split) with its sha256 in the manifest; -> number of files; ValueError names one that
    differs or is missing."""
    manifest, checked = read_manifest(folder), 0
    sections = [split_section(folder, manifest, split)] if split else manifest.values()
    for section in sections:
        for entry in section.get("files", []) if isinstance(section, dict) else []:
            for name, sha256 in _hashed_files(entry):
                path = Path(folder) / name
                if not path.exists():
                    raise ValueError(f"{path} is missing; manifest.json names it; next: build it again")
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != sha256:
                    raise ValueError(f"{path}: sha256 is {found}, manifest.json says {sha256}; next: build it again")
                checked += 1
    return checked


def _hashed_files(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield entry["name"], entry["sha256"]
    if "mask_sha256" in entry:
        yield mask_name(entry["name"]), entry["mask_sha256"]
    if "pieces_sha256" in entry:
        yield pieces_name(entry["name"]), entry["pieces_sha256"]


def mask_name(name: str) -> str:
    """The file of masks that belongs to a file of rows."""
    return name.removesuffix(".bin") + ".mask.bin"


def pieces_name(name: str) -> str:
    """The file of pieces that belongs to a file of rows."""
    return name.removesuffix(".bin") + ".pieces.npy"


def _write_bytes(path: Path, array: NDArray[Any]) -> str:
    content = array.tobytes()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
