"""Hashes of runs, and repetition against plain Python."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.corpus.quality.layout import lay_out
from tasks.corpus.quality.repetition import (
    BLOCK,
    DUPLICATE_NGRAMS,
    TOP_NGRAMS,
    RunHashes,
    count_duplicate_shingles,
    count_repetition,
)


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def reference_repetition(words: list[str]) -> tuple[dict[int, int], dict[int, int]]:
    """Characters of top n-grams, characters of words in duplicated n-grams."""
    top, duplicated = {}, {}
    for n in TOP_NGRAMS:
        counts = Counter(_ngrams(words, n))
        most = max(counts.values(), default=0)
        longest = max((len(" ".join(gram)) for gram, count in counts.items() if count == most), default=0)
        top[n] = most * longest if most > 1 else 0
    for n in DUPLICATE_NGRAMS:
        seen, covered = set(), set()
        for place, gram in enumerate(_ngrams(words, n)):
            if gram in seen:
                covered |= set(range(place, place + n))
            seen.add(gram)
        duplicated[n] = sum(len(words[place]) for place in covered)
    return top, duplicated


def greedy_duplicate_characters(words: list[str], n: int) -> int:
    """The published walk: behind a repeated n-gram it goes on n words later, else one."""
    seen, characters, place = set(), 0, 0
    while place < len(words) - n + 1:
        gram = tuple(words[place : place + n])
        if gram in seen:
            characters += sum(map(len, gram))
            place += n
        else:
            seen.add(gram)
            place += 1
    return characters


def _count(documents: list[list[str]]):
    at = lay_out([" ".join(words) for words in documents])
    hashes = RunHashes(at.points)(at.word_starts, at.word_ends)
    shingles = count_duplicate_shingles(hashes, at.words)
    return shingles, count_repetition(hashes, at.word_ends - at.word_starts, at.words)


few_words = st.lists(st.sampled_from(["a", "A", "bb", "ccc", "Éa", "éa"]), max_size=60)
blocks = st.lists(
    st.sampled_from([["x"], ["one", "two", "three", "four", "five", "six", "seven"], ["a", "b"]]), max_size=9
)


@settings(max_examples=200, deadline=None)
@given(st.lists(few_words | blocks.map(lambda parts: list(itertools.chain(*parts))), min_size=1, max_size=5))
def test_repetition_equals_plain_python(documents: list[list[str]]) -> None:
    shingles, found = _count(documents)
    for number, words in enumerate(documents):
        top, duplicated = reference_repetition(words)
        assert shingles[number] == len(_ngrams(words, 5)) - len(set(_ngrams(words, 5)))
        assert {n: int(counts[number]) for n, counts in found.top_characters.items()} == top
        assert {n: int(counts[number]) for n, counts in found.duplicate_characters.items()} == duplicated
        for n in DUPLICATE_NGRAMS:
            assert greedy_duplicate_characters(words, n) <= duplicated[n]


def test_equal_documents_side_by_side_do_not_repeat_each_other() -> None:
    words = [f"w{i}" for i in range(50)]
    shingles, found = _count([words, words, words])
    assert not shingles.any()
    assert not any(counts.any() for counts in (*found.top_characters.values(), *found.duplicate_characters.values()))


def test_ties_go_to_the_longest_ngram() -> None:
    _, found = _count([["a", "b", "x", "a", "b", "y", "long", "words", "z", "long", "words"]])
    assert found.top_characters[2][0] == 2 * len("long words")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=2, max_size=30), st.integers(0, 3 * BLOCK))
def test_runs_have_equal_hashes_only_if_they_are_equal(runs: list[str], padding: int) -> None:
    """Wherever they stand: the padding moves some across the borders of blocks."""
    joined = "x" * padding + "".join(runs)
    ends = padding + np.cumsum([len(run) for run in runs])
    starts = ends - [len(run) for run in runs]
    hashes = RunHashes(np.frombuffer(joined.encode("utf-32-le"), np.uint32))(starts, ends)
    assert len({int(value) for value in hashes}) == len(set(runs))
    assert len(set(zip(runs, hashes.tolist(), strict=True))) == len(set(runs))


@pytest.mark.parametrize("length", [1, BLOCK, 2 * BLOCK + 7])
def test_a_hash_does_not_depend_on_the_place(length: int) -> None:
    run = np.random.default_rng(0).integers(0, 0x110000, length).astype(np.uint32)
    places = np.array([0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5])
    for place in places:
        values = np.concatenate([np.full(place, 7, np.uint32), run, np.zeros(3, np.uint32)])
        alone = RunHashes(run)(np.array([0]), np.array([length]))
        assert RunHashes(values)(np.array([place]), np.array([place + length])) == alone
