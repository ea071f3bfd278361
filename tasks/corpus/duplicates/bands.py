"""Candidate pairs of near duplicates: documents that share a band of their signatures. Runs in worker processes.

A job is a folder that every worker can read and write, holding

    job.json             signature files, estimate to reach, memory per task
    rank.npy             int64 [n], who is compared with whom: the best-ranked of a group with all others
    candidate.npy        bool [n], who takes part
    keys/NNNNN.npy       uint64 [14, documents of signature file N], one key per band
    pairs/NN-*.npy       int64 [pairs, 2], results of band NN

so that arguments stay small and one band needs memory for its keys only, partitioned on disk when they are many.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks._words import GOLDEN, mix64
from tasks.corpus.duplicates.minhash import BANDS, EMPTY, PERMUTATIONS, ROWS_PER_BAND
from tasks.corpus.duplicates.partitions import group_begins, partitions, records, repeated_keys

PAIRS_PER_CHUNK = 1 << 14
"""Pairs whose signatures are read at a time."""

DOCUMENTS_PER_CHUNK = 1 << 16
EARLIER_PER_GROUP = 8
"""With how many documents of an index in its group a new document is compared. An index holds no two near copies, so
larger groups are rare."""


class SignatureFiles:
    """Signatures of many files as one table, of which only the rows asked for are in memory.

    Rows are read one by one. A memory map would be three times faster, but with every row comes its neighbourhood, and
    soon the process seems to hold most of the files.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        tables = [np.load(path, mmap_mode="r") for path in paths]
        self._places = [(path, table.offset) for path, table in zip(paths, tables, strict=True)]
        self.starts = np.cumsum([0, *(len(table) for table in tables)], dtype=np.int64)

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Signatures of the numbered documents, in that order."""
        unique, inverse = np.unique(numbers, return_inverse=True)
        bounds = np.searchsorted(unique, self.starts)
        row_bytes = 4 * PERMUTATIONS
        parts = []
        for file in np.flatnonzero(np.diff(bounds)).tolist():
            path, offset = self._places[file]
            local = unique[bounds[file] : bounds[file + 1]] - self.starts[file]
            with open(path, "rb", buffering=0) as content:
                parts += [os.pread(content.fileno(), row_bytes, at) for at in (offset + local * row_bytes).tolist()]
        return np.frombuffer(b"".join(parts), "<u4").reshape(-1, PERMUTATIONS)[inverse]

    def estimates(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        """Estimated Jaccard similarity of each pair: the share of equal components."""
        result = np.empty(len(left))
        for first in range(0, len(left), PAIRS_PER_CHUNK):
            chunk = slice(first, first + PAIRS_PER_CHUNK)
            result[chunk] = (self.rows(left[chunk]) == self.rows(right[chunk])).mean(axis=1)
        return result


def write_band_keys(signatures: str, target: str) -> None:
    """The key of every band of every document of one signature file. 0 stands for a document without words."""
    table = np.load(signatures, mmap_mode="r")
    keys = np.empty((BANDS, len(table)), np.uint64)
    salt = np.arange(1, ROWS_PER_BAND // 2 + 1, dtype=np.uint64) * GOLDEN
    for first in range(0, len(table), DOCUMENTS_PER_CHUNK):
        rows = np.ascontiguousarray(table[first : first + DOCUMENTS_PER_CHUNK], "<u4")
        pairs = rows.view("<u8").reshape(len(rows), BANDS, ROWS_PER_BAND // 2)
        mixed = mix64(mix64(pairs + salt).sum(axis=2, dtype=np.uint64)).T
        mixed[:, (rows == EMPTY).all(axis=1)] = 0
        keys[:, first : first + len(rows)] = mixed
    np.save(target, keys)


def write_candidate_pairs(folder: str, band: int) -> None:
    """Pairs of one band that may be near duplicates: (best-ranked of the group, member) and (next better one, member).

    Written to pairs/NN-leader.npy and pairs/NN-neighbour.npy.
    """
    job, files = _open_job(folder)
    rank = np.load(Path(folder, "rank.npy"), mmap_mode="r")
    found: dict[str, list[NDArray[np.int64]]] = {"leader": [], "neighbour": []}
    for part in _parts(folder, band, job["memory_bytes"]):
        group = repeated_keys(part)
        numbers = group["number"]
        order = np.lexsort((rank[numbers], group["key"]))
        numbers, begins = numbers[order], group_begins(group["key"])  # sorted by key before as after
        places = np.arange(len(numbers))
        leaders = numbers[np.maximum.accumulate(np.where(begins, places, 0))]
        third = np.flatnonzero(~begins & ~np.roll(begins, 1))  # whose better neighbour is not the leader
        second = np.flatnonzero(~begins)
        for name, left, right in (
            ("leader", leaders[second], numbers[second]),
            ("neighbour", numbers[third - 1], numbers[third]),
        ):
            close = files.estimates(left, right) >= job["min_estimate"]
            found[name].append(np.stack([left[close], right[close]], axis=1))
    for name, pairs in found.items():
        np.save(Path(folder, "pairs", f"{band:02d}-{name}.npy"), np.concatenate(pairs))


def write_earlier_pairs(folder: str, band: int) -> None:
    """Pairs (document of the index, new document) of one band whose estimate suffices, and the estimates.

    The first job["earlier"] documents are those of the index. Written to pairs/NN-earlier.npy and NN-estimate.npy.
    """
    job, files = _open_job(folder)
    pairs, estimates = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for part in _parts(folder, band, job["memory_bytes"]):
        group = repeated_keys(part)
        group = group[np.lexsort((group["number"], group["key"]))]  # in each group the earlier ones come first
        numbers, begins = group["number"], np.flatnonzero(group_begins(group["key"]))
        is_earlier = numbers < job["earlier"]
        earlier = np.add.reduceat(is_earlier.astype(np.int64), begins) if len(begins) else begins
        new = np.flatnonzero(~is_earlier)
        own = np.searchsorted(begins, new, side="right") - 1
        for k in range(EARLIER_PER_GROUP):
            has = earlier[own] > k
            left, right = numbers[begins[own[has]] + k], numbers[new[has]]
            estimate = files.estimates(left, right)
            close = estimate >= job["min_estimate"]
            pairs.append(np.stack([left[close], right[close]], axis=1))
            estimates.append(estimate[close])
    np.save(Path(folder, "pairs", f"{band:02d}-earlier.npy"), np.concatenate(pairs))
    np.save(Path(folder, "pairs", f"{band:02d}-estimate.npy"), np.concatenate(estimates))


def _parts(folder: str, band: int, memory_bytes: int) -> Iterator[NDArray[np.void]]:
    """The keys of all candidates with their document numbers, in parts that fit the memory."""
    candidate = np.load(Path(folder, "candidate.npy"), mmap_mode="r")

    def chunks() -> Iterator[NDArray[np.void]]:
        first = 0
        for path in sorted(Path(folder, "keys").glob("*.npy")):
            keys = np.load(path, mmap_mode="r")[band]
            for start in range(0, len(keys), DOCUMENTS_PER_CHUNK):
                piece = np.asarray(keys[start : start + DOCUMENTS_PER_CHUNK])
                at = first + start
                chosen = np.flatnonzero(candidate[at : at + len(piece)] & (piece != 0))
                yield records(piece[chosen], chosen + at)
            first += len(keys)

    return partitions(chunks(), len(candidate), Path(folder, "partitions", f"{band:02d}"), memory_bytes)


def _open_job(folder: str) -> tuple[dict[str, Any], SignatureFiles]:
    job = json.loads(Path(folder, "job.json").read_text(encoding="utf-8"))
    return job, SignatureFiles(job["signatures"])
