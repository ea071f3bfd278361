"""shards: tokenize the corpus and pack it into fixed-length rows of ids.

Reads    artifacts/corpus/documents/*.parquet (id, text, and `repeats` where the corpus was mixed),
         artifacts/tokenizer/tokenizer.json
Writes   artifacts/shards/{train,val}_NNNNN.bin, manifest.json,
         documents.parquet (id, split, tokens of one copy, repeats)
Promise  every document is in exactly one split; all of its tokens are in the rows, in order within a piece, as often as
         `repeats` says (once where the corpus does not say, and for validation); no row holds two copies of a document;
         every row and every copy starts with BOS; padding is at most params.max_padding_fraction where enough documents
         are at hand; the result does not depend on the number of threads
Limits   a document longer than a row continues in other rows, each beginning with BOS, without sight of its beginning;
         every copy is tokenized anew, and every pass over the copies may leave one row unfilled
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.tokenizer import Tokenizer
from pipeline_math.packing_io import rows_needed
from tasks._context import Progress, StageContext
from tasks._errors import StageError
from tasks._params import StageParams
from tasks.shards.packing import plan_rows, write_pieces

if TYPE_CHECKING:
    import polars as pl

PADDING_TOKEN = "<|output_end|>"  # never part of pretraining text
ENCODE_DOCUMENTS = 1_000


class Params(StageParams):
    """Section `shards` of params.yaml."""

    tokens_per_row: Annotated[int, Field(ge=8)] = 2048
    """Tokens a model sees at once; a stored row has one more, the last target."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the documents held out for validation, chosen by hash of seed and id."""
    max_val_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    """UTF-8 bytes of validation text at most; further candidates are trained on."""
    max_padding_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """Share of padding above which documents that fit into a row may be cut to fill holes."""
    window_tokens: Annotated[int, Field(gt=0)] = 2**25
    """Documents of about this many tokens are packed together; bounds memory, not quality."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses the split and the order of documents and rows."""


class Packed(NamedTuple):
    """Rows of one split and what went into them."""

    rows: NDArray[Any]
    tokens_per_document: list[int]
    statistics: dict[str, int]


