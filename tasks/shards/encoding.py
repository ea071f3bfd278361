"""Encoding a corpus file: a cached unit per file, so that one added file costs its own encoding only.

A unit holds ids.bin, the ids of all documents one after the other, and documents.parquet with a row for each of them:
id, identity and group (hashes of the id, and of what must stay on one side of the split), tokens, bytes, repeats and
domain. Columns that the corpus lacks take their defaults: repeats 1, domain "unknown", no cluster.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import Tokenizer
from tasks._errors import StageError

if TYPE_CHECKING:
    import polars as pl

IDS, DOCUMENTS = "ids.bin", "documents.parquet"
CODE = ("model/tokenizer.py", "tasks/shards/encoding.py")
LIBRARIES = ("tiktoken", "numpy", "polars", "pyarrow", "xxhash")
BATCH_DOCUMENTS = 512
BATCH_BYTES = 2 << 20
"""Text that is encoded at once; its ids are Python numbers for a moment, at tens of bytes each."""
NO_DOMAIN = "unknown"


def encode(out: Path, file: str, tokenizer_file: str, threads: int) -> None:
    """ids.bin and documents.parquet of one corpus file. StageError: a record without id or text, or repeats that are
    no count. Runs in a worker."""
    import polars as pl

    tokenizer = Tokenizer.from_file(Path(tokenizer_file))
    dtype, tables, tokens = id_type(tokenizer.vocab_size), [], [np.zeros(0, np.uint32)]
    with (out / IDS).open("wb") as target:
        for batch in _batches(Path(file)):
            tables.append(_describe(batch))
            for texts in _portions(batch["text"]):
                encoded = tokenizer.encode_batch(texts, threads)
                tokens.append(np.array([len(ids) for ids in encoded], np.uint32))
                for ids in encoded:
                    target.write(np.array(ids, dtype).tobytes())
    table = pl.concat(tables).with_columns(pl.Series("tokens", np.concatenate(tokens)))
    table.write_parquet(out / DOCUMENTS, compression="zstd", statistics=False)


def id_type(vocab_size: int) -> "np.dtype[Any]":
    """How ids are stored: two bytes each up to 65,536 ids, else four; little-endian everywhere."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


def _batches(path: Path) -> "Iterator[pl.DataFrame]":
    """The documents of a corpus file, checked, a few at a time; at least one batch, which may be empty."""
    import polars as pl
    import pyarrow.parquet as pq

    where = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        missing = [name for name in ("id", "text") if name not in names]
        if missing:
            raise StageError(
                f"shards: {where} has no column {', '.join(missing)}; found: {', '.join(names)}; next: build the "
                f"corpus again"
            )
        columns = [name for name in ("id", "text", "domain", "cluster_id", "repeats") if name in names]
        yield _checked(pl.DataFrame(pl.from_arrow(file.schema_arrow.empty_table())).select(columns), where)
        for batch in file.iter_batches(BATCH_DOCUMENTS, columns=columns, use_threads=False):
            yield _checked(pl.DataFrame(pl.from_arrow(batch)), where)


def _checked(batch: "pl.DataFrame", where: str) -> "pl.DataFrame":
    import polars as pl

    if "repeats" not in batch.columns:
        batch = batch.with_columns(pl.lit(1, pl.Int32).alias("repeats"))
    defaults = {"domain": NO_DOMAIN, "cluster_id": None}
    batch = batch.with_columns(pl.lit(v, pl.String).alias(k) for k, v in defaults.items() if k not in batch.columns)
    for name in ("id", "text"):
        bad = batch.filter(pl.col(name).is_null())
        if bad.height:
            raise StageError(
                f"shards: {where}: a document has no {name}: {bad.drop('text').row(0, named=True)}; allowed: text in "
                f"every row; next: build the corpus again"
            )
    column = batch["repeats"]
    bad = batch.filter(column.is_null() | (column < 1)) if column.dtype.is_integer() else batch
    if bad.height:
        raise StageError(
            f"shards: {where}: repeats={bad['repeats'][0]!r} of document {bad['id'][0]!r}; allowed: whole numbers of "
            f"at least 1 (a document that is not wanted is left out); next: build the corpus again"
        )
    empty = batch.filter(pl.col("domain").is_null() | (pl.col("domain") == ""))
    if empty.height:
        raise StageError(
            f"shards: {where}: document {empty['id'][0]!r} has an empty domain; allowed: a name; next: name it in "
            f"corpus.sources and build the corpus again"
        )
    return batch.with_columns(column.cast(pl.Int32))


def _portions(texts: "pl.Series") -> Iterator[list[str]]:
    """The texts in runs of about BATCH_BYTES; a longer text is a run of its own."""
    ends = np.cumsum(texts.str.len_bytes().to_numpy().astype(np.int64))
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield texts[start:stop].to_list()
        start = stop


def _describe(batch: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    group = batch.select(pl.coalesce("cluster_id", "id"))[:, 0]
    return batch.select(
        "id",
        pl.Series("identity", _hashes(batch["id"].to_list()), pl.UInt64),
        pl.Series("group", _hashes(group.to_list()), pl.UInt64),
        pl.col("text").str.len_bytes().cast(pl.UInt32).alias("bytes"),
        "repeats",
        "domain",
    )


def _hashes(names: list[str]) -> list[int]:
    import xxhash

    return [xxhash.xxh3_64_intdigest(name.encode()) for name in names]


def read_ids(units: list[str], file: NDArray[Any], first: NDArray[Any], tokens: NDArray[Any], dtype: str) -> Any:
    """The ids of some documents one after the other: document d has `tokens[d]` ids from `first[d]` on in the ids.bin
    of `units[file[d]]`. Read in the order of the files, so that a disk is passed over once."""
    size = np.dtype(dtype).itemsize
    ends = np.cumsum(tokens.astype(np.int64))
    ids = np.empty(int(ends[-1]) if len(ends) else 0, dtype)
    order = np.lexsort((first, file))
    for unit in np.unique(file).tolist():
        own = order[file[order] == unit]
        with (Path(units[unit]) / IDS).open("rb", buffering=0) as source:
            for end, start, count in zip(ends[own].tolist(), first[own].tolist(), tokens[own].tolist(), strict=True):
                source.seek(start * size)
                view = ids[end - count : end].view(np.uint8).data
                if source.readinto(view) != len(view):
                    raise StageError(
                        f"shards: {source.name} ends before the tokens of its documents; next: remove the folder "
                        f"{units[unit]} and run again"
                    )
    return ids
