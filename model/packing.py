"""Packing: put sequences of tokens into rows of equal length without cutting any of them.

Pure functions, shared by documents (tasks/shards) and conversations (tasks/conversations): `best_fit` decides which
sequences share a row, `fill_rows` writes ids, masks or anything else along the same plan.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


def best_fit(lengths: ArrayLike, tokens_per_row: int) -> list[list[int]]:
    """Best-fit decreasing: each sequence, longest first, goes into the fullest row that still has room for it.

    Returns one list of sequence numbers per row, in order of placement; every sequence is in exactly one row. Equal
    lengths are taken in their given order, so the result depends on `lengths` alone. ValueError for a length outside
    1..tokens_per_row.
    """
    rows = best_fit_rows(lengths, tokens_per_row)
    if not len(rows):
        return []
    placed = longest_first(lengths)
    numbers = placed[np.argsort(rows[placed], kind="stable")]
    return [part.tolist() for part in np.split(numbers, np.cumsum(np.bincount(rows))[:-1])]


def best_fit_rows(lengths: ArrayLike, tokens_per_row: int) -> NDArray[np.int64]:
    """The row of every sequence, as `best_fit` places them; within a row they stand in the order of `longest_first`."""
    sizes = np.asarray(lengths, np.int64)
    placed = longest_first(sizes)
    _check_lengths(sizes, placed, tokens_per_row)
    ordered = sizes[placed]
    rows_of_placed = np.empty(len(sizes), np.int64)
    rows_by_room: list[list[int]] = [[] for _ in range(tokens_per_row + 1)]
    rooms = 0  # bit r is set while some row has room for exactly r tokens
    count = 0
    # Sequences of one length are placed together: the row that best fits the first of them keeps being the best fit
    # until it has no room for another, so each row is visited once per length and never once per sequence.
    ends = np.flatnonzero(np.diff(ordered, append=0)) + 1
    place = 0
    for end in ends.tolist():
        length = int(ordered[place])
        while place < end:
            fitting = rooms >> length
            room = length + (fitting & -fitting).bit_length() - 1 if fitting else tokens_per_row
            per_row = room // length
            wanted = -(-(end - place) // per_row)
            taken: Sequence[int]
            if fitting:
                stack = rows_by_room[room]
                taken = stack[-wanted:][::-1]
                del stack[-wanted:]
                if not stack:
                    rooms ^= 1 << room
            else:
                taken = range(count, count + wanted)
                count += wanted
            number = min(len(taken) * per_row, end - place)
            rows_of_placed[place : place + number] = np.repeat(np.asarray(taken), per_row)[:number]
            place += number
            filled, rest = divmod(number, per_row)
            for left, rows in ((room - per_row * length, taken[:filled]), (room - rest * length, taken[filled:])):
                if left and rows:
                    rows_by_room[left].extend(rows)
                    rooms |= 1 << left
    found = np.empty(len(sizes), np.int64)
    found[placed] = rows_of_placed
    return found


def longest_first(lengths: ArrayLike) -> NDArray[np.int64]:
    """Numbers of the sequences in the order in which they are placed."""
    return np.argsort(-np.asarray(lengths, np.int64), kind="stable")


def _check_lengths(sizes: NDArray[np.int64], placed: NDArray[np.int64], tokens_per_row: int) -> None:
    if len(sizes) and not (sizes[placed[-1]] >= 1 and sizes[placed[0]] <= tokens_per_row):
        worst = placed[0] if sizes[placed[0]] > tokens_per_row else placed[-1]
        raise ValueError(
            f"sequence {worst} has {sizes[worst]} tokens; allowed: 1..{tokens_per_row}; next: split or drop it first"
        )


def fill_rows(
    plan: Sequence[Sequence[int]], sequences: Sequence[Any], tokens_per_row: int, padding: int, dtype: DTypeLike
) -> NDArray[Any]:
    """Rows [len(plan), tokens_per_row]: the sequences of each row one after the other, then `padding`.

    `sequences[number]` is a list or array of numbers. Use it once for the ids and once, with the same plan, for a mask.
    ValueError when the sequences of a row are longer than the row.
    """
    rows = np.full((len(plan), tokens_per_row), padding, dtype=dtype)
    for row, numbers in enumerate(plan):
        start = 0
        for number in numbers:
            stop = start + len(sequences[number])
            if stop > tokens_per_row:
                raise ValueError(f"row {row} would hold {stop} or more tokens; allowed: {tokens_per_row}")
            rows[row, start:stop] = sequences[number]
            start = stop
    return rows
