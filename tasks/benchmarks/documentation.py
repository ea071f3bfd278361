"""Documented Python objects of the corpus: their names, what they do in one sentence, and ways to ask for it.

Training and held-out objects are told apart by artifacts/shards/documents.parquet: a held-out object's document was in
no training row, so its question must be in no conversation either.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENTED_KINDS = ("module", "class", "function")
SHORTEST_DESCRIPTION = 20
LONGEST_DESCRIPTION = 180
"""In characters. Longer first sentences are left out: replies must end within their token budget."""

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "thing": (
            "What is {t}?",
            "What is {t} for?",
            "Explain {t}.",
            "Describe {t}.",
            "What does the documentation say about {t}?",
            "What does {t} do?",
            "Tell me about {t}.",
            "What can I use {t} for?",
        ),
        "function": (
            "What does {t} do?",
            "What does {t}() do?",
            "What is {t}?",
            "Explain {t}.",
            "Describe {t}.",
            "What happens when I call {t}?",
            "What is {t} for?",
            "Tell me about {t}.",
        ),
    },
    "held_out": {
        "thing": ("Can you explain {t}?", "Why would I need {t}?"),
        "function": ("Can you explain {t}?", "Why would I call {t}?"),
    },
}

_SENTENCE_END = re.compile(r"(?<=[a-z0-9)'\"`][.!?])\s+(?=[A-Z`'\"])")


@dataclass(frozen=True)
class DocumentedObject:
    """`id` is its document, `name` its qualified name, `heading` its signature, `description` the first sentence of its
    documentation."""

    id: str
    name: str
    kind: str
    domain: str
    heading: str
    description: str

    @property
    def question_kind(self) -> str:
        return "function" if self.kind == "function" else "thing"


def read_objects(documents: Path, splits: Path, split: str) -> list[DocumentedObject]:
    """Public documented objects of one split ("train" or "val"), sorted by id.

    `documents` is artifacts/corpus/documents, `splits` artifacts/shards/documents.parquet. Names or descriptions that
    occur more than once within the split (inherited docstrings) are kept once: the first in order of id.
    """
    seen: set[str] = set()
    objects = []
    for row in read_documents(documents, splits, split, tuple(DOCUMENTED_KINDS)):
        if any(name.startswith("_") for name in row["title"].split(".")):
            continue
        described = describe(row["text"])
        if described is None or described[1] in seen or row["title"] in seen:
            continue
        seen |= {described[1], row["title"]}
        objects.append(DocumentedObject(row["id"], row["title"], row["kind"], row["domain"], *described))
    return objects


def read_documents(
    documents: Path,
    splits: Path,
    split: str,
    kinds: tuple[str, ...] | None = None,
    max_bytes: int | None = None,
) -> list[dict[str, Any]]:
    """Rows (id, title, kind, domain, text) of the documents that belong to `split`, sorted by id.

    A corpus may be more text than memory holds: take some `kinds` only, or the files up to `max_bytes` of text, which
    are a fair sample, as documents are dealt to files by hash.
    """
    import polars as pl

    chosen = pl.scan_parquet(splits).filter(pl.col("split") == split).select("id").collect().lazy()
    rows: list[dict[str, Any]] = []
    size = 0
    for file in sorted(documents.glob("*.parquet")):
        table = pl.scan_parquet(file).select("id", "title", "kind", "domain", "text")
        if kinds is not None:
            table = table.filter(pl.col("kind").is_in(list(kinds)))
        found = table.join(chosen, on="id", how="semi").collect()
        rows += found.to_dicts()
        size += int(found["text"].str.len_bytes().sum())
        if max_bytes is not None and size >= max_bytes:
            break
    return sorted(rows, key=lambda row: row["id"])


def describe(text: str) -> tuple[str, str] | None:
    """An object's heading and the first sentence of its documentation; None if there is none of a fitting length.

    The corpus writes these documents as a heading (signature), a blank line and the docstring.
    """
    heading, _, docstring = text.partition("\n\n")
    line = " ".join(docstring.split("\n\n", 1)[0].split())
    sentence = _SENTENCE_END.split(line)[0]
    if not SHORTEST_DESCRIPTION <= len(sentence) <= LONGEST_DESCRIPTION:
        return None
    if not sentence[0].isalpha() or ">>>" in sentence or sentence.endswith(":"):
        return None
    return heading, sentence


def ask(object_: DocumentedObject, phrasing: str, choice: int) -> str:
    """Question number `choice` (taken modulo their number) of the phrasings "train" or "held_out" about an object."""
    templates = QUESTIONS[phrasing][object_.question_kind]
    return templates[choice % len(templates)].format(t=object_.name)
