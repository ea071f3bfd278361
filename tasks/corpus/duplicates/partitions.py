"""(key, number) records grouped by key in bounded memory: when many, spilled to disk by the leading bits of the key."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([("key", "<u8"), ("number", "<i8")])
WORKING_BYTES = 64
"""Memory per record while a partition is read, sorted and its groups are formed (RECORD itself is 16 bytes)."""

MAX_PARTITIONS = 1024


def records(keys: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.void]:
    result = np.empty(len(keys), RECORD)
    result["key"], result["number"] = keys, numbers
    return result


def partitions(
    chunks: Iterable[NDArray[np.void]], total: int, folder: Path, memory_bytes: int
) -> Iterator[NDArray[np.void]]:
    """All records of the chunks, in parts such that every key lies in one part whole.

    total: records to come, at most. Keys must be hashes: parts are equally large as far as keys are evenly spread, and
    one key with very many records is one part. Files below `folder`, which is made and is empty afterwards, exist only
    when the records do not fit `memory_bytes`; those of an interrupted run are overwritten.
    """
    bits = 0
    while total * WORKING_BYTES > memory_bytes << bits and 1 << bits < MAX_PARTITIONS:
        bits += 1
    if not bits:
        yield np.concatenate([np.empty(0, RECORD), *chunks])
        return
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part-{number:04d}.bin" for number in range(1 << bits)]
    for path in paths:
        path.write_bytes(b"")
    for chunk in chunks:
        part = (chunk["key"] >> np.uint64(64 - bits)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange((1 << bits) + 1))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            with paths[number].open("ab") as file:
                chunk[order[bounds[number] : bounds[number + 1]]].tofile(file)
    for path in paths:
        yield np.fromfile(path, RECORD)
        path.unlink()


def repeated_keys(part: NDArray[np.void]) -> NDArray[np.void]:
    """The records whose key occurs at least twice in the part, sorted by key."""
    order = np.argsort(part["key"])
    keys = part["key"][order]
    same = keys[1:] == keys[:-1]
    in_group = np.zeros(len(keys), bool)
    in_group[1:] = same
    in_group[:-1] |= same
    return part[order[in_group]]


def group_begins(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True where a run of equal keys begins."""
    begins = np.ones(len(keys), bool)
    begins[1:] = keys[1:] != keys[:-1]
    return begins
