"""Words of texts as 64-bit hashes, and rolling hashes of n consecutive words.

A word is a maximal run of letters, marks, digits and underscores ([\\p{L}\\p{M}\\p{N}_]) of the lower-cased text.

Covered      The hash of a word depends on its bytes alone: not on the other texts, the interpreter's hash seed, the
             machine's byte order, or the version of a library (polars' own hash is not promised to stay). So hashes may
             be stored; KERNEL_VERSION changes whenever they would.
Not covered  Unicode's own additions: a letter assigned by a later Unicode version becomes a word character when polars
             learns it. Two different words share a hash with probability 2^-64; nobody defends against words made to.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

KERNEL_VERSION = 1
"""Part of the name of everything stored that was made from these hashes."""

SLICE_BYTES = 1 << 21
"""Text hashed at a time; scratch memory is up to twenty times that. A longer text is a slice of its own."""

OTHER_CHARACTERS = r"[^\p{L}\p{M}\p{N}\x00-\x7f]+"
"""Characters beyond ASCII that end a word. ASCII is left to a table of 256 bytes, which is four times faster."""

_WORD_BYTES = bytes(byte >= 0x80 or chr(byte).isalnum() or byte == ord("_") for byte in range(256))
_BLOCK_BYTES = 8
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: successive multiples are far apart in every bit


class Words(NamedTuple):
    """Hashes of all words of all texts, one after the other."""

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]
    """starts[i]..starts[i + 1] are the words of text i; one entry more than there are texts."""


def hash_words(texts: "pl.Series | Sequence[str]") -> Words:
    """The words of every text, in order. A null counts as an empty text."""
    import polars as pl

    series = texts if isinstance(texts, pl.Series) else pl.Series(list(texts), dtype=pl.String)
    hashes, counts = [np.zeros(0, np.uint64)], [np.zeros(1, np.int64)]
    for piece in _slices(series):
        piece_hashes, piece_counts = _hash_slice(piece)
        hashes.append(piece_hashes)
        counts.append(piece_counts)
    return Words(np.concatenate(hashes), np.cumsum(np.concatenate(counts)))


def ngrams(words: Words, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of every n consecutive words inside each text, and starts; a text of m words has max(m - n + 1, 0).

    The hash of the words w_0 .. w_{n-1} is mix64(sum of P^(n-1-k) x w_k) with P = GOLDEN: equal hashes mean the same
    words in the same order. n = 1 gives mix64 of the word hashes.
    """
    if n < 1:
        raise ValueError(f"n-grams of n={n} words; allowed: at least 1")
    rolled = mix64(_polynomials(words.hashes, n))
    counts = np.maximum(np.diff(words.starts) - (n - 1), 0)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    # The n - 1 windows before the end of a text run into the next one: leave them out.
    inside = np.ones(len(words.hashes) + 1, bool)
    for k in range(1, n):
        ends = words.starts[1:] - k
        inside[ends[ends >= words.starts[:-1]]] = False
    return rolled[inside[: len(rolled)]], starts


def hash_texts(texts: "pl.Series") -> NDArray[np.uint64]:
    """One hash per text of its UTF-8 bytes as they are, by the same kernel; 0 for an empty text or a null."""
    result = [np.zeros(0, np.uint64)]
    for piece in _slices(texts):
        data, offsets = _bytes_of(piece)
        hashes, filled = np.zeros(len(piece), np.uint64), np.flatnonzero(np.diff(offsets))
        hashes[filled] = _hash_runs(data.view("<u8"), offsets[filled], np.diff(offsets)[filled])
        result.append(hashes)
    return np.concatenate(result)


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """MurmurHash3's 64-bit finaliser: a bijection in which every input bit reaches every output bit."""
    x = x ^ (x >> np.uint64(33))
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return x


