"""Exact and near duplicates."""

import itertools
import random

import numpy as np
import polars as pl
from datasketch import MinHash

from tasks.corpus.duplicates import (
    PERMUTATIONS,
    duplicate_fractions,
    exact_clusters,
    near_clusters,
    shingle,
    signatures,
)

VOCABULARY = [f"word{i}" for i in range(500)]


def _texts(count: int, words: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(VOCABULARY, k=words)) for _ in range(count)]


def test_signatures_equal_datasketch_on_the_same_hashes() -> None:
    texts = pl.Series([*_texts(150, 60), "", "one", "four words are here"])  # more than two chunks
    shingles = shingle(texts)
    own = signatures(shingles)
    for number in range(len(texts)):
        reference = MinHash(PERMUTATIONS, scheme="affine32", hashfunc=int)
        reference.update_batch(shingles.hashes[shingles.starts[number] : shingles.starts[number + 1]].tolist())
        assert np.array_equal(own[number], reference.hashvalues)


def test_short_documents_do_not_see_their_neighbours() -> None:
    """The bug: a window over fewer than five words ran into the next document, so order changed the signature."""
    short = ["", "one", "two words", "now four words here", "exactly five words are here"]
    alone = [signatures(shingle(pl.Series([text])))[0] for text in short]
    for order in (short, short[::-1]):
        together = signatures(shingle(pl.Series([*order, *_texts(3, 20)])))
        for text, row in zip(order, together, strict=False):
            assert np.array_equal(row, alone[short.index(text)])


def test_planted_near_copies_are_found_and_others_are_not() -> None:
    texts = _texts(40, 200)
    copies = [text.replace(text.split()[50], "changed", 1) for text in texts]  # one word: Jaccard about 0.95
    clusters = near_clusters(signatures(shingle(pl.Series(texts + copies))), 0.7)
    assert clusters.tolist() == [*range(40), *range(40)]


def test_chains_share_one_cluster_whatever_the_order() -> None:
    first = _texts(1, 300)[0].split()
    chain = [" ".join([*["new"] * k, *first[k:]]) for k in range(0, 30, 6)]
    assert set(near_clusters(signatures(shingle(pl.Series(chain))), 0.7).tolist()) == {0}
    assert set(near_clusters(signatures(shingle(pl.Series(chain[::-1]))), 0.7).tolist()) == {0}


def test_candidates_below_the_threshold_stay_apart() -> None:
    """Half-equal texts meet in some band by chance; only the verification keeps them apart."""
    texts = _texts(60, 100)
    halves = [" ".join([*text.split()[:85], *other.split()[85:]]) for text, other in itertools.pairwise(texts)]
    everything = signatures(shingle(pl.Series(texts + halves)))
    merged = [int((near_clusters(everything, limit) != np.arange(len(everything))).sum()) for limit in (0.1, 0.9)]
    assert merged[0] > 0
    assert merged[1] == 0


def test_exact_clusters_ignore_case_and_punctuation_only() -> None:
    texts = pl.Series(["A b, c.", "x", "a B c", "c b a", "!!!", "???", "!!!"])
    assert exact_clusters(texts).tolist() == [0, 1, 0, 3, 4, 5, 4]


def test_duplicate_fractions_count_repeats_within_a_document() -> None:
    five = "one two three four five"
    texts = pl.Series([five, f"{five} {five}", five])
    # Ten words have six shingles; the last equals the first. Equal shingles of other documents do not count.
    assert np.allclose(duplicate_fractions(shingle(texts)), [0, 1 / 6, 0])


def test_slices_do_not_matter(monkeypatch) -> None:
    """Words are hashed slice by slice to bound memory; no boundary, and no text without words, may show."""
    texts = pl.Series(["", *_texts(20, 9), "!!!", "one", "", *_texts(5, 40, seed=1), ""])
    whole = shingle(texts)
    monkeypatch.setattr("tasks.corpus.duplicates.SLICE_BYTES", 100)
    sliced = shingle(texts)
    assert np.array_equal(whole.hashes, sliced.hashes)
    assert np.array_equal(whole.starts, sliced.starts)


def test_empty_input_has_no_clusters() -> None:
    empty = pl.Series([], dtype=pl.String)
    assert near_clusters(signatures(shingle(empty)), 0.7).tolist() == []
    assert exact_clusters(empty).tolist() == []
