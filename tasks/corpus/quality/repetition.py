"""Repetition inside documents: hashes of runs of characters, and n-grams of words that come again.

All of it is vectorised over a slice of documents; no Python code runs per document or word. Equality of runs is
equality of 64-bit hashes: a polynomial of the code points modulo 2^64, mixed with the length.
Covered: chance (two different runs of a slice share a hash about once in 2^30 slices).
Not covered: an adversary, who can build long runs that collide under any polynomial modulo a power of two.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_BITS = 14
BLOCK = 1 << BLOCK_BITS
"""Characters hashed at a time, so that the powers stay in the cache."""
SHINGLE_WORDS = 5
TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)

_DOCUMENT_BITS = 17
"""Enough for all documents of SHINGLE_WORDS words in a slice (statistics.SLICE_BYTES)."""
_MASK = 2**64 - 1
_BASE = 0x9E3779B97F4A7C15  # any odd number has an inverse modulo 2^64
_LENGTH = 0xD6E8FEB86659FD93
_NGRAM = 0xA24BAED4963EE407
_DOCUMENT = 0x8CB92BA72F3D8DD7


class RunHashes:
    """64-bit hashes of any runs of a sequence of code points, from one pass over it."""

    def __init__(self, values: NDArray[np.uint32]) -> None:
        powers = _powers(_BASE, BLOCK)
        # sums[i] = values[0] + values[1] * base + ... + values[i - 1] * base^(i - 1), modulo 2^64
        self.sums = np.zeros(len(values) + 1, np.uint64)
        self.block_powers = _powers(pow(_BASE, BLOCK, 2**64), len(values) // BLOCK + 1)
        for number, start in enumerate(range(0, len(values), BLOCK)):
            block = values[start : start + BLOCK] * powers[: len(values) - start]
            block *= self.block_powers[number]
            block[:1] += self.sums[start]  # an array, as a scalar would warn of the intended overflow
            np.cumsum(block, out=self.sums[start + 1 : start + 1 + len(block)])

    def __call__(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Equal for equal runs [start, end), wherever they stand."""
        inverse = pow(_BASE, -1, 2**64)
        result = self.sums[ends] - self.sums[starts]
        result *= _powers(inverse, BLOCK)[starts & (BLOCK - 1)]
        result *= _powers(pow(inverse, BLOCK, 2**64), len(self.block_powers))[starts >> BLOCK_BITS]
        result += (ends - starts).astype(np.uint64) * np.uint64(_LENGTH)
        return mix(result)


