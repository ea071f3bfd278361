"""Paragraphs that occur in many documents: licence headers, navigation, sign-up lines. One document keeps each.

A paragraph is what stands between blank lines. Two are the same when they are equal after lower-casing and with every
run of white space as one space. Punctuation counts: in code and formulas it is the content. Short ones are never
touched, so that headings and closing braces stay. This comes after the removal of duplicate documents; only documents
kept so far are counted, and each counts once however often it repeats a paragraph.

Not covered  Repeated lines inside a paragraph; a repeated passage that is no paragraph of its own; paragraphs that
             differ in a word.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks._words import hash_texts
from tasks.corpus.duplicates.partitions import group_begins, partitions, records, repeated_keys

_BLANK_LINES = re.compile(r"(\n(?:[^\S\n]*\n)+)")
RECORDS_PER_CHUNK = 1 << 18


class Repeated(NamedTuple):
    """Paragraphs to remove, everywhere but in the document that owns them."""

    hashes: NDArray[np.uint64]
    """Sorted."""
    owners: NDArray[np.int64]
    """Number of the best-ranked kept document that holds each."""


def paragraph_hashes(texts: Sequence[str], min_characters: int) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """(text, hash) of every paragraph of at least min_characters, white space collapsed; each pair once, sorted."""
    import polars as pl

    index, paragraphs = [], []
    for number, text in enumerate(texts):
        for paragraph in _BLANK_LINES.split(text)[::2]:
            canonical = _canonical(paragraph, min_characters)
            if canonical:
                index.append(number)
                paragraphs.append(canonical)
    documents, hashes = np.array(index, np.int32), hash_texts(pl.Series(paragraphs, dtype=pl.String))
    order = np.lexsort((hashes, documents))
    documents, hashes = documents[order], hashes[order]
    first = group_begins(hashes) | (np.diff(documents, prepend=-1) != 0)
    return documents[first], hashes[first]


def repeated(
    shards: Sequence[tuple[Path, Path]],
    first_documents: Sequence[int],
    rank: NDArray[np.int64],
    kept: NDArray[np.bool_],
    max_documents: int,
    scratch: Path,
    memory_bytes: int,
) -> Repeated:
    """The paragraphs of more than max_documents kept documents.

    shards: for each shard the two results of paragraph_hashes as .npy files; its document i has the number
    first_documents[shard] + i. Ranks of kept documents are distinct; the smallest owns the paragraph.
    """

    def chunks() -> Iterator[NDArray[np.void]]:
        for (document_file, hash_file), first in zip(shards, first_documents, strict=True):
            documents, hashes = np.load(document_file, mmap_mode="r"), np.load(hash_file, mmap_mode="r")
            for start in range(0, len(hashes), RECORDS_PER_CHUNK):
                numbers = documents[start : start + RECORDS_PER_CHUNK].astype(np.int64) + first
                chosen = kept[numbers]
                yield records(hashes[start : start + RECORDS_PER_CHUNK][chosen], numbers[chosen])

    total = sum(len(np.load(hash_file, mmap_mode="r")) for _, hash_file in shards)
    found, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for part in partitions(chunks(), total, scratch / "paragraphs", memory_bytes):
        group = repeated_keys(part)
        group = group[np.lexsort((rank[group["number"]], group["key"]))]
        begins = np.flatnonzero(group_begins(group["key"]))
        often = begins[np.diff(np.append(begins, len(group))) > max_documents]
        found.append(group["key"][often])  # parts and keys within them ascend
        owners.append(group["number"][often])
    return Repeated(np.concatenate(found), np.concatenate(owners))


def remove_repeated(
    texts: Sequence[str], numbers: NDArray[np.int64], repeats: Repeated, min_characters: int
) -> tuple[list[str], NDArray[np.int64]]:
    """The numbered documents without repeated paragraphs of other owners, and characters removed of each.

    A paragraph goes together with the blank lines behind it. A document may end up empty.
    """
    documents, hashes = paragraph_hashes(texts, min_characters)
    place = np.minimum(np.searchsorted(repeats.hashes, hashes), max(len(repeats.hashes) - 1, 0))
    gone = np.zeros(len(hashes), bool)
    if len(repeats.hashes):
        gone = (repeats.hashes[place] == hashes) & (repeats.owners[place] != numbers[documents])
    result = list(texts)
    documents, hashes = documents[gone], hashes[gone]
    for number in np.unique(documents).tolist():
        own = slice(*np.searchsorted(documents, [number, number + 1]).tolist())
        result[number] = _without(texts[number], hashes[own], min_characters)
    removed = [len(before) - len(after) for before, after in zip(texts, result, strict=True)]
    return result, np.array(removed, np.int64)


def _without(text: str, unwanted: NDArray[np.uint64], min_characters: int) -> str:
    import polars as pl

    pieces = _BLANK_LINES.split(text)
    paragraphs, blanks = pieces[::2], [*pieces[1::2], ""]
    canonical = [_canonical(paragraph, min_characters) for paragraph in paragraphs]
    gone = np.isin(hash_texts(pl.Series(canonical, dtype=pl.String)), unwanted).tolist()
    kept = [number for number in range(len(paragraphs)) if not gone[number]]
    if not kept:
        return ""
    if kept[-1] != len(paragraphs) - 1:
        blanks[kept[-1]] = ""  # nothing follows any more
    return "".join(paragraphs[number] + blanks[number] for number in kept)


def _canonical(paragraph: str, min_characters: int) -> str:
    """What paragraphs are compared by; empty for one that is too short."""
    if len(paragraph) < min_characters:
        return ""
    canonical = " ".join(paragraph.lower().split())
    return canonical if len(canonical) >= min_characters else ""
