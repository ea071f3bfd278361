"""From a document's id to the rows that hold it, and from the rows back to its text.

documents.parquet of a shards folder is sorted by id; the pieces beside the rows (model/pieces.py) name documents by
their row number in it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.pieces import Piece, Pieces
from model.row_files import StoredRows

NEAR_IDS = 3
"""Ids shown beside one that was not found."""


@dataclass(frozen=True)
class DocumentPlaces:
    """One document and all its pieces: in order of offset, every copy's."""

    id: str
    split: str
    tokens: int
    """Of one copy, BOS not counted."""
    copies: int
    domain: str | None
    pieces: list[Piece]


def find_document(folder: Path, document_id: str) -> DocumentPlaces:
    """Where this document lies. ValueError when the shards do not hold it, or do not say what lies where."""
    import polars as pl

    path = folder / "documents.parquet"
    if not path.exists():
        raise ValueError(f"{path} is missing: it lists the documents in the rows; next: build the shards again")
    table = pl.scan_parquet(path).with_row_index("number")
    found = table.filter(pl.col("id") == document_id).collect().to_dicts()
    if not found:
        following = table.filter(pl.col("id") >= document_id).select("id").head(NEAR_IDS).collect()["id"].to_list()
        near = f"the next ids there are {', '.join(map(repr, following))}" if following else "every id there is smaller"
        raise ValueError(
            f"{path} has no document {document_id!r}; {near}; "
            f"next: look the id up in artifacts/corpus (documents/ or, if it was dropped, removed/)"
        )
    row = found[0]
    pieces = Pieces(folder, row["split"]).of_document(int(row["number"]))
    return DocumentPlaces(
        document_id, row["split"], int(row["tokens"]), int(row.get("repeats", 1)), row.get("domain"), pieces
    )


def restore_ids(folder: Path, document: DocumentPlaces) -> NDArray[Any]:
    """The document's ids, put together from the rows. ValueError when they do not hold all of it."""
    stored = StoredRows(folder, document.split)
    parts: list[NDArray[Any]] = []
    have = 0
    for piece in document.pieces:  # copies may be cut at different places: take what each adds
        if piece.offset <= have < piece.offset + piece.tokens:
            ids = stored.ids(np.array([piece.row]))[0]
            parts.append(ids[piece.start + 1 + have - piece.offset : piece.stop])
            have = piece.offset + piece.tokens
    if have != document.tokens:
        raise ValueError(
            f"{folder}: the rows hold {have} of {document.tokens} tokens of {document.id!r}; "
            f"next: build the shards again"
        )
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def document_ids(folder: Path) -> list[str]:
    """The ids behind the numbers in the pieces; [] when the folder has no table of documents."""
    import polars as pl

    path = folder / "documents.parquet"
    return pl.read_parquet(path, columns=["id"])["id"].to_list() if path.exists() else []
