"""From tokenized documents to rows: pieces, a plan, an array.

A row has tokens_per_row + 1 ids (the last one is only a target). Every piece is written as BOS and its tokens, so every
row and every document starts with BOS. Documents that fit into a row stay whole unless that would leave more padding
than allowed; longer ones are split into full pieces and a rest.
"""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from model.packing import best_fit, fill_rows

SMALLEST_CUT = 16
"""Tokens of the smallest hole (BOS included) that a cut document may fill."""


class Piece(NamedTuple):
    """Tokens start..stop of a document; BOS comes in addition."""

    document: int
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """Ids the piece takes in a row, BOS included."""
        return self.stop - self.start + 1


def plan_rows(lengths: Sequence[int], tokens_per_row: int, max_padding_fraction: float) -> list[list[Piece]]:
    """Rows of pieces that hold every token of every document exactly once.

    `lengths` are tokens per document without BOS. The result depends on the arguments only. Where whole documents fit
    together badly, the emptiest rows are taken apart and their documents cut to fill the holes of the others, until
    padding is at most `max_padding_fraction` of all ids or no more holes are worth it.
    """
    content = tokens_per_row  # ids of a row beside its first BOS
    pieces = [
        Piece(document, start, min(start + content, length))
        for document, length in enumerate(lengths)
        for start in range(0, length, content)
    ]
    width = tokens_per_row + 1
    rows = [[pieces[i] for i in row] for row in best_fit([piece.tokens for piece in pieces], width)]
    return _fill_holes(rows, width, max_padding_fraction)


def _fill_holes(rows: list[list[Piece]], width: int, max_padding_fraction: float) -> list[list[Piece]]:
    room = [width - sum(piece.tokens for piece in row) for row in rows]
    padding, count = sum(room), len(rows)
    victims = sorted(range(len(rows)), key=lambda i: (-room[i], i))
    gone: set[int] = set()
    holes = [(-room[i], i) for i in range(len(rows)) if room[i] >= SMALLEST_CUT]
    heapq.heapify(holes)
    usable = sum(-hole - 1 for hole, _ in holes)
    for victim in victims:
        if padding <= max_padding_fraction * count * width:
            break
        own = max(room[victim] - 1, 0) if room[victim] >= SMALLEST_CUT else 0
        needed = sum(piece.stop - piece.start for piece in rows[victim])
        if usable - own < 2 * needed:  # twice: cutting leaves holes too small to use
            break
        gone.add(victim)
        usable -= own
        padding -= room[victim]
        for piece in rows[victim]:
            start = piece.start
            while start < piece.stop:
                negative, target = heapq.heappop(holes)
                if target in gone or -negative != room[target]:
                    continue
                stop = min(piece.stop, start - negative - 1)
                rows[target].append(Piece(piece.document, start, stop))
                usable -= room[target] - 1
                room[target] -= stop - start + 1
                padding -= stop - start + 1
                if room[target] >= SMALLEST_CUT:
                    heapq.heappush(holes, (-room[target], target))
                    usable += room[target] - 1
                start = stop
        rows[victim], room[victim], count = [], 0, count - 1
    return [row for row in rows if row]


def write_pieces(
    plan: Sequence[Sequence[Piece]],
    documents: Sequence[NDArray[Any]],
    tokens_per_row: int,
    bos_id: int,
    pad_id: int,
    dtype: DTypeLike,
) -> NDArray[Any]:
    """The planned rows as ids [rows, tokens_per_row + 1]."""
    sequences: list[NDArray[Any]] = []
    numbers: list[list[int]] = []
    for row in plan:
        numbers.append(list(range(len(sequences), len(sequences) + len(row))))
        for piece in row:
            sequence = np.empty(piece.tokens, dtype)
            sequence[0] = bos_id
            sequence[1:] = documents[piece.document][piece.start : piece.stop]
            sequences.append(sequence)
    return fill_rows(numbers, sequences, tokens_per_row + 1, pad_id, dtype)
