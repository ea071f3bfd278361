"""Signatures, shingle sets and exact keys."""

import random

import numpy as np
import polars as pl
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from tasks._words import hash_words, ngrams
from tasks.corpus.duplicates import minhash
from tasks.corpus.duplicates.minhash import (
    EMPTY,
    PERMUTATIONS,
    as_minhash,
    exact_keys,
    exact_winners,
    jaccard,
    shingle_sets,
    shingles,
    signatures,
)

VOCABULARY = [f"word{i}" for i in range(500)]
PINNED = [1500673353, 8091246, 794127296, 872495777]
SENTENCES = st.lists(st.lists(st.sampled_from(VOCABULARY[:4]), max_size=9).map(" ".join), max_size=14)


def _texts(count: int, words: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(VOCABULARY, k=words)) for _ in range(count)]


def test_signatures_equal_datasketch_on_the_same_hashes() -> None:
    words = hash_words([*_texts(60, 60), "", "one", "four words are here", "!!!"])
    hashes, starts = shingles(words)
    own = signatures(words)
    for number, row in enumerate(own):
        reference = MinHash(PERMUTATIONS, scheme="affine32", hashfunc=int)
        reference.update_batch(hashes[starts[number] : starts[number + 1]].tolist())
        assert np.array_equal(row, reference.hashvalues)
    assert (own[[60, 63]] == EMPTY).all()


def test_signatures_are_those_of_every_other_run_and_version() -> None:
    """Signatures are kept in an index: change the kernel's version together with these."""
    row = signatures(hash_words(["the quick brown fox jumps over the lazy dog"]))[0]
    assert row[:4].tolist() == PINNED


@given(SENTENCES)
def test_shingles_of_long_texts_are_their_five_grams(texts: list[str]) -> None:
    hashes, starts = shingles(hash_words(texts))
    for number, text in enumerate(texts):
        own = hashes[starts[number] : starts[number + 1]]
        count = len(text.split())
        assert len(own) == (max(count - 4, 1) if count else 0)
        if count >= 5:
            assert own.tolist() == (ngrams(hash_words([text]), 5)[0] >> np.uint64(32)).tolist()


@given(SENTENCES, st.integers(1, 40))
def test_neighbours_and_chunks_do_not_matter(texts: list[str], chunk: int) -> None:
    """The bug: a window over fewer than five words ran into the next document, so order changed the signature."""
    alone = [signatures(hash_words([text]))[0] for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "SHINGLES_PER_CHUNK", chunk)
        together = signatures(hash_words(texts))
    assert together.shape == (len(texts), PERMUTATIONS)
    for row, expected in zip(together, alone, strict=True):
        assert np.array_equal(row, expected)


def test_texts_of_few_words_differ_unless_equal() -> None:
    short = ["a", "b", "a b", "b a", "a a", "a b c", "a b c d", "a b c d e", "0"]
    rows = signatures(hash_words(short))
    assert len(np.unique(rows, axis=0)) == len(short)


def test_shingle_sets_are_sorted_sets_and_jaccard_counts_them() -> None:
    first, second, none = shingle_sets(hash_words(["a b c d e f g a b c d e", "x a b c d e", "--"]))
    assert len(first) == 7  # eight windows, the last equal to the first
    assert (np.diff(first.astype(np.int64)) > 0).all()
    assert jaccard(first, second) == 1 / 8
    assert jaccard(first, first) == 1.0
    assert (jaccard(none, none), jaccard(first, none)) == (0.0, 0.0)


def test_signatures_estimate_the_true_similarity() -> None:
    """Standard error of 112 components at J = 0.5: 0.047. The mean over 200 pairs is ten times as exact."""
    source, errors = random.Random(1), []
    for text in _texts(200, 150, seed=2):
        changed = [w if source.random() > 0.06 else "other" + w for w in text.split()]
        words = hash_words([text, " ".join(changed)])
        first, second = (as_minhash(row) for row in signatures(words))
        errors.append(first.jaccard(second) - jaccard(*shingle_sets(words)))
    assert abs(np.mean(errors)) < 0.015
    assert 0.02 < np.std(errors) < 0.07


def test_exact_keys_ignore_case_and_punctuation_only() -> None:
    texts = pl.Series(["A b, c.", "x", "a B c", "c b a", "!!!", "???", "!!!", "a b", "a b c c", "", None])
    keys = exact_keys(texts, hash_words(texts))
    _, group = np.unique(keys, axis=0, return_inverse=True)
    same = [sorted(np.flatnonzero(group == number).tolist()) for number in range(group.max() + 1)]
    assert sorted(members for members in same if len(members) > 1) == [[0, 2], [4, 6], [9, 10]]


@given(SENTENCES)
def test_exact_keys_are_equal_iff_the_words_are(texts: list[str]) -> None:
    keys = exact_keys(pl.Series(texts, dtype=pl.String), hash_words(texts))
    for number, text in enumerate(texts):
        assert [other for other, key in zip(texts, keys, strict=True) if (key == keys[number]).all()] == [
            other for other in texts if other == text
        ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.booleans()), max_size=30), st.randoms())
def test_exact_winners_are_the_best_ranked_candidates_of_their_key(rows, source) -> None:
    keys = np.array([row[:2] for row in rows], np.uint64).reshape(-1, 2)
    candidate = np.array([row[2] for row in rows], bool)
    rank = np.array(source.sample(range(1000), len(rows)), np.int64)
    expected = []
    for number, row in enumerate(rows):
        equal = [other for other in range(len(rows)) if rows[other] == row and row[2]]
        expected.append(min(equal, key=lambda other: rank[other]) if equal else number)
    assert exact_winners(keys, rank, candidate).tolist() == expected


def test_nothing_has_no_signature() -> None:
    nothing = hash_words([])
    assert signatures(nothing).shape == (0, PERMUTATIONS)
    assert shingle_sets(nothing) == []
    assert exact_keys(pl.Series([], dtype=pl.String), nothing).shape == (0, 2)
