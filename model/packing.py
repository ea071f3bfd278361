"""Packing: put sequences of tokens into rows of equal length without cutting any of them.

Pure functions, shared by documents (tasks/shards) and conversations (tasks/conversations): `best_fit` decides which
sequences share a row, `fill_rows` writes ids, masks or anything else along the same plan.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def best_fit(lengths: Sequence[int], tokens_per_row: int) -> list[list[int]]:
    """Best-fit decreasing: each sequence, longest first, goes into the fullest row that still has room for it.

    Returns one list of sequence numbers per row, in order of placement; every sequence is in exactly one row. Equal
    lengths are taken in their given order, so the result depends on `lengths` alone. ValueError for a length outside
    1..tokens_per_row.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    if order and not (lengths[order[-1]] >= 1 and lengths[order[0]] <= tokens_per_row):
        worst = order[0] if lengths[order[0]] > tokens_per_row else order[-1]
        raise ValueError(
            f"sequence {worst} has {lengths[worst]} tokens; allowed: 1..{tokens_per_row}; next: split or drop it first"
        )
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(tokens_per_row + 1)]
    rooms = 0  # bit r is set while some row has room for exactly r tokens
    for number in order:
        length = lengths[number]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = tokens_per_row, len(rows)
            rows.append([])
        rows[row].append(number)
        left = room - length
        if left:
            rows_by_room[left].append(row)
            rooms |= 1 << left
    return rows


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
