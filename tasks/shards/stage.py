"""shards: tokenize the corpus and pack it into fixed-length rows of ids.

Reads    artifacts/corpus/documents/*.parquet, artifacts/tokenizer/tokenizer.json
Writes   artifacts/shards/{train,val}_NNNNN.bin, manifest.json, documents.parquet (id, split, tokens)
Promise  every document is in exactly one split, all of its tokens are in the rows, once and in order within a piece;
         every row and every document starts with BOS; padding is at most params.max_padding_fraction where enough
         documents are at hand; the result does not depend on the number of threads
Limits   a document longer than a row continues in other rows, each beginning with BOS, without sight of its beginning
"""

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.tokenizer import Tokenizer
from pipeline_math.packing_io import rows_needed
from tasks._context import StageContext
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
    documents = pl.read_parquet(ctx.input("artifacts/corpus/documents") / "*.parquet", columns=["id", "text"])
    documents = _split(documents, params)
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
        # Best case: no padding at all. Worst: the padding allowed, and one row that nothing is left to fill.
        fewest = rows_needed(packed.statistics["tokens"], params.tokens_per_row)
        ctx.predict(f"{split}_rows", fewest, fewest, fewest / (1 - params.max_padding_fraction) + 1)
        ctx.measure(f"{split}_rows", len(packed.rows))
        write_rows(ctx.out, split, packed.rows, None, {**info, "statistics": packed.statistics})
        tables.append(
            part.select("id", "split").with_columns(pl.Series("tokens", packed.tokens_per_document, pl.Int64))
        )
        figures = {f"{split}_{name}": value for name, value in packed.statistics.items()}
        padding_fraction = packed.statistics["padding"] / packed.rows.size
        ctx.report(**figures, **{f"{split}_rows": len(packed.rows), f"{split}_padding_fraction": padding_fraction})
    table = pl.concat(tables).sort("id")
    ctx.count(kept_bytes=int(documents["text"].str.len_bytes().sum()), tokens=int(table["tokens"].sum()))
    ctx.measure("train_tokens", int(tables[0]["tokens"].sum()))
    table.write_parquet(ctx.out / "documents.parquet", compression="zstd")
    longest = int(max(table["tokens"].to_list()))
    if longest < params.tokens_per_row:
        ctx.note(
            f"tokens_per_row={params.tokens_per_row} is longer than every document (longest: {longest} tokens); "
            f"no context reaches further than that"
        )


def _split(documents: "pl.DataFrame", params: Params) -> "pl.DataFrame":
    """Documents with `split`, in hash order."""
    import polars as pl

    hashes = [hashlib.sha256(f"{params.seed}:{name}".encode()).hexdigest() for name in documents["id"]]
    share = pl.Series("share", [int(value[:13], 16) / 16**13 for value in hashes], pl.Float64)
    documents = documents.with_columns(pl.Series("hash", hashes, pl.String), share).sort("hash", "id")
    candidate = pl.col("share") < params.val_fraction
    size = pl.when(candidate).then(pl.col("text").str.len_bytes().cast(pl.Int64)).otherwise(0).cum_sum()
    is_val = candidate & (size <= params.max_val_bytes)
    split = pl.when(is_val).then(pl.lit("val")).otherwise(pl.lit("train")).alias("split")
    return documents.with_columns(split).drop("hash", "share")


def _pack(ctx: StageContext, tokenizer: Tokenizer, documents: "pl.DataFrame", params: Params, split: str) -> Packed:
    """Tokenize and pack one split, window by window; rows of a window are shuffled."""
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
    pad_id = tokenizer.special_id(PADDING_TOKEN)
    shuffle = np.random.Generator(np.random.PCG64(params.seed))
    window: list[NDArray[Any]] = []
    parts: list[NDArray[Any]] = []
    lengths: list[int] = []
    split_documents = extra_bos = 0
    with ctx.progress(f"shards: {split}", documents.height, "documents") as bar:
        for start in range(0, documents.height, ENCODE_DOCUMENTS):
            ctx.check_stop()
            texts = documents["text"][start : start + ENCODE_DOCUMENTS].to_list()
            window += [np.array(ids, dtype) for ids in tokenizer.encode_batch(texts, ctx.cores)]
            bar.update(len(texts))
            is_last = start + ENCODE_DOCUMENTS >= documents.height
            if is_last or sum(map(len, window)) >= params.window_tokens:
                own = [len(ids) for ids in window]
                plan = plan_rows(own, params.tokens_per_row, params.max_padding_fraction)
                rows = write_pieces(plan, window, params.tokens_per_row, tokenizer.bos_id, pad_id, dtype)
                parts.append(shuffle.permutation(rows))
                pieces = np.bincount([piece.document for row in plan for piece in row], minlength=len(own))
                split_documents += int((pieces > 1).sum())
                extra_bos += int(pieces.sum()) - len(own)
                lengths += own
                window = []
    rows = np.concatenate(parts)
    padding = int((rows == pad_id).sum())
    tokens = int(rows.size) - padding
    # Tokens in = tokens packed: every document's tokens, one BOS each, one more per further piece.
    assert tokens == sum(lengths) + len(lengths) + extra_bos, "packing lost or repeated tokens"
    statistics = {
        "tokens": tokens,
        "padding": padding,
        "documents": documents.height,
        "split_documents": split_documents,
        "continuation_bos": extra_bos,
        "bytes": int(documents["text"].str.len_bytes().sum()),
    }
    return Packed(rows, lengths, statistics)
