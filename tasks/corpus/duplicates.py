"""Duplicates: exact copies and near copies (MinHash, 14 bands of 8, five-word shingles).

Words here are lower-cased runs of letters and digits. A pair of documents with true Jaccard similarity J becomes a
candidate with probability 1 - (1 - J^8)^14: 0.77 at 0.75, 0.92 at 0.8, 0.9996 at 0.9. A candidate counts as a duplicate
when the share of equal signature components, an estimate of J with standard error about 0.04, reaches the threshold.
Of every cluster the document with the smallest id stays, so neither order nor the number of workers matters.
Signatures are compatible with datasketch.MinHash(112, scheme="affine32").
"""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

BANDS, ROWS_PER_BAND = 14, 8
PERMUTATIONS = BANDS * ROWS_PER_BAND
SHINGLE_WORDS = 5
DOCUMENTS_PER_CHUNK = 64
"""Shingles of this many documents stay in the cache while all permutations run over them."""

SLICE_BYTES = 1 << 24
"""Text whose words are listed at a time."""
WORD = r"[\p{L}\p{M}\p{N}_]+"

_MULTIPLIER = 0x9E3779B97F4A7C15


class Shingles(NamedTuple):
    """Hashes of five-word shingles of all documents, one after the other."""

    hashes: NDArray[np.uint32]
    starts: NDArray[np.int64]
    """starts[d]..starts[d + 1] are the shingles of document d; each has at least one."""


def shingle(texts: "pl.Series") -> Shingles:
    """The shingles of every text. A text under five words is padded, inside itself, to a single shingle."""
    counts, word_hashes = _word_hashes(texts)
    slots = np.maximum(counts, SHINGLE_WORDS)
    slot_ends = np.cumsum(slots)
    padded = np.zeros(int(slot_ends[-1]) if len(slot_ends) else 0, np.uint64)
    places = np.arange(len(word_hashes)) + np.repeat((slot_ends - slots) - (np.cumsum(counts) - counts), counts)
    padded[places] = word_hashes
    rolled = np.zeros(max(len(padded) - SHINGLE_WORDS + 1, 0), np.uint64)
    for k in range(SHINGLE_WORDS):  # a polynomial of the window modulo 2^64
        rolled = rolled * np.uint64(_MULTIPLIER) + padded[k : k + len(rolled)]
    rolled ^= rolled >> np.uint64(29)
    folded = (rolled >> np.uint64(16)).astype(np.uint32)
    per_document = slots - (SHINGLE_WORDS - 1)
    starts = np.concatenate([[0], np.cumsum(per_document)]).astype(np.int64)
    inside = np.arange(starts[-1]) + np.repeat((slot_ends - slots) - starts[:-1], per_document)
    return Shingles(folded[inside], starts)


def _word_hashes(texts: "pl.Series") -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Words per text and the hash of every word, slice by slice, as lists of words take far more room than text."""
    slices = np.cumsum(texts.str.len_bytes().to_numpy().astype(np.int64)) // SLICE_BYTES
    starts = np.flatnonzero(np.diff(slices, prepend=-1))
    counts, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for start, stop in itertools.pairwise([*starts.tolist(), len(texts)]):
        words = texts[start:stop].str.to_lowercase().str.extract_all(WORD)
        counts.append(words.list.len().to_numpy().astype(np.int64))
        flat = words.explode().drop_nulls()
        if len(flat):
            hashes.append(flat.hash(seed=0).to_numpy())
    return np.concatenate(counts), np.concatenate(hashes)


def duplicate_fractions(shingles: Shingles) -> NDArray[np.float64]:
    """Per document: the share of its shingles that repeat an earlier one."""
    counts = np.diff(shingles.starts)
    owner = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    together = np.sort((owner << np.uint64(32)) | shingles.hashes)
    first = np.ones(len(together), bool)
    first[1:] = together[1:] != together[:-1]
    distinct = np.bincount((together[first] >> np.uint64(32)).astype(np.int64), minlength=len(counts))
    return (counts - distinct) / counts


def signatures(shingles: Shingles) -> NDArray[np.uint32]:
    """MinHash signatures [documents, 112], equal to datasketch's on the same 32-bit shingle hashes."""
    from datasketch import MinHash

    a, b = (np.asarray(part, np.uint32) for part in MinHash(PERMUTATIONS, scheme="affine32").permutations)
    documents = len(shingles.starts) - 1
    result = np.empty((documents, PERMUTATIONS), np.uint32)
    for first in range(0, documents, DOCUMENTS_PER_CHUNK):
        last = min(first + DOCUMENTS_PER_CHUNK, documents)
        begin, end = shingles.starts[first], shingles.starts[last]
        mixed = _finalise(shingles.hashes[begin:end])
        offsets = shingles.starts[first:last] - begin
        scratch = np.empty_like(mixed)
        for j in range(PERMUTATIONS):
            np.multiply(mixed, a[j], out=scratch)
            np.add(scratch, b[j], out=scratch)
            result[first:last, j] = np.minimum.reduceat(scratch, offsets)
    return result


def _finalise(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MurmurHash3's 32-bit finaliser: every input bit reaches every output bit."""
    x = hashes ^ (hashes >> np.uint32(16))
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def exact_clusters(texts: "pl.Series") -> NDArray[np.int64]:
    """For each text the number of the first text with the same words in the same order."""
    import polars as pl

    words = texts.str.to_lowercase().str.extract_all(WORD).list.join(" ")
    keys = pl.when(words == "").then(texts).otherwise(words)  # texts without any word are compared as they are
    frame = pl.DataFrame({"text": texts}).select(keys.alias("key")).with_row_index("number")
    return frame.select(pl.col("number").min().over("key")).to_series().to_numpy().astype(np.int64)


def near_clusters(signature: NDArray[np.uint32], min_jaccard: float) -> NDArray[np.int64]:
    """For each document the smallest number in its cluster of near duplicates (itself when it has none).

    Within a band, every document is compared with the first one of its group and with the one before it.
    """
    parent = np.arange(len(signature), dtype=np.int64)
    if len(signature) < 2:
        return parent
    for band in range(BANDS):
        columns = signature[:, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]
        keys = np.ascontiguousarray(columns).view(np.dtype((np.void, columns.itemsize * ROWS_PER_BAND))).ravel()
        _, group = np.unique(keys, return_inverse=True)
        order = np.argsort(group, kind="stable")  # ascending document number within each group
        is_first = np.r_[True, group[order][1:] != group[order][:-1]]
        leaders = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
        members = np.flatnonzero(~is_first)
        left = np.concatenate([leaders[members], order[members - 1]])
        right = np.concatenate([order[members], order[members]])
        for start in range(0, len(left), 65_536):
            x, y = left[start : start + 65_536], right[start : start + 65_536]
            similar = (signature[x] == signature[y]).mean(axis=1) >= min_jaccard
            for first, second in zip(x[similar].tolist(), y[similar].tolist(), strict=True):
                _join(parent, first, second)
    return np.array([_root(parent, number) for number in range(len(parent))], np.int64)


def _root(parent: NDArray[np.int64], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = int(parent[number])
    return number


def _join(parent: NDArray[np.int64], first: int, second: int) -> None:
    a, b = _root(parent, first), _root(parent, second)
    parent[max(a, b)] = min(a, b)
