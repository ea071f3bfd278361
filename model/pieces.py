"""Which part of which document lies where in the rows: `<split>_NNNNN.pieces.npy`, one entry per piece in row order.

An entry has row (within the file), start (place of its BOS in the row) and stop (behind its last token), document (row
number in documents.parquet, which is sorted by id) and offset (first token of the document that it holds).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.row_files import pieces_name, read_manifest, split_section

FIELDS = ("row", "start", "stop", "document", "offset")


@dataclass(frozen=True, order=True)
class Piece:
    """A stretch of a document in a row; its BOS comes in addition to its tokens."""

    row: int
    """Row of the split, counted over all its files."""
    start: int
    stop: int
    document: int
    offset: int

    @property
    def tokens(self) -> int:
        """Tokens of the document, BOS not counted."""
        return self.stop - self.start - 1


class Pieces:
    """The pieces of one split. ValueError when there are none on disk or they do not fit the rows."""

    def __init__(self, folder: Path, split: str) -> None:
        manifest = read_manifest(folder)
        section = split_section(folder, manifest, split)
        self.rows, self.width = int(section["rows"]), int(manifest["tokens_per_row"]) + 1
        self._files: list[tuple[int, NDArray[Any]]] = []
        first = 0
        for entry in section["files"]:
            self._files.append((first, self._map(Path(folder) / pieces_name(entry["name"]), int(entry["rows"]))))
            first += int(entry["rows"])

    def _map(self, path: Path, rows: int) -> NDArray[Any]:
        if not path.exists():
            raise ValueError(f"{path} is missing: it says which document lies where; next: build the shards again")
        try:
            entries = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: not a readable array ({error}); next: build the shards again") from None
        if entries.ndim != 1 or not set(FIELDS) <= set(entries.dtype.names or ()):
            raise ValueError(f"{path}: has fields {entries.dtype.names}; needed: {', '.join(FIELDS)} in one dimension")
        entries = np.asarray(entries)
        row, start, stop = entries["row"], entries["start"], entries["stop"]
        if len(entries) and not (
            bool((row[1:] >= row[:-1]).all())
            and row[-1] < rows
            and bool((start < stop).all())
            and stop.max() <= self.width
        ):
            raise ValueError(f"{path}: its pieces do not lie within {rows} rows of {self.width} ids, in row order")
        return entries

    def of_row(self, number: int) -> list[Piece]:
        """The pieces in a row, in their order."""
        for first, entries in reversed(self._files):
            if number >= first:
                low, high = np.searchsorted(entries["row"], [number - first, number - first + 1])
                return [_piece(first, entry) for entry in entries[low:high]]
        raise ValueError(f"row {number}; allowed: 0..{self.rows - 1}")

    def of_document(self, number: int) -> list[Piece]:
        """The pieces of a document (row number in documents.parquet), in its own order; copies follow one another."""
        found = [
            _piece(first, entry) for first, entries in self._files for entry in entries[entries["document"] == number]
        ]
        return sorted(found, key=lambda piece: (piece.offset, piece))

    def ids_per_group(self, group_of_document: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
        """Ids [rows, groups] (BOS included) that each group of documents has in each row."""
        counts = np.zeros(self.rows * groups, np.int64)
        for first, entries in self._files:
            documents = entries["document"]
            if len(documents) and documents.max() >= len(group_of_document):
                raise ValueError(
                    f"a piece names document {documents.max()}; documents.parquet has {len(group_of_document)}; "
                    f"next: build the shards again"
                )
            cells = (entries["row"].astype(np.int64) + first) * groups + group_of_document[documents]
            lengths = entries["stop"].astype(np.int64) - entries["start"]
            counts += np.bincount(cells, lengths, minlength=len(counts)).astype(np.int64)
        return counts.reshape(self.rows, groups)

    def __iter__(self) -> Iterator[Piece]:
        """All pieces, in row order."""
        for first, entries in self._files:
            for entry in entries:
                yield _piece(first, entry)


def _piece(first_row: int, entry: Any) -> Piece:
    row, start, stop, document, offset = (int(entry[name]) for name in FIELDS)
    return Piece(first_row + row, start, stop, document, offset)
