"""From tokenized documents to rows: pieces, a plan, an array.

A row has tokens_per_row + 1 ids (the last one is only a target). Every piece is written as BOS and its tokens, so every
row and every document starts with BOS. Documents that fit into a row stay whole unless that would leave more padding
than allowed; longer ones are split into full pieces and a rest.
"""

import heapq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from model.packing import best_fit_rows, longest_first

Numbers = NDArray[np.int64]
SMALLEST_CUT = 16
"""Tokens of the smallest hole (BOS included) that a cut document may fill."""


class Plan(NamedTuple):
    """Which piece of which document lies where; the arrays have one entry per piece, in the order of rows and places.

    A piece is BOS and the tokens [offset, offset + stop - start - 1) of its document, at [start, stop) of its row.
    """

    rows: int
    row: Numbers
    start: Numbers
    stop: Numbers
    document: Numbers
    offset: Numbers

    @property
    def ids(self) -> int:
        """Ids in all pieces, BOS included."""
        return int((self.stop - self.start).sum())


def piece_type(tokens_per_row: int) -> "np.dtype[Any]":
    """One entry of a pieces file: the fields of `Plan`, the row numbered within its file, the document as the row of
    documents.parquet."""
    place = "<u2" if tokens_per_row + 1 <= np.iinfo(np.uint16).max else "<u4"
    return np.dtype([("row", "<u4"), ("start", place), ("stop", place), ("document", "<u4"), ("offset", "<u4")])


def plan_rows(lengths: ArrayLike, tokens_per_row: int, max_padding_fraction: float) -> Plan:
    """Rows of pieces that hold every token of every document exactly once.

    `lengths` are tokens per document without BOS. The result depends on the arguments only. Where whole documents fit
    together badly, the emptiest rows are taken apart and their documents cut to fill the holes of the others, until
    padding is at most `max_padding_fraction` of all ids or no more holes are worth it.
    """
    tokens, width = np.asarray(lengths, np.int64), tokens_per_row + 1
    counts = -(-tokens // tokens_per_row)
    document = np.repeat(np.arange(len(tokens)), counts)
    offset = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * tokens_per_row
    size = np.minimum(tokens[document] - offset, tokens_per_row) + 1
    row = best_fit_rows(size, width)
    placed = longest_first(size)
    placed = placed[np.argsort(row[placed], kind="stable")]
    row, document, offset, size = row[placed], document[placed], offset[placed], size[placed]
    count = int(row[-1]) + 1 if len(row) else 0
    if count * width - int(size.sum()) > max_padding_fraction * count * width:
        row, document, offset, size = _fill_holes((row, document, offset, size), count, width, max_padding_fraction)
        count = int(row[-1]) + 1
    stop = np.cumsum(size)
    stop -= np.repeat(np.r_[0, stop[np.flatnonzero(np.diff(row))]], np.bincount(row)) if len(row) else 0
    return Plan(count, row, stop - size, stop, document, offset)


Columns = tuple[Numbers, Numbers, Numbers, Numbers]
"""Row, document, offset and ids (BOS included) of every piece, in the order of rows and places."""


def _fill_holes(pieces: Columns, count: int, width: int, max_padding_fraction: float) -> Columns:
    row, *columns = pieces
    ends = np.cumsum(np.bincount(row, minlength=count)).tolist()
    parts = list(zip(*(column.tolist() for column in columns), strict=True))
    rows = [parts[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    room = [width - sum(size for _, _, size in row) for row in rows]
    padding = sum(room)
    victims = sorted(range(len(rows)), key=lambda i: (-room[i], i))
    gone: set[int] = set()
    holes = [(-room[i], i) for i in range(len(rows)) if room[i] >= SMALLEST_CUT]
    heapq.heapify(holes)
    usable = sum(-hole - 1 for hole, _ in holes)
    for victim in victims:
        if padding <= max_padding_fraction * count * width:
            break
        own = max(room[victim] - 1, 0) if room[victim] >= SMALLEST_CUT else 0
        needed = sum(size - 1 for _, _, size in rows[victim])
        if usable - own < 2 * needed:  # twice: cutting leaves holes too small to use
            break
        gone.add(victim)
        usable -= own
        padding -= room[victim]
        for document, offset, size in rows[victim]:
            left = size - 1
            while left:
                negative, target = heapq.heappop(holes)
                if target in gone or -negative != room[target]:
                    continue
                moved = min(left, -negative - 1)
                rows[target].append((document, offset, moved + 1))
                offset, left = offset + moved, left - moved
                usable -= room[target] - 1
                room[target] -= moved + 1
                padding -= moved + 1
                if room[target] >= SMALLEST_CUT:
                    heapq.heappush(holes, (-room[target], target))
                    usable += room[target] - 1
        rows[victim], room[victim], count = [], 0, count - 1
    kept = [row for row in rows if row]
    numbers = np.repeat(np.arange(len(kept)), [len(row) for row in kept])
    flat = np.array([piece for row in kept for piece in row], np.int64)
    return numbers, flat[:, 0], flat[:, 1], flat[:, 2]


def shuffled(plan: Plan, seed: tuple[int, ...]) -> Plan:
    """The same rows in another order, which depends on `seed` and on the number of rows."""
    places = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))).permutation(plan.rows)
    row = places[plan.row]
    order = np.argsort(row, kind="stable")
    return Plan(plan.rows, row[order], *(column[order] for column in plan[2:]))


def write_pieces(
    plan: Plan,
    ids: NDArray[Any],
    starts: Numbers,
    tokens_per_row: int,
    bos_id: int,
    pad_id: int,
    dtype: DTypeLike,
) -> NDArray[Any]:
    """The planned rows [rows, tokens_per_row + 1]; document d has the tokens from `ids[starts[d]]` on."""
    rows = np.full((plan.rows, tokens_per_row + 1), pad_id, dtype)
    flat = rows.reshape(-1)
    first = plan.row * (tokens_per_row + 1) + plan.start
    flat[first] = bos_id
    sources, sizes = starts[plan.document] + plan.offset, plan.stop - plan.start - 1
    # A slice per piece: an index per token would need eight times the memory of the rows.
    for target, source, size in zip((first + 1).tolist(), sources.tolist(), sizes.tolist(), strict=True):
        flat[target : target + size] = ids[source : source + size]
    return rows
