"""Section `tokenizer` of params.yaml."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from model.foreign_tokenizer import RANK_SUFFIX, SPLIT_PATTERNS
from model.tokenizer import SMALLEST_VOCAB, SPECIAL_TOKENS, VOCAB_MULTIPLE
from tasks._params import StageParams

FOLDER = "data/tokenizer"
"""Where files of other tokenizers are put."""


class Params(StageParams):
    """Section `tokenizer` of params.yaml."""

    strategy: Literal["train", "reuse", "byte"] = "train"
    """train: byte-level BPE on the corpus; reuse: a vocabulary made elsewhere; byte: one token per byte."""
    vocab_size: Annotated[int, Field(ge=SMALLEST_VOCAB)] = 4096
    """Ids in all, the nine specials included; for reuse what the file comes to, rounded up to a multiple of 64."""
    max_characters: Annotated[int, Field(gt=0)] = 30_000_000
    """Characters the merges are learned from; documents are taken in hash order of their ids."""
    max_characters_per_document: Annotated[int, Field(gt=0)] = 10_000
    """A longer document contributes its beginning only, so that no single one shapes the vocabulary."""
    split_pattern: Literal["zero2chat", "gpt4", "gpt2"] = "zero2chat"
    """How text is cut before merging, for train and for rank files; a tokenizer.json has its own, which is used."""
    reuse: str | None = None
    """Path below data/tokenizer: a tokenizer.json, a folder with one (Hugging Face), or a *.tiktoken rank file."""
    compare_with: dict[str, str] = Field(default_factory=dict)
    """Name -> path below data/tokenizer of vocabularies to compare with; rank files are named gpt2 or gpt4."""

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

    @model_validator(mode="after")
    def _files_are_named(self) -> "Params":
        if (self.strategy == "reuse") != (self.reuse is not None):
            raise ValueError(
                f"tokenizer.strategy={self.strategy} with tokenizer.reuse={self.reuse!r}; a file below {FOLDER} is "
                f"needed for strategy reuse and allowed for no other; set it or remove it"
            )
        named = {"reuse": self.reuse} | {f"compare_with.{name}": path for name, path in self.compare_with.items()}
        for key, path in named.items():
            parts = PurePosixPath(path).parts if path is not None else ("unset",)
            if not parts or parts[0] == "/" or ".." in parts:
                raise ValueError(f"tokenizer.{key}={path!r}; allowed: a path below {FOLDER}, such as gpt2.tiktoken")
        unknown = [k for k, v in self.compare_with.items() if v.endswith(RANK_SUFFIX) and k not in SPLIT_PATTERNS]
        if unknown:
            raise ValueError(
                f"tokenizer.compare_with.{unknown[0]} is a rank file, which has no split pattern of its own; allowed "
                f"names, which choose it: {', '.join(SPLIT_PATTERNS)}"
            )
        return self