def run(ctx: StageContext) -> None:
    """Split, pack train and val, write rows and the table of documents."""
    import polars as pl

    from model.batches import write_rows

    params = ctx.params
    assert isinstance(params, Params)
    path = ctx.input("artifacts/tokenizer/tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(path)
    except ValueError as error:
        raise StageError(str(error)) from None
    documents = _split(_read(ctx.input("artifacts/corpus/documents")), params)
    info = {
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "pad_id": tokenizer.special_id(PADDING_TOKEN),
        "tokenizer_sha256": tokenizer.sha256,
        "dropped_tokens": 0,
    }
    tables = []
    for split in ("train", "val"):
        part = documents.filter(pl.col("split") == split)
        if not part.height:
            raise StageError(
                f"shards: none of {documents.height} documents falls into split '{split}'; allowed: at least one; "
                f"next: change shards.val_fraction={params.val_fraction} (or shards.seed), or add text"
            )
        packed = _pack(ctx, tokenizer, part, params, split)
        # Best case: no padding at all. Worst: the padding allowed, and one row per pass that nothing is left to fill.
        fewest = rows_needed(packed.statistics["tokens"], params.tokens_per_row)
        passes = int(max(part["repeats"].to_list()))
        ctx.predict(f"{split}_rows", fewest, fewest, fewest / (1 - params.max_padding_fraction) + passes)
        ctx.measure(f"{split}_rows", len(packed.rows))
        write_rows(ctx.out, split, packed.rows, None, {**info, "statistics": packed.statistics})
        tables.append(part.select("id", "split", pl.Series("tokens", packed.tokens_per_document, pl.Int64), "repeats"))
        figures = {f"{split}_{name}": value for name, value in packed.statistics.items()}
        padding_fraction = packed.statistics["padding"] / packed.rows.size
        ctx.report(**figures, **{f"{split}_rows": len(packed.rows), f"{split}_padding_fraction": padding_fraction})
    table = pl.concat(tables).sort("id")
    # What is tokenized and packed: copies count, since each is done anew.
    ctx.count(
        kept_bytes=int((documents["text"].str.len_bytes().cast(pl.Int64) * documents["repeats"]).sum()),
        tokens=int((table["tokens"] * table["repeats"]).sum()),
    )
    ctx.measure("train_tokens", int((tables[0]["tokens"] * tables[0]["repeats"]).sum()))
    table.write_parquet(ctx.out / "documents.parquet", compression="zstd")
    longest = int(max(table["tokens"].to_list()))
    if longest < params.tokens_per_row:
        ctx.note(
            f"tokens_per_row={params.tokens_per_row} is longer than every document (longest: {longest} tokens); "
            f"no context reaches further than that"
        )


def _read(folder: Path) -> "pl.DataFrame":
    """id, text and repeats (1 where the corpus has no such column). StageError for repeats that are no count."""
    import polars as pl

    lazy = pl.scan_parquet(folder / "*.parquet")
    if "repeats" not in lazy.collect_schema().names():
        return lazy.select("id", "text").collect().with_columns(pl.lit(1, pl.Int32).alias("repeats"))
    documents = lazy.select("id", "text", "repeats").collect()
    column = documents["repeats"]
    bad = documents.filter(column.is_null() | (column < 1)) if column.dtype.is_integer() else documents
    if bad.height:
        raise StageError(
            f"shards: {folder.parent.name}/{folder.name}: repeats={bad['repeats'][0]!r} of document {bad['id'][0]!r}, "
            f"one of {bad.height} such; allowed: whole numbers of at least 1 (a document that is not wanted is left "
            f"out); next: build the corpus again"
        )
    return documents.with_columns(column.cast(pl.Int32))


def _split(documents: "pl.DataFrame", params: Params) -> "pl.DataFrame":
    """Documents with `split`, in hash order; validation text is held out once, however often it was to be repeated."""
    import polars as pl

    hashes = [hashlib.sha256(f"{params.seed}:{name}".encode()).hexdigest() for name in documents["id"]]
    share = pl.Series("share", [int(value[:13], 16) / 16**13 for value in hashes], pl.Float64)
    documents = documents.with_columns(pl.Series("hash", hashes, pl.String), share).sort("hash", "id")
    candidate = pl.col("share") < params.val_fraction
    size = pl.when(candidate).then(pl.col("text").str.len_bytes().cast(pl.Int64)).otherwise(0).cum_sum()
    is_val = candidate & (size <= params.max_val_bytes)
    split = pl.when(is_val).then(pl.lit("val")).otherwise(pl.lit("train")).alias("split")
    repeats = pl.when(is_val).then(pl.lit(1, pl.Int32)).otherwise(pl.col("repeats")).alias("repeats")
    return documents.with_columns(split, repeats).drop("hash", "share")


def _pack(ctx: StageContext, tokenizer: Tokenizer, documents: "pl.DataFrame", params: Params, split: str) -> Packed:
    """Tokenize and pack one split, window by window; rows of a window are shuffled.

    Pass c takes the documents that are wanted more than c times, and no window reaches into the next pass: two copies
    never meet in a row, where the second could be read off the first. Training draws its rows from all passes at once.
    """
    import polars as pl

    parts: list[NDArray[Any]] = []
    lengths: list[int] = []
    totals: Counter[str] = Counter()
    shuffle = np.random.Generator(np.random.PCG64(params.seed))
    copies, passes = int(documents["repeats"].sum()), int(max(documents["repeats"].to_list()))
    with ctx.progress(f"shards: {split}", copies, "documents") as bar:
        for number in range(passes):
            texts = documents.filter(pl.col("repeats") > number)["text"]
            for window in _windows(ctx, tokenizer, texts, params, bar):
                own = [len(ids) for ids in window]
                rows, counted = _pack_window(window, own, tokenizer, params)
                parts.append(shuffle.permutation(rows))
                totals.update(counted, tokens_in=sum(own))
                lengths += own if number == 0 else []
    rows = np.concatenate(parts)
    padding = int((rows == tokenizer.special_id(PADDING_TOKEN)).sum())
    tokens = int(rows.size) - padding
    # Tokens in = tokens packed: every copy's tokens, one BOS each, one more per further piece.
    assert tokens == totals["tokens_in"] + copies + totals["continuation_bos"], "packing lost or repeated tokens"
    sizes, repeats = documents["text"].str.len_bytes().cast(pl.Int64), documents["repeats"]
    assert totals["tokens_in"] == int((pl.Series(lengths, dtype=pl.Int64) * repeats).sum()), "a copy differs"
    statistics = {
        "tokens": tokens,
        "padding": padding,
        "documents": documents.height,
        "copies": copies,
        "unique_tokens": sum(lengths),
        "split_documents": totals["split_documents"],
        "continuation_bos": totals["continuation_bos"],
        "bytes": int((sizes * repeats).sum()),
    }
    return Packed(rows, lengths, statistics)


def _windows(
    ctx: StageContext, tokenizer: Tokenizer, texts: "pl.Series", params: Params, bar: Progress
) -> Iterator[list[NDArray[Any]]]:
    """The texts' ids in lists of about `window_tokens`; the last one is shorter."""
    dtype = _id_type(tokenizer)
    window: list[NDArray[Any]] = []
    for start in range(0, len(texts), ENCODE_DOCUMENTS):
        ctx.check_stop()
        batch = texts[start : start + ENCODE_DOCUMENTS].to_list()
        window += [np.array(ids, dtype) for ids in tokenizer.encode_batch(batch, ctx.cores)]
        bar.update(len(batch))
        if start + ENCODE_DOCUMENTS >= len(texts) or sum(map(len, window)) >= params.window_tokens:
            yield window
            window = []


def _pack_window(
    window: list[NDArray[Any]], lengths: list[int], tokenizer: Tokenizer, params: Params
) -> tuple[NDArray[Any], dict[str, int]]:
    """Rows of one window, and how many of its documents were split into how many further pieces."""
    pad_id = tokenizer.special_id(PADDING_TOKEN)
    plan = plan_rows(lengths, params.tokens_per_row, params.max_padding_fraction)
    rows = write_pieces(plan, window, params.tokens_per_row, tokenizer.bos_id, pad_id, _id_type(tokenizer))
    pieces = np.bincount([piece.document for row in plan for piece in row], minlength=len(lengths))
    return rows, {
        "split_documents": int((pieces > 1).sum()),
        "continuation_bos": int(pieces.sum()) - len(lengths),
    }


def _id_type(tokenizer: Tokenizer) -> "np.dtype[Any]":
    return np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
