"""Shingle sets on disk, for the true similarity of pairs of documents, however many there are."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.duplicates.minhash import jaccard


def write_sets(folder: Path, numbers: NDArray[np.int64], sets: Iterable[tuple[int, NDArray[np.uint32]]]) -> None:
    """Store the set of each of the sorted `numbers`, which must come in that order; four bytes per shingle."""
    sizes = np.zeros(len(numbers), np.int64)
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "shingles.bin").open("wb") as file:
        for number, shingles in sets:
            if count == len(numbers) or number != numbers[count]:
                wanted = numbers[count] if count < len(numbers) else "none"
                raise ValueError(f"shingles_of gave document {number}; asked for: {wanted}, as numbers ascend")
            np.ascontiguousarray(shingles, "<u4").tofile(file)
            sizes[count] = len(shingles)
            count += 1
    if count != len(numbers):
        raise ValueError(f"shingles_of ended after {count} of {len(numbers)} documents")
    np.save(folder / "starts.npy", np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


def jaccards(folder: str, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """True Jaccard similarity of pairs of stored sets, named by their places. Runs in worker processes."""
    starts = np.load(Path(folder, "starts.npy"), mmap_mode="r")
    path = Path(folder, "shingles.bin")
    table = np.memmap(path, "<u4", "r") if path.stat().st_size else np.zeros(0, np.uint32)
    result = np.empty(len(left))
    place, own = -1, np.zeros(0, np.uint32)
    for number, (first, second) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        if first != place:  # the left ones are the leaders of groups: often the same many times over
            place, own = first, np.asarray(table[starts[first] : starts[first + 1]])
        result[number] = jaccard(own, np.asarray(table[starts[second] : starts[second + 1]]))
    return result
