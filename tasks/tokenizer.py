"""tokenizer: learn the vocabulary, or use plain bytes.

Reads    artifacts/corpus/documents/*.parquet
Writes   artifacts/tokenizer/tokenizer.json, tokenizer_config.json, report.json, report.md
Promise  the vocabulary has exactly params.vocab_size ids, the nine specials last; the file depends on the documents
         only; `transformers` and the pipeline's fast encoder give equal ids, checked on held-out documents
Limits   compression is measured on documents kept out of training, unless there are fewer than MIN_HELD_OUT
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from model.tokenizer import (
    BYTE_TOKENS,
    SMALLEST_VOCAB,
    SPECIAL_TOKENS,
    VOCAB_MULTIPLE,
    Tokenizer,
    byte_tokenizer_json,
    train_tokenizer_json,
)
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json, write_text
from tasks._params import StageParams

if TYPE_CHECKING:
    import polars as pl

HELD_OUT_BYTES = 1_000_000
MIN_HELD_OUT = 20
"""Held-out documents; a corpus under ten times as many is measured on its training documents instead."""
ENCODE_DOCUMENTS = 1_000
CHECKED_DOCUMENTS = 200


class Params(StageParams):
    """Section `tokenizer` of params.yaml."""

    strategy: Literal["train", "byte"] = "train"
    """train: byte-level BPE on the corpus; byte: one token per byte, no training."""
    vocab_size: Annotated[int, Field(ge=SMALLEST_VOCAB)] = 4096
    """Ids in all, the nine specials included."""
    max_characters: Annotated[int, Field(gt=0)] = 30_000_000
    """Characters the merges are learned from; documents are taken in hash order of their ids."""
    max_characters_per_document: Annotated[int, Field(gt=0)] = 10_000
    """A longer document contributes its beginning only, so that no single one shapes the vocabulary."""

    @model_validator(mode="after")
    def _vocabulary_fits(self) -> "Params":
        if self.vocab_size % VOCAB_MULTIPLE:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size} is not a multiple of {VOCAB_MULTIPLE}; "
                f"use {round(self.vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE}"
            )
        if self.strategy == "byte" and self.vocab_size != SMALLEST_VOCAB:
            raise ValueError(
                f"tokenizer.strategy=byte has exactly {SMALLEST_VOCAB} ids (256 bytes, {len(SPECIAL_TOKENS)} specials, "
                f"padding); found tokenizer.vocab_size={self.vocab_size}; use {SMALLEST_VOCAB}"
            )
        return self


def run(ctx: StageContext) -> None:
    """Train or build, check, measure, write."""
    import polars as pl

    params = ctx.params
    assert isinstance(params, Params)
    documents = pl.read_parquet(ctx.input("artifacts/corpus/documents") / "*.parquet", columns=["id", "text", "domain"])
    training, held_out = _split(documents, params)
    if params.strategy == "byte":
        content = byte_tokenizer_json()
    else:
        ctx.note(f"learning {params.vocab_size} tokens from {training.height:,} documents")
        content = train_tokenizer_json(_sample(training, params), params.vocab_size)
    tokenizer = Tokenizer.from_json(content)
    if tokenizer.vocab_size != params.vocab_size:
        allowed = tokenizer.vocab_size // VOCAB_MULTIPLE * VOCAB_MULTIPLE
        raise StageError(
            f"tokenizer.vocab_size={params.vocab_size} is larger than the corpus supports: {training.height} documents "
            f"hold pairs for {tokenizer.vocab_size} tokens; allowed: at most {allowed}; next: set tokenizer.vocab_size "
            f"to {allowed}, raise tokenizer.max_characters={params.max_characters}, or add text"
        )
    _check_equal_ids(content, tokenizer, held_out["text"].head(CHECKED_DOCUMENTS).to_list())
    ctx.check_stop()
    report = _measure(tokenizer, training, held_out, params, ctx.cores)
    write_text(ctx.out / "tokenizer.json", content)
    write_json(ctx.out / "tokenizer_config.json", _config())
    write_json(ctx.out / "report.json", report)
    write_text(ctx.out / "report.md", _render(report))
    read = training["text"].str.slice(0, params.max_characters_per_document).str.len_bytes().sum()
    ctx.count(train_bytes=int(read), merges=params.vocab_size - BYTE_TOKENS - len(SPECIAL_TOKENS))
    ctx.measure("bytes_per_token", report["bytes_per_token"])
    ctx.report(
        vocab_size=tokenizer.vocab_size,
        bytes_per_token=report["bytes_per_token"],
        dead_tokens=report["dead_tokens"],
        training_documents=training.height,
    )


def _split(documents: "pl.DataFrame", params: Params) -> tuple["pl.DataFrame", "pl.DataFrame"]:
    """Training sample and held-out documents: the first and the last in hash order of the ids."""
    import polars as pl

    hashes = [hashlib.sha256(f"tokenizer:{name}".encode()).hexdigest() for name in documents["id"]]
    size = pl.min_horizontal(pl.col("text").str.len_chars(), pl.lit(params.max_characters_per_document))
    ordered = documents.with_columns(pl.Series("hash", hashes, pl.String)).sort("hash", "id")
    from_end = ordered["text"].str.len_bytes().reverse().cum_sum().reverse()
    held = ordered.filter((from_end <= HELD_OUT_BYTES) & (pl.int_range(pl.len()) >= pl.len() * 0.9))
    if held.height < MIN_HELD_OUT:
        held, rest = ordered, ordered
    else:
        rest = ordered.head(ordered.height - held.height)
    before = size.cast(pl.Int64).cum_sum() - size.cast(pl.Int64)
    return rest.filter(before < params.max_characters), held


def _sample(training: "pl.DataFrame", params: Params) -> Iterator[str]:
    return (text[: params.max_characters_per_document] for text in training["text"])


def _check_equal_ids(content: str, tokenizer: Tokenizer, texts: list[str]) -> None:
    from tokenizers import Tokenizer as TokenizerFile

    reference = TokenizerFile.from_str(content)
    for special in SPECIAL_TOKENS:  # `tokenizers` would turn their names into ids; texts are compared without them
        texts = [text.replace(special, "") for text in texts]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert reference.encode(text, add_special_tokens=False).ids == ids, f"encoders differ on {text[:200]!r}"
        assert tokenizer.decode(ids) == text


def _measure(
    tokenizer: Tokenizer, training: "pl.DataFrame", held_out: "pl.DataFrame", params: Params, threads: int
) -> dict[str, Any]:
    """Compression on held-out text, in all and per domain; tokens that the training text never uses."""
    uses = np.zeros(tokenizer.vocab_size, np.int64)
    for ids in _encode(tokenizer, list(_sample(training, params)), threads):
        uses += np.bincount(ids, minlength=tokenizer.vocab_size)
    per_domain: dict[str, dict[str, int]] = {}
    for domain, text, ids in zip(
        held_out["domain"], held_out["text"], _encode(tokenizer, held_out["text"].to_list(), threads), strict=True
    ):
        entry = per_domain.setdefault(domain, {"documents": 0, "bytes": 0, "tokens": 0})
        entry["documents"] += 1
        entry["bytes"] += len(text.encode())
        entry["tokens"] += len(ids)
    tokens, size = sum(d["tokens"] for d in per_domain.values()), sum(d["bytes"] for d in per_domain.values())
    ordinary = tokenizer.bytes_per_id()
    return {
        "strategy": params.strategy,
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.sha256,
        "training_documents": training.height,
        "held_out_documents": held_out.height,
        "bytes_per_token": round(size / max(tokens, 1), 4),
        "dead_tokens": int(sum(1 for number, use in enumerate(uses) if not use and ordinary[number] > 1)),
        "unused_bytes": int(sum(1 for number, use in enumerate(uses) if not use and ordinary[number] == 1)),
        "domains": {
            name: {**entry, "bytes_per_token": round(entry["bytes"] / max(entry["tokens"], 1), 4)}
            for name, entry in sorted(per_domain.items())
        },
        "longest_tokens": _longest(tokenizer),
    }


def _encode(tokenizer: Tokenizer, texts: list[str], threads: int) -> Iterator[list[int]]:
    for start in range(0, len(texts), ENCODE_DOCUMENTS):
        yield from tokenizer.encode_batch(texts[start : start + ENCODE_DOCUMENTS], threads)


def _longest(tokenizer: Tokenizer) -> list[str]:
    sizes = tokenizer.bytes_per_id()
    numbers = sorted(range(tokenizer.vocab_size), key=lambda number: (-sizes[number], number))[:20]
    return [tokenizer.decode([number]) for number in numbers]


def _config() -> dict[str, Any]:
    """What `transformers` needs beside tokenizer.json; the export stage adds the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|output_end|>",
        "clean_up_tokenization_spaces": False,
    }


def _render(report: dict[str, Any]) -> str:
    lines = [
        "# Tokenizer",
        "",
        f"{report['vocab_size']:,} ids ({report['strategy']}), {report['bytes_per_token']} bytes per token on "
        f"{report['held_out_documents']:,} held-out documents. {report['dead_tokens']} merged tokens and "
        f"{report['unused_bytes']} single bytes do not occur in the training text.",
        "",
        "| domain | documents | bytes | tokens | bytes per token |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, d in report["domains"].items():
        lines.append(f"| {name} | {d['documents']:,} | {d['bytes']:,} | {d['tokens']:,} | {d['bytes_per_token']} |")
    longest = " ".join(repr(token) for token in report["longest_tokens"])
    return "\n".join([*lines, "", f"Longest tokens: {longest}", ""])