@functools.lru_cache(maxsize=8)
def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """base^0 .. base^(count - 1) modulo 2^64."""
    factors = np.full(count, base & _MASK, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64, in place: every input bit reaches every output bit, and no two values merge."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def salt(hashes: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hashes that are equal only inside one document; starts[d]..starts[d + 1] are document d's."""
    documents = np.arange(len(starts) - 1, dtype=np.uint64) * np.uint64(_DOCUMENT)
    return mix(hashes + np.repeat(documents, np.diff(starts)))


class Groups(NamedTuple):
    """Positions that share a key with another one, group by group."""

    members: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Where each group begins in `members`."""

    def firsts(self) -> NDArray[np.int64]:
        return np.minimum.reduceat(self.members, self.starts) if len(self.starts) else self.members

    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.starts, append=len(self.members))

    def repeats(self, length: int) -> NDArray[np.int64]:
        """Positions that repeat an earlier one, ascending; all positions are below `length`."""
        chosen = np.zeros(length, bool)
        chosen[self.members] = True
        chosen[self.firsts()] = False
        return np.flatnonzero(chosen)


def group(keys: NDArray[np.uint64], positions: NDArray[np.int64]) -> Groups:
    """Positions whose keys occur at least twice."""
    order = np.argsort(keys)
    ordered = keys[order]
    like_previous = np.zeros(len(keys) + 1, bool)
    like_previous[1:-1] = ordered[1:] == ordered[:-1]
    member = like_previous[:-1] | like_previous[1:]
    return Groups(positions[order[member]], np.flatnonzero(~like_previous[:-1][member]))


class Repetition(NamedTuple):
    """Per document, over words as written."""

    top_characters: dict[int, NDArray[np.int64]]
    """By n: occurrences times characters (with one space between words) of the n-gram that occurs most often, 0 when
    none occurs twice. Of equally frequent ones the longest counts: datatrove takes the first, which differs rarely
    and never exceeds it. Occurrences may overlap, so this can exceed the text."""
    duplicate_characters: dict[int, NDArray[np.int64]]
    """By n: characters of the words inside at least one n-gram that occurred earlier, each word once. datatrove
    instead walks on by n words behind a repeated n-gram, and does not remember the n-grams it skipped; it therefore
    never finds more, and often the same."""


def count_repetition(
    hashes: NDArray[np.uint64], characters: NDArray[np.int64], starts: NDArray[np.int64]
) -> Repetition:
    """From the hashes and lengths of all words; starts[d]..starts[d + 1] are document d's.

    An n-gram occurs twice only if both its (n-1)-grams do, so every length searches only what the last one left.
    N-grams that run into the next document cannot repeat: the salt tells their documents apart.
    """
    documents, length = len(starts) - 1, len(hashes)
    owner = np.repeat(np.arange(documents), np.diff(starts))
    before = np.concatenate([[0], np.cumsum(characters)])  # characters of all earlier words
    words = salt(hashes, starts)
    top, duplicates = {}, {}
    candidates = np.arange(max(length - 1, 0))
    keys = words[candidates]
    for n in range(2, max(DUPLICATE_NGRAMS) + 1):
        found, candidates, keys = _extend(words, keys, candidates, n)
        if n in TOP_NGRAMS:
            firsts = found.firsts()
            ngram_characters = before[firsts + n] - before[firsts] + (n - 1)
            best = np.zeros(documents, np.int64)  # occurrences first, then length
            np.maximum.at(best, owner[firsts], (found.sizes() << 32) | ngram_characters)
            top[n] = (best >> 32) * (best & 0xFFFFFFFF)
        if n in DUPLICATE_NGRAMS:
            repeats = found.repeats(length)
            until = np.minimum(repeats + n, np.append(repeats[1:], length)[: len(repeats)])
            covered = before[until] - before[repeats]
            duplicates[n] = np.bincount(owner[repeats], covered, documents).astype(np.int64)
    return Repetition(top, duplicates)


def _extend(
    words: NDArray[np.uint64], keys: NDArray[np.uint64], candidates: NDArray[np.int64], n: int
) -> tuple[Groups, NDArray[np.int64], NDArray[np.uint64]]:
    """Repeated n-grams among `candidates`, whose (n-1)-grams have `keys`; then what could repeat at n + 1."""
    power = pow(_NGRAM, n - 1, 2**64)
    keys = keys + words[candidates + (n - 1)] * np.uint64(power)
    found = group(keys, candidates)
    repeated = np.zeros(len(words) + 1, bool)
    repeated[found.members] = True
    goes_on = repeated[candidates] & repeated[candidates + 1]
    return found, candidates[goes_on], keys[goes_on]


def count_duplicate_shingles(hashes: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Per document: how many runs of SHINGLE_WORDS words repeat an earlier one.

    47 bits tell them apart: by chance, one document of 200,000 words in about 8,000 gets one repeat too many.
    """
    shingles = np.maximum(np.diff(starts) - (SHINGLE_WORDS - 1), 0)
    result = np.zeros(len(shingles), np.int64)
    some = np.flatnonzero(shingles)
    if not len(some):
        return result
    counts = shingles[some]
    place = np.arange(counts.sum()) + np.repeat(starts[some] - (np.cumsum(counts) - counts), counts)
    keys = np.zeros(len(place), np.uint64)
    for k in range(SHINGLE_WORDS):
        keys = keys * np.uint64(_NGRAM) + hashes[place + k]
    # One number holds document and hash, so that a plain sort, the fastest there is, brings repeats together.
    assert len(some) < 1 << _DOCUMENT_BITS
    shift = np.uint64(64 - _DOCUMENT_BITS)
    keys = np.repeat(np.arange(len(some), dtype=np.uint64) << shift, counts) | (mix(keys) >> np.uint64(_DOCUMENT_BITS))
    keys.sort()
    owners = (keys[1:][keys[1:] == keys[:-1]] >> shift).astype(np.int64)
    result[some] = np.bincount(owners, minlength=len(some))
    return result
