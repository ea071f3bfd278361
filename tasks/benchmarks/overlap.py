"""Which texts contain benchmark items: shared n-grams of words, found by sorted hashes.

A text contains an item when it shares an n-gram with it (n consecutive words inside one field of the item; case,
punctuation and line breaks do not count), or when it has all words of the item's bare question in order, where those
are SHORTEST to n - 1.

Covered      Every n-gram of every text: nothing is sampled, and what is there is found. Two different n-grams share a
             hash with probability 2^-64.
Ignored      N-grams that more than MAX_ITEMS items of one benchmark share, and more than MAX_SHARE of its items: its
             instructions and answer formats. They are counted per benchmark, and an item that has nothing else does not
             count as searchable. Passages that several questions are asked about are shared by fewer items.
Not covered  Paraphrases and translations; questions of fewer than SHORTEST words, but where they are a whole text
             (`find_questions`); scripts without spaces, in which everything between two punctuation marks is one word
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks._errors import StageError
from tasks._words import KERNEL_VERSION, Words, hash_words, ngrams
from tasks.benchmarks.items import BenchmarkItem, bare_question
from tasks.benchmarks.postings import (
    Postings,
    bit_table,
    candidates,
    items_at,
    make_postings,
    parts_of,
    places_of,
    runs_of,
    text_hashes,
)

NGRAM_WORDS = 13
SHORTEST = 8
"""Words of the shortest question that is searched for inside texts."""
MAX_ITEMS = 20
"""In 44 benchmarks, passages and example sentences are shared by up to 19 items; what more items share is instructions,
answer formats and file headers."""
MAX_SHARE = 0.01
"""So that a large benchmark may ask more than MAX_ITEMS questions about one passage."""
QUESTION_LETTERS = 10
"""A question with fewer letters is not searched for: words leave out the operators of 17 * 94, and 2 3 5 7 11 13 17 19
is in many texts."""

_FORMAT = 1
_KINDS = ("ngrams", "short", "questions")
_OTHER_ARRAYS = ("ngram_bits", "prefix_bits", "benchmark_of_item", "keys_of_item")


class Hits(NamedTuple):
    """Texts and the items they contain, one row per pair, sorted by document and item."""

    document: NDArray[np.int32]
    item: NDArray[np.int32]
    ngrams_shared: NDArray[np.int32]
    """Distinct n-grams; a short question counts as one."""


@dataclass(frozen=True)
class NgramIndex:
    """What is searched for. The arrays are only read, so that processes may share one copy on disk."""

    n: int
    names: tuple[str, ...]
    """The benchmarks, sorted."""
    ids: tuple[str, ...]
    """Ids of the items; an item's number is its place in here."""
    ignored: tuple[int, ...]
    """N-grams of each benchmark left out because too many of its items share them."""
    ngrams: Postings
    short: Postings
    """Bare questions of SHORTEST to n - 1 words."""
    questions: Postings
    """Bare questions of any length, for texts that are nothing else."""
    ngram_bits: NDArray[np.uint8]
    """Decides nearly every look-up of an n-gram before the search."""
    prefix_bits: NDArray[np.uint8]
    """The same for the first SHORTEST words of the short questions."""
    benchmark_of_item: NDArray[np.int32]
    keys_of_item: NDArray[np.int32]
    """N-grams and short questions of each item; 0 = nothing of it can be searched for inside texts."""

    @classmethod
    def build(cls, items: Iterable[BenchmarkItem], n: int = NGRAM_WORDS, max_items: int = MAX_ITEMS) -> "NgramIndex":
        """The index of the items, the same for any order of them. `n` words make an n-gram, more than SHORTEST."""
        if n <= SHORTEST:
            raise ValueError(f"n-grams of n={n} words; allowed: more than {SHORTEST}")
        rows = sorted(items)
        names = sorted({row.benchmark for row in rows})
        place = {name: number for number, name in enumerate(names)}
        benchmarks = np.array([place[row.benchmark] for row in rows], np.int32)
        limits = np.maximum(max_items, np.bincount(benchmarks, minlength=len(names)) * MAX_SHARE)
        owned = [
            (number, text) for number, row in enumerate(rows) for text in dict.fromkeys((*row.texts, row.question))
        ]
        hashes, starts = ngrams(hash_words([text for _, text in owned]), n)
        owners = np.repeat(np.array([number for number, _ in owned], np.int32), np.diff(starts))
        long, ignored = make_postings(hashes, owners, benchmarks, limits)

        asked = np.array([_letters(row.question) >= QUESTION_LETTERS for row in rows], bool)
        bare = hash_words([row.question for row in rows])
        questions, _ = make_postings(text_hashes(bare)[asked], _numbers(asked), benchmarks, limits)
        short, prefixes, short_ignored = _short_questions(bare, asked, n, benchmarks, limits)
        keys_of_item = sum(np.bincount(postings.items, minlength=len(rows)) for postings in (long, short))
        return cls(
            n, tuple(names), tuple(row.id for row in rows), tuple((ignored + short_ignored).tolist()),
            long, short, questions, bit_table(long.keys), bit_table(prefixes),
            benchmarks, np.asarray(keys_of_item, np.int32),
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the index into `folder`; index.json, which makes it one, comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self._arrays().items():
            np.save(folder / f"{name}.npy", array)
        (folder / "index.json").write_text(json.dumps(self._header()), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "NgramIndex":
        """What `save` wrote; the arrays are mapped, not read. StageError when another version wrote it."""
        header = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        found, wanted = [header["format"], header["kernel"]], [_FORMAT, KERNEL_VERSION]
        if found != wanted:
            raise StageError(
                f"benchmarks: the index in {folder} has format and kernel {found}; this version reads {wanted}; next: "
                f"remove the folder, it is built again"
            )

        def read(name: str) -> NDArray[Any]:
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        fields: dict[str, Any] = {name: tuple(header[name]) for name in ("names", "ids", "ignored")}
        fields |= {kind: Postings(*(read(f"{kind}_{part}") for part in Postings._fields)) for kind in _KINDS}
        fields |= {name: read(name) for name in _OTHER_ARRAYS}
        return cls(header["n"], **fields)

    @property
    def digest(self) -> str:
        """sha256 of all that a search and its report depend on."""
        total = hashlib.sha256(json.dumps(self._header()).encode())
        for array in self._arrays().values():
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()

    def _header(self) -> dict[str, Any]:
        versions = {"format": _FORMAT, "kernel": KERNEL_VERSION}
        return {**versions, "n": self.n, "names": self.names, "ids": self.ids, "ignored": self.ignored}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        parts = {f"{kind}_{part}": array for kind in _KINDS for part, array in getattr(self, kind)._asdict().items()}
        return parts | {name: getattr(self, name) for name in _OTHER_ARRAYS}


def find(index: NgramIndex, words: Words) -> Hits:
    """The items that each text contains. Does not depend on how texts are grouped into calls."""
    return merge((_find(index, part), first) for part, first in parts_of(words))


def _find(index: NgramIndex, words: Words) -> Hits:
    hashes, starts = ngrams(words, index.n)
    at = candidates(index.ngram_bits, hashes)
    places, found = places_of(index.ngrams.keys, hashes[at])
    documents = np.searchsorted(starts, at[found], side="right") - 1
    pairs = [_pairs(index.ngrams, documents, places[found])]

    hashes, starts = ngrams(words, SHORTEST)
    at = candidates(index.prefix_bits, hashes)
    documents = np.searchsorted(starts, at, side="right") - 1
    first = words.starts[documents] + at - starts[documents]
    for length in range(SHORTEST, index.n):
        inside = first + length <= words.starts[documents + 1]
        places, found = places_of(index.short.keys, runs_of(words, first[inside], length))
        pairs.append(_pairs(index.short, documents[inside][found], places[found]))
    return _count(np.concatenate(pairs), len(index.ids))


def find_questions(index: NgramIndex, texts: Sequence[str]) -> Hits:
    """The items whose bare question a text is, whatever its length: for what users ask, not for long texts."""
    bare = hash_words([bare_question(text, keep_passage=True) for text in texts])
    places, found = places_of(index.questions.keys, text_hashes(bare))
    found &= np.diff(bare.starts) > 0
    return _count(_pairs(index.questions, _numbers(found), places[found]), len(index.ids))


def merge(parts: Iterable[tuple[Hits, int]]) -> Hits:
    """Hits of several calls as one; each comes with the number of its first document."""
    chosen = [Hits(hits.document + first, hits.item, hits.ngrams_shared) for hits, first in parts]
    columns = zip(*chosen, strict=True) if chosen else ([], [], [])
    return Hits(*(np.concatenate([np.zeros(0, np.int32), *column]).astype(np.int32) for column in columns))


def enough(index: NgramIndex, hits: Hits, min_shared_ngrams: int) -> Hits:
    """The hits that share `min_shared_ngrams` n-grams, or all that the item has."""
    kept = hits.ngrams_shared >= np.minimum(min_shared_ngrams, np.maximum(index.keys_of_item[hits.item], 1))
    return Hits(hits.document[kept], hits.item[kept], hits.ngrams_shared[kept])


def shared_by_document(hits: Hits, documents: int) -> NDArray[np.int32]:
    """N-grams that each of `documents` texts shares with the item it shares most with; 0 = it contains none."""
    result = np.zeros(documents, np.int32)
    np.maximum.at(result, hits.document, hits.ngrams_shared)
    return result


def _pairs(postings: Postings, documents: NDArray[np.integer], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distinct (document, item) for every distinct (document, key); an item stands once for each key it shares."""
    distinct = np.unique(np.stack([documents, places], axis=1), axis=0) if len(places) else np.zeros((0, 2), np.int64)
    items, number = items_at(postings, distinct[:, 1])
    return np.stack([distinct[number, 0], items.astype(np.int64)], axis=1)


def _count(pairs: NDArray[np.int64], items: int) -> Hits:
    keys, counts = np.unique(pairs[:, 0] * max(items, 1) + pairs[:, 1], return_counts=True)
    document, item = np.divmod(keys, max(items, 1))
    return Hits(document.astype(np.int32), item.astype(np.int32), counts.astype(np.int32))


def _short_questions(
    bare: Words, asked: NDArray[np.bool_], n: int, benchmarks: NDArray[np.int32], limits: NDArray[np.float64]
) -> tuple[Postings, NDArray[np.uint64], NDArray[np.int64]]:
    """Postings of the questions of SHORTEST to n - 1 words, the hashes of their first words, and what was ignored."""
    lengths = np.diff(bare.starts)
    owners = [_numbers(asked & (lengths == length)) for length in range(SHORTEST, n)]
    hashes = [runs_of(bare, bare.starts[o], length) for o, length in zip(owners, range(SHORTEST, n), strict=True)]
    short, ignored = make_postings(np.concatenate(hashes), np.concatenate(owners), benchmarks, limits)
    return short, runs_of(bare, bare.starts[np.unique(short.items)], SHORTEST), ignored


def _letters(text: str) -> int:
    return sum(character.isalpha() for character in text)


def _numbers(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.flatnonzero(chosen).astype(np.int32)
