"""What a document is compared by: exact keys, five-word shingles and MinHash signatures.

A shingle is five consecutive words (see tasks._words) as a 32-bit hash; a text of one to four words is filled up with
zeros to one shingle of its own. A signature is 112 minima over the shingles, 14 bands of 8, equal to
datasketch.MinHash(112, scheme="affine32") fed with the same shingle hashes. A text without any word has no shingle and,
as in datasketch, the signature of the empty set; it is nobody's near duplicate.
"""

import hashlib
import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks._words import GOLDEN, Words, mix64, ngrams

if TYPE_CHECKING:
    import datasketch
    import polars as pl

BANDS, ROWS_PER_BAND = 14, 8
PERMUTATIONS = BANDS * ROWS_PER_BAND
SCHEME = "affine32"
SHINGLE_WORDS = 5
EMPTY = np.uint32(0xFFFFFFFF)
"""Every component of the signature of a text without words."""

SHINGLES_PER_CHUNK = 1 << 17
"""Shingles that stay in the cache while all permutations run over them."""


def shingles(words: Words) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Shingle hashes of all texts, one after the other and in the order of the text, and where each text's begin."""
    long_hashes, _ = ngrams(words, SHINGLE_WORDS)
    counts = np.diff(words.starts)
    short = np.flatnonzero((counts > 0) & (counts < SHINGLE_WORDS))
    own = np.maximum(counts - (SHINGLE_WORDS - 1), 0)
    own[short] = 1
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(own)])
    hashes = np.empty(int(starts[-1]), np.uint32)
    is_long = np.ones(len(hashes), bool)
    is_long[starts[short]] = False
    hashes[is_long] = long_hashes >> np.uint64(32)
    filled = np.zeros((len(short), SHINGLE_WORDS), np.uint64)
    for k in range(SHINGLE_WORDS - 1):
        has = counts[short] > k
        filled[has, k] = words.hashes[words.starts[short[has]] + k]
    rows = Words(filled.ravel(), np.arange(len(short) + 1, dtype=np.int64) * SHINGLE_WORDS)
    hashes[starts[short]] = ngrams(rows, SHINGLE_WORDS)[0] >> np.uint64(32)
    return hashes, starts


def shingle_sets(words: Words) -> list[NDArray[np.uint32]]:
    """The set of shingle hashes of each text, as a sorted array; empty for a text without words."""
    hashes, starts = shingles(words)
    return [np.unique(hashes[first:last]) for first, last in itertools.pairwise(starts)]


def jaccard(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> float:
    """Shared shingles / all shingles of two sorted sets; 0 when both are empty."""
    together = np.sort(np.concatenate([first, second]))
    shared = int(np.count_nonzero(together[1:] == together[:-1]))
    return shared / max(len(together) - shared, 1)


def signatures(words: Words) -> NDArray[np.uint32]:
    """MinHash signatures [texts, 112]; component j is the minimum of a_j x + b_j modulo 2^32 over mixed shingles x."""
    hashes, starts = shingles(words)
    result = np.full((len(starts) - 1, PERMUTATIONS), EMPTY, np.uint32)
    filled = np.flatnonzero(np.diff(starts))
    begins, total = starts[filled], len(hashes)
    a, b = permutations()
    for first in range(0, total, SHINGLES_PER_CHUNK):
        last = min(first + SHINGLES_PER_CHUNK, total)
        mixed = _mix32(hashes[first:last])
        from_text = int(np.searchsorted(begins, first, side="right")) - 1  # begun in this chunk or an earlier one
        to_text = int(np.searchsorted(begins, last))
        offsets = np.maximum(begins[from_text:to_text], first) - first
        minima = np.empty((PERMUTATIONS, len(offsets)), np.uint32)
        scratch = np.empty_like(mixed)
        for j in range(PERMUTATIONS):
            np.multiply(mixed, a[j], out=scratch)
            np.add(scratch, b[j], out=scratch)
            np.minimum.reduceat(scratch, offsets, out=minima[j])
        texts = filled[from_text:to_text]
        result[texts] = np.minimum(result[texts], minima.T)
    return result


def permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The factors a and addends b of datasketch's permutations."""
    from datasketch import MinHash

    a, b = (np.asarray(part, np.uint32) for part in MinHash(PERMUTATIONS, scheme=SCHEME).permutations)
    return a, b


def as_minhash(row: NDArray[np.uint32]) -> "datasketch.MinHash":
    """One signature as datasketch's object, for its LSH index and its other measures."""
    from datasketch import MinHash

    return MinHash(PERMUTATIONS, hashvalues=row, scheme=SCHEME)


def exact_keys(texts: "pl.Series", words: Words) -> NDArray[np.uint64]:
    """Keys [texts, 2] that are equal iff the texts have the same words in the same order; without words, the same text.

    Each half is a sum over the words, modulo 2^64, of a mix of word and place; two different texts agree in both with
    probability 2^-64 (that of two words sharing a hash) per differing word, or 2^-128 by the sums.
    """
    counts = np.diff(words.starts)
    place = np.arange(1, len(words.hashes) + 1, dtype=np.uint64) - np.repeat(words.starts[:-1], counts).astype(
        np.uint64
    )
    first = mix64(words.hashes + place * GOLDEN)
    filled = np.flatnonzero(counts)
    keys = np.zeros((len(counts), 2), np.uint64)
    if len(filled):
        keys[filled, 0] = np.add.reduceat(first, words.starts[filled])
        keys[filled, 1] = np.add.reduceat(mix64(first ^ GOLDEN), words.starts[filled])
    for number in np.flatnonzero(counts == 0).tolist():
        digest = hashlib.blake2b((texts[number] or "").encode(), digest_size=16).digest()
        keys[number] = np.frombuffer(digest, "<u8")
    return keys


def exact_winners(keys: NDArray[np.uint64], rank: NDArray[np.int64], candidate: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each candidate the best-ranked candidate with its key; others stand for themselves. Ranks are distinct."""
    winner = np.arange(len(keys), dtype=np.int64)
    numbers = np.flatnonzero(candidate)
    order = numbers[np.argsort(keys[numbers, 0])]
    again = keys[order[1:], 0] == keys[order[:-1], 0]
    members = order[np.r_[again, False] | np.r_[False, again]] if len(order) else order
    members = members[np.lexsort((rank[members], keys[members, 1], keys[members, 0]))]
    begins = np.ones(len(members), bool)
    begins[1:] = (keys[members[1:]] != keys[members[:-1]]).any(axis=1)
    winner[members] = members[np.maximum.accumulate(np.where(begins, np.arange(len(members)), 0))]
    return winner


def _mix32(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MurmurHash3's 32-bit finaliser, which datasketch's affine32 applies to every hash it is given."""
    x = hashes ^ (hashes >> np.uint32(16))
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
