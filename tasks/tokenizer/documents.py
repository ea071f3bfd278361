"""Which documents the vocabulary is learned from and measured on, and their texts as a stream.

Only a few numbers per document are in memory, never the corpus: one pass over the files measures them all, further
ones hand out the chosen texts. What is chosen depends on the documents' ids and lengths alone, not on files.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks._errors import StageError

if TYPE_CHECKING:
    import polars as pl

HELD_OUT_BYTES = 2_000_000
HELD_OUT_SHARE = 0.1
MIN_HELD_OUT = 20
"""Held-out documents; a corpus under ten times as many is measured on its training documents instead."""
READ_DOCUMENTS = 512


class Sample(NamedTuple):
    """Documents of two uses, as tables of file, row, domain, characters and bytes (each after the cap)."""

    training: "pl.DataFrame"
    measured: "pl.DataFrame"
    is_held_out: bool
    """False when too few documents could be kept out of training: compression looks better than it is then."""


def find_files(folder: Path) -> list[Path]:
    """The corpus' files. StageError when there is none."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise StageError(f"tokenizer: {folder} holds no *.parquet file; needed: one at least; next: `dvc repro corpus`")
    return files


def measure_documents(files: Sequence[Path], max_characters_per_document: int) -> "pl.DataFrame":
    """One row per document in the order of their ids' hashes: file, row, domain, characters, bytes.

    StageError: a text, id or domain is missing, or no document holds any text.
    """
    import polars as pl

    start = pl.col("text").str.slice(0, max_characters_per_document)
    tables = []
    for number, file in enumerate(files):
        table = (
            pl.scan_parquet(file)
            .select("id", "domain", start.str.len_chars().alias("characters"), start.str.len_bytes().alias("bytes"))
            .collect(engine="streaming")
        )
        if empty := [name for name in table.columns if table[name].null_count()]:
            raise StageError(
                f"tokenizer: {file} holds documents without {', '.join(empty)}; needed: id, text and domain of each; "
                f"next: `dvc repro corpus`"
            )
        digests = (hashlib.sha256(f"tokenizer:{name}".encode()).digest()[:8] for name in table["id"])
        hashes = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
        tables.append(
            table.select(
                pl.lit(number, pl.UInt32).alias("file"),
                pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"),
                pl.Series("hash", hashes, pl.UInt64),
                pl.col("domain").cast(pl.Categorical),
                "characters",
                "bytes",
            )
        )
    documents = pl.concat(tables).sort("hash", "characters", "bytes").drop("hash")
    if not documents["bytes"].sum():
        raise StageError(
            f"tokenizer: the {documents.height} documents of the corpus hold no text; needed: one at least; next: add "
            f"text or loosen the filters of `corpus`"
        )
    return documents


def choose(documents: "pl.DataFrame", max_characters: int) -> Sample:
    """The first documents are learned from, until there are enough characters; the last ones are held out."""
    import polars as pl

    size = pl.col("bytes").cast(pl.Int64)
    from_end = size.reverse().cum_sum().reverse()
    place = pl.int_range(pl.len())
    held = documents.filter((from_end <= HELD_OUT_BYTES) & (place >= pl.len() * (1 - HELD_OUT_SHARE)))
    is_held_out = held.height >= MIN_HELD_OUT
    rest = documents.head(documents.height - held.height) if is_held_out else documents
    characters = pl.col("characters").cast(pl.Int64)
    training = rest.filter(characters.cum_sum() - characters < max_characters)
    if not is_held_out:
        held = training.filter(size.cum_sum() - size < HELD_OUT_BYTES)
    return Sample(training, held, is_held_out)


def read_texts(files: Sequence[Path], chosen: "pl.DataFrame", max_characters_per_document: int) -> Iterator[str]:
    """The texts of chosen documents, cut to the cap, in the order of files and rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, file in enumerate(files):
        rows = np.sort(chosen["row"].filter(chosen["file"] == number).to_numpy())
        if not len(rows):
            continue
        first = 0
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(READ_DOCUMENTS, columns=["text"]):
                inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + batch.num_rows)]
                for text in batch.column(0).take(pa.array(inside - first)).to_pylist():
                    yield text[:max_characters_per_document]
                first += batch.num_rows


def in_file_order(chosen: "pl.DataFrame") -> "pl.DataFrame":
    """The table in the order in which `read_texts` gives its texts."""
    return chosen.sort("file", "row")