def _polynomials(values: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """sum of P^(n-1-k) x values[i + k] modulo 2^64, for each i; one value less per step of the window.

    Doubling: a window of a + b values is the window of a, times P^b, plus the window of b behind it.
    """
    result, width = values[:0], 0
    doubled, doubled_width = values, 1
    for bit in range(n.bit_length()):
        if n >> bit & 1:
            length = max(len(values) - (width + doubled_width) + 1, 0)
            behind = result[doubled_width : doubled_width + length] if width else np.uint64(0)
            result = doubled[:length] * _power(width) + behind
            width += doubled_width
        if n >> (bit + 1):
            length = max(len(doubled) - doubled_width, 0)
            doubled = doubled[:length] * _power(doubled_width) + doubled[doubled_width : doubled_width + length]
            doubled_width *= 2
    return result


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(GOLDEN), exponent, 1 << 64))


def _slices(texts: "pl.Series") -> Iterator["pl.Series"]:
    """Runs of texts of about SLICE_BYTES."""
    ends = np.cumsum(texts.str.len_bytes().fill_null(0).to_numpy().astype(np.int64))
    first = 0
    while first < len(texts):
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + SLICE_BYTES, side="right")), first + 1)
        yield texts[first:last]
        first = last


def _hash_slice(texts: "pl.Series") -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all words of the texts, and words per text."""
    data, offsets = _bytes_of(texts.str.to_lowercase().str.replace_all(OTHER_CHARACTERS, " "))
    size = int(offsets[-1])
    word = np.frombuffer(data[:size].tobytes().translate(_WORD_BYTES), bool)
    first, last = word.copy(), word.copy()
    first[1:] &= ~word[:-1]
    last[:-1] &= ~word[1:]
    edges = offsets[(offsets > 0) & (offsets < size)]  # a word ends where its text does, whatever comes next
    first[edges] = word[edges]
    last[edges - 1] = word[edges - 1]
    starts = np.flatnonzero(first)
    lengths = np.flatnonzero(last) - starts + 1
    counts = np.diff(np.searchsorted(starts, offsets))
    return _hash_runs(data.view("<u8"), starts, lengths), counts


def _bytes_of(texts: "pl.Series") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """UTF-8 of all texts, padded so that two blocks may be read from any position, and the offset of each text."""
    import pyarrow as pa

    column = texts.fill_null("").to_arrow().cast(pa.large_string())
    _, offset_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[column.offset : column.offset + len(column) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.zeros((last - first) // _BLOCK_BYTES * _BLOCK_BYTES + 2 * _BLOCK_BYTES, np.uint8)
    if last > first:
        data[: last - first] = np.frombuffer(data_buffer, np.uint8)[first:last]
    return data, offsets - first


def _hash_runs(blocks: NDArray[np.uint64], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The hash of every run of bytes: sum over its 8-byte blocks b_k of mix64(b_k + k x GOLDEN), modulo 2^64.

    The last block is filled up with zero bytes; runs that hold none themselves differ in it when their lengths do.
    """
    hashes = mix64(_read_blocks(blocks, starts, np.minimum(lengths, _BLOCK_BYTES)))
    long = np.flatnonzero(lengths > _BLOCK_BYTES)
    if not len(long):
        return hashes
    more = (lengths[long] - 1) // _BLOCK_BYTES  # blocks behind the first
    group_starts = np.cumsum(more) - more
    k = np.arange(1, int(more.sum()) + 1) - np.repeat(group_starts, more)
    places = np.repeat(starts[long], more) + k * _BLOCK_BYTES
    sizes = np.minimum(np.repeat(lengths[long], more) - k * _BLOCK_BYTES, _BLOCK_BYTES)
    parts = mix64(_read_blocks(blocks, places, sizes) + k.astype(np.uint64) * GOLDEN)
    hashes[long] += np.add.reduceat(parts, group_starts)
    return hashes


def _read_blocks(blocks: NDArray[np.uint64], places: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The `sizes` (1 to 8) bytes from any byte position on, shifted to the upper end of 64 bits."""
    number, shift = places >> 3, ((places & 7) << 3).astype(np.uint64)
    low = blocks[number] >> shift
    high = (blocks[number + 1] << np.uint64(1)) << (np.uint64(63) - shift)  # in two steps: 64 at once is undefined
    return (low | high) << ((_BLOCK_BYTES - sizes) << 3).astype(np.uint64)
