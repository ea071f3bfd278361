"""Packing whole sequences into rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.packing import best_fit, fill_rows


@given(st.lists(st.integers(1, 20), max_size=60))
def test_every_sequence_is_in_exactly_one_row_and_no_row_overflows(lengths: list[int]) -> None:
    rows = best_fit(lengths, 20)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 20 for row in rows)


@given(st.lists(st.integers(1, 20), max_size=60))
def test_equals_a_plain_best_fit_decreasing(lengths: list[int]) -> None:
    """Reference: search all rows for the smallest room that fits; the bit set must find rooms of the same size."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(20 - length)
    packed = best_fit(lengths, 20)
    assert sorted(20 - sum(lengths[n] for n in row) for row in packed) == sorted(rooms)


def test_fill_rows_follows_the_plan_for_ids_and_mask() -> None:
    ids, mask = [[1, 2], [3], [4, 5, 6]], [[0, 1], [1], [0, 0, 1]]
    plan = [[2], [0, 1]]
    assert fill_rows(plan, ids, 4, 9, np.uint16).tolist() == [[4, 5, 6, 9], [1, 2, 3, 9]]
    assert fill_rows(plan, mask, 4, 0, np.uint8).tolist() == [[0, 0, 1, 0], [0, 1, 1, 0]]


def test_impossible_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="sequence 1 has 9 tokens"):
        best_fit([3, 9], 8)
    with pytest.raises(ValueError, match="sequence 1 has 0 tokens"):
        best_fit([3, 0], 8)
    with pytest.raises(ValueError, match="row 0 would hold 5"):
        fill_rows([[0, 1]], [[1, 2], [3, 4, 5]], 4, 0, "u1")
