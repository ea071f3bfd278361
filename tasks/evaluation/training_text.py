"""One pass over the training documents, file by file on all cores: what of the evaluation is written in them?

Covered      arithmetic expressions written in symbols; descriptions of held-out objects, anywhere in a document;
             held-out documents that equal a training document. All in normal form (see tasks/benchmarks/normal.py)
Memory       BATCH_BYTES of text per worker and the ids of a file, not the corpus; the expressions found are kept
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks._context import StageContext
from tasks._executor import InlineExecutor, in_order, open_executor
from tasks.benchmarks.arithmetic import expressions_in
from tasks.benchmarks.normal import normal_expression

if TYPE_CHECKING:
    import polars as pl

BATCH_BYTES = 1 << 23
"""Text searched at a time. The matcher for the descriptions is made anew for each batch, so it should not be short."""
ROWS_PER_READ = 256
INLINE_BYTES = 1 << 25
"""Less Parquet than this is searched by this process: starting others would take longer."""

_WHITESPACE = r"[\s\x1c-\x1f]{2,}|[\s\x1c-\x1f&&[^ ]]"
"""What str.split() takes for white space, but for single spaces, which may stay."""
_NEAR_EXPRESSIONS = r"[\d ()+*/x-]*\d\)? ?[-+*/x] ?\(?\d[\d ()+*/x-]*"
"""Runs of the characters of expressions that hold at least one. No expression reaches beyond its run, so it suffices to
look for them in the distinct runs, which polars finds many times as fast as Python's regex goes through a text."""


@dataclass(frozen=True)
class TrainingText:
    """What the training documents contain of the texts that were looked for."""

    characters: int
    """Of all training documents in normal form."""
    expressions: frozenset[str]
    """Every expression, in normal form."""
    descriptions: frozenset[str]
    """Of those looked for, the ones that occur."""
    documents: frozenset[str]
    """Of those looked for, the ones that are a whole training document."""


def search_training_text(
    ctx: StageContext, documents: Path, splits: Path, descriptions: Collection[str], held_out: Collection[str]
) -> TrainingText:
    """Search every document that `splits` counts as "train", in all Parquet files of the folder `documents`.

    `descriptions` and `held_out` (whole documents) are in normal form. The result does not depend on how the documents
    are spread over files, or on the number of workers.
    """
    files = sorted(documents.glob("*.parquet"))
    whole = {_digest(text): text for text in held_out}
    looked_for = sorted(set(descriptions))
    jobs = [(str(path), str(splits), looked_for, sorted(whole)) for path in files]
    small = len(files) < 2 or sum(path.stat().st_size for path in files) < INLINE_BYTES
    with nullcontext(InlineExecutor()) if small else open_executor(ctx) as executor:
        parts = list(in_order(ctx, executor, search_file, jobs, "searching the training documents"))
    return TrainingText(
        sum(characters for characters, _, _, _ in parts),
        frozenset[str]().union(*(expressions for _, expressions, _, _ in parts)),
        frozenset[str]().union(*(found for _, _, found, _ in parts)),
        frozenset(whole[digest] for _, _, _, digests in parts for digest in digests),
    )


def search_file(
    path: str, splits: str, descriptions: Sequence[str], digests: Sequence[bytes]
) -> tuple[int, set[str], set[str], set[bytes]]:
    """Characters, expressions, descriptions and digests of the training documents of one file. Runs in a worker."""
    characters, expressions, found, equal = 0, set[str](), set[str](), set[bytes]()
    wanted = frozenset(digests)
    for texts in _training_texts(path, splits):
        normal_texts = normal_series(texts)
        characters += int(normal_texts.str.len_chars().sum())
        expressions |= written_expressions(normal_texts)
        found |= occurring(descriptions, normal_texts)
        equal |= wanted.intersection(map(_digest, normal_texts)) if wanted else set()
    return characters, expressions, found, equal


def normal_series(texts: "pl.Series") -> "pl.Series":
    """`normal` of every text, by polars: the same but for letters that only one of the two Unicode versions knows."""
    return texts.str.to_lowercase().str.replace_all(_WHITESPACE, " ").str.strip_chars(" ")


def written_expressions(documents: "pl.Series | Sequence[str]") -> set[str]:
    """Every expression written in symbols in the documents (normal texts), in normal form."""
    import polars as pl

    runs = pl.Series(documents, dtype=pl.String).str.extract_all(_NEAR_EXPRESSIONS).explode().drop_nulls().unique()
    return {normal_expression(found) for run in runs for found in expressions_in(run)}


def occurring(descriptions: Sequence[str], documents: "pl.Series | Sequence[str]") -> set[str]:
    """Which of the descriptions (not empty) occur in at least one of the documents."""
    import polars as pl

    if not descriptions:
        return set()
    texts = pl.DataFrame({"text": pl.Series(documents, dtype=pl.String)})
    matches = texts.select(pl.col("text").str.extract_many(list(descriptions), overlapping=True))["text"]
    return set(matches.explode().drop_nulls().unique())


def _training_texts(path: str, splits: str) -> "Iterator[pl.Series]":
    """The training documents of a file, in pieces of about BATCH_BYTES."""
    import polars as pl
    import pyarrow.parquet as pq

    own = pl.scan_parquet(path).select("id")
    chosen = pl.scan_parquet(splits).filter(pl.col("split") == "train").select("id")
    train = own.join(chosen, on="id", how="semi").collect()
    pieces: list[pl.Series] = []
    size = 0
    with pq.ParquetFile(path) as file:
        for rows in file.iter_batches(batch_size=ROWS_PER_READ, columns=["id", "text"]):
            table = pl.DataFrame(rows).join(train, on="id", how="semi")
            pieces.append(table["text"])
            size += int(table["text"].str.len_bytes().sum())
            if size >= BATCH_BYTES:
                yield pl.concat(pieces)
                pieces, size = [], 0
    if pieces:
        yield pl.concat(pieces)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
