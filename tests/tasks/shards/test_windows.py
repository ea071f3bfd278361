"""The fixed partition of a split into windows and row files."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.shards import windows as module
from tasks.shards.documents import DocumentTable
from tasks.shards.windows import row_files, windows


def _table(tokens: list[int], repeats: list[int]) -> DocumentTable:
    count = len(tokens)
    numbers = np.arange(count)
    return DocumentTable(
        ids=pl.Series("id", [f"d{number}" for number in range(count)], pl.String),
        domains=["text"],
        domain=np.zeros(count, np.uint32),
        identity=numbers.astype(np.uint64),
        group=numbers.astype(np.uint64),
        file=np.zeros(count, np.uint32),
        first=np.cumsum([0, *tokens])[:-1],
        tokens=np.array(tokens, np.uint32),
        bytes=np.array(tokens, np.uint32),
        repeats=np.array(repeats, np.int32),
    )


tables = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4)), min_size=1, max_size=60).map(
    lambda drawn: _table([tokens for tokens, _ in drawn], [repeats for _, repeats in drawn])
)


@given(tables, st.integers(1, 400))
def test_windows_hold_every_copy_once_and_no_document_twice(table: DocumentTable, window_tokens: int) -> None:
    order = np.arange(len(table))[::-1]
    found = list(windows(table, order, window_tokens))
    assert [window.number for window in found] == list(range(len(found)))
    together = np.concatenate([window.document for window in found])
    assert np.bincount(together, minlength=len(table)).tolist() == table.repeats.tolist()
    for window in found:
        assert len(np.unique(window.document)) == len(window.document) > 0
        assert window.ids == int(table.tokens[window.document].sum()) + len(window.document)
        # One document more than fits at most: the last one begins before the end of the window.
        assert window.ids < window_tokens + int(table.tokens[window.document].max()) + 2
    files = list(row_files(table, order, window_tokens))
    assert [window.number for own in files for window in own] == list(range(len(found)))


def test_windows_are_about_equal() -> None:
    table = _table([9] * 1000, [1] * 1000)
    sizes = [window.ids for window in windows(table, np.arange(1000), 3400)]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 10


def test_small_splits_have_a_file_per_window_and_passes_over_few_copies_share_one() -> None:
    table = _table([99] * 400, [1] * 400)
    assert [len(own) for own in row_files(table, np.arange(400), 10_000)] == [1, 1, 1, 1]
    table.repeats[:3] = 30
    assert [len(own) for own in row_files(table, np.arange(400), 10_000)] == [1, 1, 1, 1, 29]


def test_large_splits_have_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table([99] * 4000, [1] * 4000)
    assert len(list(row_files(table, np.arange(4000), 100))) < 2 * module.FILES
    monkeypatch.setattr(module, "LARGEST_FILE_TOKENS", 2000)
    assert len(list(row_files(table, np.arange(4000), 100))) == 200
