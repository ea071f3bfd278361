"""Words as hashes: the same words, and only they, have the same hash, wherever and however often they are hashed."""

import itertools
import sys
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import _words
from tasks._words import hash_texts, hash_words, ngrams

# Letters of several scripts and lengths in UTF-8, marks, digits, underscores, and everything that separates words.
CHARACTERS = "aAbZéÉßΣσςİıж文字한́9٣_ \n\t.,;-–“”…😀\u200b\u00a0\x00"
TEXTS = st.lists(st.text(st.sampled_from(CHARACTERS), max_size=60), max_size=12)
PINNED = [
    "25cc2c6603805531",
    "d9bf9b03365c6af7",
    "46bb0e782622d52e",
    "0d9d7e99e4501d56",
    "e13537cd788990ef",
    "b2d51c24f3a815fc",
    "0f503ad16aeafef3",
]


def _words_of(text: str) -> list[str]:
    """The definition, character by character."""
    lowered = pl.Series([text]).str.to_lowercase()[0]  # a final sigma is lower-cased by context, as in Rust
    kept = [c if c == "_" or unicodedata.category(c)[0] in "LMN" else " " for c in lowered]
    return "".join(kept).split(" ")


def _hashes_of(text: str) -> list[int]:
    """The definition of the hash, word by word, in Python's integers."""
    return [_hash_of(word.encode()) for word in _words_of(text) if word]


def _mix64(x: int) -> int:
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD % 2**64
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 % 2**64
    return x ^ x >> 33


def _hash_of(word: bytes) -> int:
    """Blocks of eight bytes, little-endian, the last one shifted up to the end of its 64 bits."""
    total = 0
    for k, first in enumerate(range(0, len(word), 8)):
        block = word[first : first + 8].rjust(8, b"\0")
        total += _mix64((int.from_bytes(block, "little") + k * 0x9E3779B97F4A7C15) % 2**64)
    return total % 2**64


def _per_text(hashes: np.ndarray, starts: np.ndarray) -> list[list[int]]:
    return [hashes[a:b].tolist() for a, b in itertools.pairwise(starts)]


@given(TEXTS)
def test_hashes_equal_the_definition_word_by_word(texts: list[str]) -> None:
    words = hash_words(texts)
    assert words.hashes.dtype == np.uint64 and words.starts.dtype == np.int64
    assert _per_text(*words) == [_hashes_of(text) for text in texts]


def test_hashes_are_those_of_every_other_run_and_version() -> None:
    """Signatures are stored: a changed hash must be a decision (KERNEL_VERSION), not an accident."""
    words = hash_words(["The quick", "Straße Ωmega 文字化け", "internationalisation_of_everything 0"])
    assert _words.KERNEL_VERSION == 1
    assert words.starts.tolist() == [0, 2, 5, 7]
    assert [f"{value:016x}" for value in words.hashes] == PINNED


@given(TEXTS, st.integers(1, 200))
def test_neighbours_and_slices_do_not_matter(texts: list[str], slice_bytes: int) -> None:
    alone = [hash_words([text]).hashes.tolist() for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_words, "SLICE_BYTES", slice_bytes)
        sliced = hash_words(texts)
    assert _per_text(*sliced) == alone
    pieces = [pl.Series(["padding", *part], dtype=pl.String)[1:] for part in (texts[:3], texts[3:])]
    assert _per_text(*hash_words(pl.concat(pieces, rechunk=False))) == alone


def test_words_of_any_length_differ_in_any_byte() -> None:
    """The bug: bytes behind the first block, or the length, left out of the hash."""
    lengths = [*range(1, 40), 255, 256, 257, 100_003]
    words = ["x" * length for length in lengths]
    for length in lengths:
        words += ["x" * place + "y" + "x" * (length - place - 1) for place in {0, length // 2, length - 1}]
    swapped = ["a" * 8 + "b" * 8 + "c", "b" * 8 + "a" * 8 + "c"]
    every = sorted({*words, *swapped})
    assert len(every) > 100
    assert len(np.unique(hash_words([" ".join(every)]).hashes)) == len(every)


def test_case_and_punctuation_do_not_matter_and_a_text_ends_its_words() -> None:
    first, second = hash_words(["Don't PANIC -- twice!", "don t panic twice"]).hashes.reshape(2, 4)
    assert np.array_equal(first, second)
    assert not np.array_equal(hash_words(["ab", "cd"]).hashes, hash_words(["abcd"]).hashes)
    assert hash_words(["ab", "cd"]).starts.tolist() == [0, 1, 2]


def test_texts_without_words_keep_their_place() -> None:
    words = hash_words(pl.Series(["", None, "one", "—…", "", "two three", "\n"], dtype=pl.String))
    assert words.starts.tolist() == [0, 0, 0, 1, 1, 1, 3, 3]
    for nothing in ([], [""], ["!!!", ""]):
        assert hash_words(nothing).hashes.tolist() == []
        assert hash_words(nothing).starts.tolist() == [0] * (len(nothing) + 1)


def test_every_character_is_classified_as_the_definition_says() -> None:
    """All of Unicode, but for characters that Python's own tables leave unassigned."""
    characters = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    counts = np.diff(hash_words(characters).starts)
    is_word = np.array([c == "_" or unicodedata.category(c)[0] in "LMN" for c in characters])
    assert 100_000 < is_word.sum() < len(characters)
    assert np.array_equal(counts > 0, is_word)


@given(TEXTS, st.integers(1, 17))
def test_ngrams_equal_the_sum_over_each_window(texts: list[str], n: int) -> None:
    words = hash_words(texts)
    hashes, starts = ngrams(words, n)
    expected = []
    for own in _per_text(*words):
        windows = [own[i : i + n] for i in range(len(own) - n + 1)]
        expected.append([_mix64(_polynomial(window)) for window in windows])
    assert starts.dtype == np.int64
    assert _per_text(hashes, starts) == expected


def _polynomial(window: list[int]) -> int:
    total = 0
    for value in window:
        total = total * 0x9E3779B97F4A7C15 + value
    return total % 2**64


def test_ngrams_tell_the_order_of_words_and_refuse_none() -> None:
    hashes, starts = ngrams(hash_words(["a b c", "c b a", "a b c d", "a b"]), 3)
    assert starts.tolist() == [0, 1, 2, 4, 4]
    assert hashes[0] == hashes[2] and len(np.unique(hashes)) == 3
    with pytest.raises(ValueError, match="at least 1"):
        ngrams(hash_words(["a b"]), 0)


@given(TEXTS)
def test_whole_texts_are_hashed_byte_for_byte(texts: list[str]) -> None:
    without_zero = [text.replace("\0", "") for text in texts]
    expected = [_hash_of(text.encode()) for text in without_zero]
    assert hash_texts(pl.Series(without_zero, dtype=pl.String)).tolist() == expected
