"""The fixed partition of a split: windows of documents that are packed together, and files of windows.

Both depend on the documents alone. A window is what a worker holds in memory; a file is what it writes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.shards.documents import DocumentTable

FILES = 64
"""Row files a split is spread over at least, once it is large enough for a window each: workers share them."""
LARGEST_FILE_TOKENS = 2**30


class Window(NamedTuple):
    """Documents that are packed together; arrays have one entry per document, in packing order."""

    number: int
    """Place within the split."""
    document: NDArray[np.int64]
    """Row in documents.parquet."""
    file: NDArray[np.uint32]
    first: NDArray[np.int64]
    tokens: NDArray[np.uint32]

    @property
    def ids(self) -> int:
        """Tokens of the documents, and a BOS for each."""
        return int(self.tokens.sum(dtype=np.int64)) + len(self.tokens)


def row_files(table: DocumentTable, ordered: NDArray[np.int64], window_tokens: int) -> Iterator[list[Window]]:
    """The windows of the documents `ordered`, those of one row file together: consecutive ones, as many as fit.

    Small splits have a file per window, large ones about FILES of equal size, very large ones more.
    """
    total = int(((table.tokens[ordered] + np.int64(1)) * table.repeats[ordered]).sum())
    limit = min(max(window_tokens, total // FILES), LARGEST_FILE_TOKENS)
    own: list[Window] = []
    size = 0
    for window in windows(table, ordered, window_tokens):
        if own and size + window.ids > limit:
            yield own
            own, size = [], 0
        own.append(window)
        size += window.ids
    if own:
        yield own


def windows(table: DocumentTable, ordered: NDArray[np.int64], window_tokens: int) -> Iterator[Window]:
    """The documents `ordered` in windows of about `window_tokens` at most, as equal as whole documents allow.

    Pass c takes the documents that are wanted more than c times, and no window reaches into the next pass: two copies
    never meet in a row, where the second could be read off the first. Training draws its rows from all passes at once.
    """
    repeats = table.repeats[ordered]
    number = 0
    for done in range(int(repeats.max(initial=0))):
        documents = ordered[repeats > done]
        ends = np.cumsum(table.tokens[documents].astype(np.int64) + 1)  # with BOS
        count = -(-int(ends[-1]) // window_tokens)
        places = (ends - 1) * count // int(ends[-1])
        for own in np.split(documents, np.flatnonzero(np.diff(places)) + 1):
            yield Window(number, own, table.file[own], table.first[own], table.tokens[own])
            number += 1
