"""A small corpus on disk for tests: documents, their split, shards and a tokenizer, as earlier stages write them."""

from pathlib import Path

import numpy as np
import polars as pl

from model.batches import write_rows
from model.tokenizer import Tokenizer, byte_tokenizer_json

TOKENS_PER_ROW = 384
VERBS = ("Return", "Remove", "Compare", "Collect", "Print")
NOUNS = ("records", "headers", "folders", "signals", "windows", "matrices")


def write_corpus(root: Path, held_out_every: int = 3) -> Tokenizer:
    """Thirty documented functions; every third is in the val split. -> the byte tokenizer that packed the shards."""
    artifacts = root / "artifacts"
    for folder in ("corpus/documents", "shards", "tokenizer"):
        (artifacts / folder).mkdir(parents=True, exist_ok=True)
    (artifacts / "tokenizer" / "tokenizer.json").write_text(byte_tokenizer_json())
    tokenizer = Tokenizer.from_file(artifacts / "tokenizer" / "tokenizer.json")
    names = [f"package.{verb.lower()}_{noun}" for verb in VERBS for noun in NOUNS]
    pairs = [(verb, noun) for verb in VERBS for noun in NOUNS]
    texts = [
        f"def {name}(items, flag=True)\n\n{verb} all the {noun} that were given. The rest is left alone."
        for name, (verb, noun) in zip(names, pairs, strict=True)
    ]
    splits = ["val" if number % held_out_every == 0 else "train" for number in range(len(names))]
    pl.DataFrame(
        {
            "id": [f"python_docs:{name}" for name in names],
            "text": texts,
            "source": ["package"] * len(names),
            "domain": ["stdlib"] * len(names),
            "title": names,
            "kind": ["function"] * len(names),
        }
    ).write_parquet(artifacts / "corpus" / "documents" / "00000.parquet")
    pl.DataFrame(
        {"id": [f"python_docs:{name}" for name in names], "split": splits, "tokens": [len(text) for text in texts]}
    ).write_parquet(artifacts / "shards" / "documents.parquet")
    info = {
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "pad_id": tokenizer.special_id("<|output_end|>"),
        "tokenizer_sha256": tokenizer.sha256,
    }
    for split in ("train", "val"):
        own = [text for text, other in zip(texts, splits, strict=True) if other == split]
        rows = np.full((len(own), TOKENS_PER_ROW + 1), info["pad_id"])
        for row, text in zip(rows, own, strict=True):
            ids = [tokenizer.bos_id, *tokenizer.encode(text)]
            row[: len(ids)] = ids
        write_rows(artifacts / "shards", split, rows, None, info)
    return tokenizer


def held_out_names() -> set[str]:
    names = [f"package.{verb.lower()}_{noun}" for verb in VERBS for noun in NOUNS]
    return set(names[::3])
