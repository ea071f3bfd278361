"""Which items have which hash: sorted hashes with the items of each, and the look-ups in them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks._words import Words, mix64, ngrams

BITS_PER_KEY = 16
"""Bits of a table per hash in it: about one look-up in this many finds its bit set by another hash."""

PART_WORDS = 1 << 17
"""Words searched at a time, so that what is computed from them stays in the processor's cache."""


class Postings(NamedTuple):
    """Sorted distinct hashes; the items of keys[k] are items[starts[k]:starts[k + 1]], sorted."""

    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    items: NDArray[np.int32]


def make_postings(
    hashes: NDArray[np.uint64], owners: NDArray[np.int32], group_of_item: NDArray[np.int32], limits: NDArray[np.float64]
) -> tuple[Postings, NDArray[np.int64]]:
    """Postings of hashes[i] owned by item owners[i], and how many hashes each group has lost.

    A hash that more than limits[g] items of group g share is left out for the items of that group, and only for them.
    """
    order = np.lexsort((owners, group_of_item[owners], hashes))
    hashes, owners = hashes[order], owners[order]
    fresh = _differs(hashes) | _differs(owners)
    hashes, owners = hashes[fresh], owners[fresh]
    first = np.flatnonzero(_differs(hashes) | _differs(group_of_item[owners]))
    sharing = np.diff(np.append(first, len(hashes)))
    groups = group_of_item[owners[first]]
    common = sharing > limits[groups]
    ignored = np.bincount(groups[common], minlength=len(limits))
    kept = np.repeat(~common, sharing)
    hashes, owners = hashes[kept], owners[kept]
    starts = np.flatnonzero(_differs(hashes))
    return Postings(hashes[starts], np.append(starts, len(hashes)).astype(np.int64), owners), ignored


def bit_table(keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """A table of bits, of a size that is a power of two, with the bits set that the upper bits of the keys name."""
    size = max(8, 1 << (len(keys) * BITS_PER_KEY - 1).bit_length())
    bits = np.zeros(size, bool)
    bits[_bit_numbers(keys, size)] = True
    return np.packbits(bits, bitorder="little")


def candidates(bits: NDArray[np.uint8], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of the hashes that may be in the table; all those that are in it are among them."""
    numbers = _bit_numbers(hashes, len(bits) * 8)
    return np.flatnonzero(bits[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1)


def places_of(keys: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each hash stands in the sorted keys, and whether it does."""
    places = np.searchsorted(keys, hashes)
    found = places < len(keys)
    found[found] = keys[places[found]] == hashes[found]
    return places, found


def items_at(postings: Postings, places: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The items of keys[places], one after the other, and for each the number of its place."""
    counts = postings.starts[places + 1] - postings.starts[places]
    number = np.repeat(np.arange(len(places)), counts)
    within = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)
    return postings.items[np.repeat(postings.starts[places], counts) + within], number


def runs_of(words: Words, first: NDArray[np.int64], length: int) -> NDArray[np.uint64]:
    """The hash of the `length` words from each word `first` on; the caller knows that they are of one text."""
    runs = words.hashes[first[:, None] + np.arange(length)]
    return ngrams(Words(runs.ravel(), np.arange(len(first) + 1, dtype=np.int64) * length), length)[0]


def parts_of(words: Words) -> Iterator[tuple[Words, int]]:
    """Texts of about PART_WORDS words with the number of their first; a longer text is a part of its own."""
    first, texts = 0, len(words.starts) - 1
    while first < texts:
        last = max(int(np.searchsorted(words.starts, words.starts[first] + PART_WORDS, side="right")) - 1, first + 1)
        begin, end = words.starts[first], words.starts[last]
        yield Words(words.hashes[begin:end], words.starts[first : last + 1] - begin), first
        first = last


def text_hashes(words: Words) -> NDArray[np.uint64]:
    """One hash per text: of all its words, in order."""
    counts = np.diff(words.starts)
    position = np.arange(len(words.hashes)) - np.repeat(words.starts[:-1], counts)
    mixed = mix64(words.hashes + mix64(position.astype(np.uint64) + np.uint64(1)))
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    return mix64(total[words.starts[1:]] - total[words.starts[:-1]])


def _differs(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Whether each value is another than the one before it; the first one is."""
    fresh = np.ones(len(values), bool)
    fresh[1:] = values[1:] != values[:-1]
    return fresh


def _bit_numbers(hashes: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - (size.bit_length() - 1))).astype(np.int64)
