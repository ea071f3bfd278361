"""Repeated paragraphs are removed from all documents but one, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.corpus.duplicates.paragraphs import Repeated, paragraph_hashes, remove_repeated, repeated

PLENTY, TINY = 1 << 30, 300
NOTICE = "Subscribe to our newsletter to receive the latest news."
PARAGRAPHS = st.sampled_from([NOTICE, NOTICE.upper(), "x = a + b", "x = a - b", "a b", "", "  indented line"])
TEXTS = st.lists(st.lists(PARAGRAPHS, max_size=6).map("\n\n".join), max_size=10)


def _repeated(
    texts: list[str],
    folder: Path,
    rank: list[int] | None = None,
    kept: list[bool] | None = None,
    max_documents: int = 1,
    min_characters: int = 9,
    split: int = 0,
    memory_bytes: int = PLENTY,
) -> Repeated:
    """Of two shards, divided at `split`."""
    shards = []
    for name, part in (("0", texts[:split]), ("1", texts[split:])):
        shards.append((folder / f"documents-{name}.npy", folder / f"hashes-{name}.npy"))
        for path, content in zip(shards[-1], paragraph_hashes(part, min_characters), strict=True):
            np.save(path, content)
    ranks = np.array(range(len(texts)) if rank is None else rank, np.int64)
    chosen = np.array([True] * len(texts) if kept is None else kept, bool)
    return repeated(shards, [0, split], ranks, chosen, max_documents, folder, memory_bytes)


def _remove(texts: list[str], repeats: Repeated, min_characters: int = 9) -> tuple[list[str], list[int]]:
    result, removed = remove_repeated(texts, np.arange(len(texts)), repeats, min_characters)
    return result, removed.tolist()


def test_a_repeated_paragraph_stays_in_the_best_ranked_document_only(tmp_path) -> None:
    texts = [f"First.\n\n{NOTICE}\n\nLast line.", f"{NOTICE}\n\nOther text.", f"Some text.\n \t\n\n{NOTICE}", NOTICE]
    result, removed = _remove(texts, _repeated(texts, tmp_path, rank=[3, 1, 2, 4]))
    assert result == ["First.\n\nLast line.", texts[1], "Some text.", ""]
    assert removed == [len(NOTICE) + 2, 0, len(NOTICE) + 5, len(NOTICE)]


def test_case_and_white_space_do_not_matter_but_punctuation_and_words_do(tmp_path) -> None:
    texts = ["Sum of  x =\n  a + b", "sum OF x = a + b", "sum of x = a - b", "sum of y = a + b"]
    result, _ = _remove(texts, _repeated(texts, tmp_path))
    assert result == [texts[0], "", *texts[2:]]


def test_paragraphs_below_the_length_are_left_alone(tmp_path) -> None:
    texts = ["12345678\n\n123456789", "12345678\n\n123456789", "1234  567"]  # counted with white space collapsed
    result, _ = _remove(texts, _repeated([*texts, "1234  567"], tmp_path))
    assert result == [texts[0], "12345678", texts[2]]


@pytest.mark.parametrize(("max_documents", "removed"), [(1, 2), (2, 2), (3, 0)])
def test_only_more_than_max_documents_count_and_each_document_once(tmp_path, max_documents: int, removed: int) -> None:
    texts = [NOTICE, f"{NOTICE}\n\n{NOTICE}\n\n{NOTICE}", f"Own words.\n\n{NOTICE}"]
    result, _ = _remove(texts, _repeated(texts, tmp_path, max_documents=max_documents))
    assert sum(before != after for before, after in zip(texts, result, strict=True)) == removed
    if removed:
        assert result == [NOTICE, "", "Own words."]


def test_documents_that_are_gone_are_not_counted_and_own_nothing(tmp_path) -> None:
    texts = [NOTICE, f"{NOTICE}\n\nTwo two two.", f"{NOTICE}\n\nThree three."]
    assert len(_repeated(texts, tmp_path, kept=[True, False, False]).hashes) == 0
    repeats = _repeated(texts, tmp_path, kept=[False, True, True])
    assert repeats.owners.tolist() == [1]
    result, _ = remove_repeated(texts[1:], np.array([1, 2]), repeats, 9)
    assert result == [texts[1], "Three three."]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, st.randoms(use_true_random=False), st.sampled_from([PLENTY, TINY]))
def test_shards_memory_and_order_do_not_matter_and_one_copy_of_everything_stays(
    tmp_path, texts: list[str], source, memory_bytes: int
) -> None:
    rank = source.sample(range(1000), len(texts))
    whole, removed = _remove(texts, _repeated(texts, tmp_path, rank))
    order = source.sample(range(len(texts)), len(texts))
    shuffled, _ = _remove(
        [texts[i] for i in order],
        _repeated(
            [texts[i] for i in order],
            tmp_path,
            [rank[i] for i in order],
            split=source.randint(0, len(texts)),
            memory_bytes=memory_bytes,
        ),
    )
    assert shuffled == [whole[i] for i in order]
    assert removed == [len(before) - len(after) for before, after in zip(texts, whole, strict=True)]
    before, after = (paragraph_hashes(part, 9) for part in (texts, whole))
    assert np.array_equal(np.unique(before[1]), np.unique(after[1]))  # nothing is lost altogether
    assert len(np.unique(after[1])) == len(after[1])  # and nothing is left twice
    assert all(set(text.split("\n\n")) <= set(own.split("\n\n")) | {""} for text, own in zip(whole, texts, strict=True))


def test_hashes_come_once_per_document_and_sorted() -> None:
    documents, hashes = paragraph_hashes(["", f"{NOTICE}\n\n{NOTICE}\n\nOther text here", NOTICE], 10)
    assert documents.dtype == np.int32 and hashes.dtype == np.uint64
    assert documents.tolist() == [1, 1, 2]
    assert hashes[2] in hashes[:2] and hashes[0] < hashes[1]
    assert [len(part) for part in paragraph_hashes([], 10)] == [0, 0]
