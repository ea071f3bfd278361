"""Documents to rows and back."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.packing import best_fit
from tasks.shards.packing import SMALLEST_CUT, Plan, plan_rows, shuffled, write_pieces

BOS, PAD = 1000, 1001
TOKENS_PER_ROW = 40

lengths = st.lists(st.integers(0, 130), max_size=40)
padding_limits = st.sampled_from([0.0, 0.005, 0.99])


def _rows(plan: Plan, sizes: list[int], first_token: int = 1) -> np.ndarray:
    """The rows of documents whose tokens are numbered from `first_token`, document after document."""
    ids = np.arange(sum(sizes), dtype=np.uint16) % 900 + first_token
    starts = np.cumsum([0, *sizes])[:-1]
    return write_pieces(plan, ids, starts, TOKENS_PER_ROW, BOS, PAD, np.uint16)


def _pieces(plan: Plan) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in plan[1:]), strict=True))


@given(lengths, padding_limits)
def test_every_document_can_be_recovered_from_the_rows(sizes: list[int], max_padding: float) -> None:
    documents = np.split(np.arange(sum(sizes)) % 900 + 1, np.cumsum(sizes)[:-1]) if sizes else []
    plan = shuffled(plan_rows(sizes, TOKENS_PER_ROW, max_padding), (0,))
    rows = _rows(plan, sizes)
    assert rows.shape == (plan.rows, TOKENS_PER_ROW + 1)
    found: dict[int, list[tuple[int, list[int]]]] = {}
    ends = np.zeros(plan.rows, int)
    for row, start, stop, document, offset in _pieces(plan):
        assert start == ends[row], "the pieces of a row follow one another without a gap"
        assert rows[row, start] == BOS
        found.setdefault(document, []).append((offset, rows[row, start + 1 : stop].tolist()))
        ends[row] = stop
    assert all((ids[end:] == PAD).all() and end > 0 for ids, end in zip(rows, ends, strict=True))
    assert plan.ids == int((rows != PAD).sum())
    for number, document in enumerate(documents):
        parts = sorted(found.get(number, []))
        assert [offset for offset, _ in parts] == np.cumsum([0, *(len(part) for _, part in parts)])[:-1].tolist()
        assert [token for _, part in parts for token in part] == document.tolist()


@given(lengths)
def test_documents_that_fit_stay_whole_when_padding_is_allowed(sizes: list[int]) -> None:
    plan = plan_rows(sizes, TOKENS_PER_ROW, 0.99)
    counts = np.bincount(plan.document, minlength=len(sizes))
    assert counts.tolist() == [-(-size // TOKENS_PER_ROW) for size in sizes]


@given(st.lists(st.integers(1, TOKENS_PER_ROW), max_size=40))
def test_whole_documents_lie_where_best_fit_decreasing_puts_them(sizes: list[int]) -> None:
    plan = plan_rows(sizes, TOKENS_PER_ROW, 0.99)
    rows: list[list[int]] = [[] for _ in range(plan.rows)]
    for row, _, _, document, _ in _pieces(plan):
        rows[row].append(document)
    assert rows == best_fit([size + 1 for size in sizes], TOKENS_PER_ROW + 1)


@given(lengths, padding_limits, st.integers(0, 5))
def test_shuffling_moves_whole_rows(sizes: list[int], max_padding: float, seed: int) -> None:
    plan = plan_rows(sizes, TOKENS_PER_ROW, max_padding)
    moved = shuffled(plan, (seed, 1))
    assert sorted(_rows(moved, sizes).tolist()) == sorted(_rows(plan, sizes).tolist())
    assert (np.diff(moved.row) >= 0).all()
    again: Any = shuffled(plan, (seed, 1))
    assert all(np.array_equal(a, b) for a, b in zip(moved, again, strict=True))


def test_documents_that_fit_badly_are_cut_only_as_far_as_padding_demands() -> None:
    """Documents of 60 % of a row would waste 40 %; cutting some of them must bring padding under the limit."""
    plan = plan_rows([300] * 1000, 512, 0.005)
    sizes = plan.stop - plan.start
    assert 1 - plan.ids / (plan.rows * 513) <= 0.005
    assert (sizes == 301).sum() > 500
    assert sizes.min() > 1
    assert plan.stop.max() <= 513


def test_many_short_documents_need_no_cut() -> None:
    sizes = np.random.default_rng(0).integers(5, 200, 5000)
    plan = plan_rows(sizes, 512, 0.005)
    assert len(plan.document) == len(sizes)
    assert SMALLEST_CUT > 1
