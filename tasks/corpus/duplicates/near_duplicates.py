"""Near duplicates: clusters of documents whose sets of five-word shingles overlap, and the one of each that stays.

A pair of true Jaccard similarity J shares one of 14 bands of 8 with probability 1 - (1 - J^8)^14: 0.77 at 0.75, 0.92 at
0.8, 0.9996 at 0.9. In each band's group every document is compared with the best-ranked one and with its better
neighbour. A pair whose signatures agree far enough (ESTIMATE_MARGIN below the threshold) is verified: the true Jaccard
similarity of its shingle sets decides. Verified pairs are joined to clusters. The best-ranked document of one stays
and removes those that resemble it; of what is left the best-ranked stays, and so on: versions of a page that drifted
apart keep a few, and whatever is removed resembles a document that stays.

Promise      Clusters depend on texts and ranks alone: not on the order of documents, files, memory or workers.
Memory       In this process 30 bytes per document (ranks, clusters) and 100 per document of a surviving pair; per band
             task memory_bytes. On disk 112 bytes per document, and 4 per shingle of a document of a surviving pair.
Not covered  A cluster from which MAX_WINNERS documents stay keeps no more: the rest goes in favour of the best-ranked
             (`similarity` tells). Against an index, whose texts are gone, the estimate alone decides.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks import _files
from tasks.corpus.duplicates.bands import write_band_keys, write_candidate_pairs, write_earlier_pairs
from tasks.corpus.duplicates.minhash import BANDS
from tasks.corpus.duplicates.shingle_store import jaccards, write_sets

ESTIMATE_MARGIN = 0.1
"""Two standard errors of an estimate by 112 components at J = 0.7 (0.043 each)."""

MAX_WINNERS = 32
"""Documents that may stay of one cluster; bounds the comparisons within it."""

PAIRS_PER_TASK = 1024
_FOLDER = "near_duplicates"

ShinglesOf = Callable[[NDArray[np.int64]], Iterable[tuple[int, NDArray[np.uint32]]]]
"""Given ascending document numbers: each with the sorted unique hashes of its shingles, in the same order."""


class Clusters(NamedTuple):
    """What every document belongs to."""

    winner: NDArray[np.int64]
    """Number of the document that stays instead; its own for one that stays."""
    similarity: NDArray[np.float32]
    """True Jaccard similarity with the winner."""
    cluster: NDArray[np.int64]
    """Number of the best-ranked document of the cluster; its own for one without near duplicates."""


class Matches(NamedTuple):
    """Which earlier document each document resembles."""

    earlier: NDArray[np.int64]
    """Number of the document in the index, -1 for none."""
    similarity: NDArray[np.float32]
    """Estimated Jaccard similarity with it, 0 for none."""


def near_clusters(
    signature_files: Sequence[Path],
    rank: NDArray[np.int64],
    candidate: NDArray[np.bool_],
    min_jaccard: float,
    shingles_of: ShinglesOf,
    scratch: Path,
    memory_bytes: int,
    executor: Executor | None = None,
) -> Clusters:
    """Clusters among the candidates; all others stand for themselves.

    signature_files: uint32 [documents, 112] .npy, whose documents are numbered one after the other.
    rank: one distinct number per document; the smallest of a cluster wins.
    scratch: a folder every worker can reach; what is written there is removed again.
    memory_bytes: for each of the tasks that run at the same time.
    """
    if len(np.unique(rank[candidate])) != np.count_nonzero(candidate):
        raise ValueError("near_clusters: two candidates have the same rank; ranks must be distinct")
    clusters = Clusters(np.arange(len(rank)), np.ones(len(rank), np.float32), np.arange(len(rank)))
    folder = scratch / _FOLDER
    job = {"min_estimate": min_jaccard - ESTIMATE_MARGIN, "memory_bytes": memory_bytes}
    _write_job(folder, signature_files, candidate, job, executor)
    np.save(folder / "rank.npy", rank)
    _run(executor, write_candidate_pairs, [str(folder)] * BANDS, range(BANDS))
    numbers = _paired_documents(folder)
    if len(numbers):
        write_sets(folder / "sets", numbers, shingles_of(numbers))
        similarities = _Similarities(folder / "sets", len(numbers), executor)
        label = _joined(folder, numbers, similarities, min_jaccard)
        order = np.lexsort((rank[numbers], label))
        best, winner, similarity = _winners(label[order], order, similarities, min_jaccard)
        clusters.cluster[numbers], clusters.winner[numbers] = numbers[best], numbers[winner]
        clusters.similarity[numbers] = similarity
    _files.remove(folder)
    return clusters


def near_earlier(
    earlier_files: Sequence[Path],
    signature_files: Sequence[Path],
    candidate: NDArray[np.bool_],
    min_jaccard: float,
    scratch: Path,
    memory_bytes: int,
    executor: Executor | None = None,
) -> Matches:
    """For each candidate the document of an index that resembles it most, if the estimate reaches min_jaccard.

    Documents of the index are numbered over `earlier_files`, in order. Equal estimates: the smaller number. Standard
    error of an estimate: sqrt(J (1 - J) / 112), about 0.04.
    """
    earlier = sum(len(np.load(path, mmap_mode="r")) for path in earlier_files)
    found = Matches(np.full(len(candidate), -1, np.int64), np.zeros(len(candidate), np.float32))
    folder = scratch / _FOLDER
    job = {"min_estimate": min_jaccard, "memory_bytes": memory_bytes, "earlier": earlier}
    everything = np.concatenate([np.ones(earlier, bool), candidate])
    _write_job(folder, [*earlier_files, *signature_files], everything, job, executor)
    _run(executor, write_earlier_pairs, [str(folder)] * BANDS, range(BANDS))
    for band in range(BANDS):
        pairs = np.load(folder / "pairs" / f"{band:02d}-earlier.npy")
        estimates = np.load(folder / "pairs" / f"{band:02d}-estimate.npy").astype(np.float32)
        order = np.lexsort((pairs[:, 0], -estimates, pairs[:, 1]))
        order = order[np.flatnonzero(np.diff(pairs[order, 1], prepend=-1))]  # the best of each new document
        number, new, estimate = pairs[order, 0], pairs[order, 1] - earlier, estimates[order]
        former, best = found.earlier[new], found.similarity[new]
        better = (estimate > best) | ((estimate == best) & (number < former))
        found.earlier[new[better]], found.similarity[new[better]] = number[better], estimate[better]
    _files.remove(folder)
    return found


def _write_job(
    folder: Path,
    signature_files: Sequence[Path],
    candidate: NDArray[np.bool_],
    job: dict[str, Any],
    executor: Executor | None,
) -> None:
    _files.remove(folder)
    for name in ("keys", "pairs"):
        (folder / name).mkdir(parents=True)
    names = [str(path) for path in signature_files]
    _files.write_json(folder / "job.json", {**job, "signatures": names})
    np.save(folder / "candidate.npy", candidate)
    targets = [str(folder / "keys" / f"{number:06d}.npy") for number in range(len(names))]
    _run(executor, write_band_keys, names, targets)
    documents = sum(np.load(target, mmap_mode="r").shape[1] for target in targets)
    if documents != len(candidate):
        raise ValueError(f"{len(names)} signature files hold {documents} documents; candidates: {len(candidate)}")


def _run(executor: Executor | None, function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
    """Results in the order of the arguments, whoever computes them."""
    return list(executor.map(function, *arguments) if executor else map(function, *arguments))


def _paired_documents(folder: Path) -> NDArray[np.int64]:
    """Sorted numbers of all documents in a surviving pair."""
    numbers = np.zeros(0, np.int64)
    for path in sorted((folder / "pairs").glob("*.npy")):
        numbers = np.union1d(numbers, np.load(path).ravel())
    return numbers


class _Similarities:
    """True similarities of pairs of stored documents, each computed once. Documents are named by place in the store."""

    def __init__(self, folder: Path, documents: int, executor: Executor | None) -> None:
        self._folder, self._documents, self._executor = str(folder), documents, executor
        self._known, self._values = np.zeros(0, np.int64), np.zeros(0)

    def of(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        keys = np.minimum(left, right) * self._documents + np.maximum(left, right)
        new = np.setdiff1d(keys, self._known)
        known = np.concatenate([self._known, new])
        order = np.argsort(known)
        self._values = np.concatenate([self._values, self._compute(new)])[order]
        self._known = known[order]
        return self._values[np.searchsorted(self._known, keys)]

    def _compute(self, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        chunks = [keys[first : first + PAIRS_PER_TASK] for first in range(0, len(keys), PAIRS_PER_TASK)]
        left, right = ([part(chunk, self._documents) for chunk in chunks] for part in (np.floor_divide, np.remainder))
        return np.concatenate([np.zeros(0), *_run(self._executor, jaccards, [self._folder] * len(chunks), left, right)])


def _joined(
    folder: Path, numbers: NDArray[np.int64], similarities: _Similarities, min_jaccard: float
) -> NDArray[np.int64]:
    """The cluster of each paired document: connected by pairs that reach min_jaccard.

    Band after band, leaders before neighbours; pairs connected by then need no verification, so one of very many copies
    costs one comparison, not 28. What is left out connects nothing new: clusters do not depend on the order.
    """
    cluster = np.arange(len(numbers), dtype=np.int64)
    for path in _pair_files(folder):
        left, right = np.searchsorted(numbers, np.load(path)).T
        apart = np.flatnonzero(cluster[left] != cluster[right])
        left, right = left[apart], right[apart]
        similar = similarities.of(left, right) >= min_jaccard
        cluster = _connected(cluster, left[similar], right[similar])
    return cluster


def _pair_files(folder: Path) -> Iterator[Path]:
    for name in ("leader", "neighbour"):
        yield from (folder / "pairs" / f"{band:02d}-{name}.npy" for band in range(BANDS))


def _connected(cluster: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Clusters after joining those of each pair."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(cluster)
    edges = coo_array((np.ones(len(left), bool), (cluster[left], cluster[right])), shape=(size, size))
    return connected_components(edges, directed=False)[1].astype(np.int64)[cluster]


def _winners(
    label: NDArray[np.int64], order: NDArray[np.int64], similarities: _Similarities, min_jaccard: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Best of the cluster, winner and similarity with it of each paired document.

    order: the documents by cluster and rank; label: their clusters, in this order.
    """
    best = np.empty(len(order), np.int64)
    best[order] = _leaders(label, order)
    winner, similarity = np.arange(len(order)), np.ones(len(order))
    for _ in range(MAX_WINNERS):
        leader = _leaders(label, order)
        members = np.flatnonzero(leader != order)
        label, order, leader = label[members], order[members], leader[members]
        alike = similarities.of(leader, order)
        similar = alike >= min_jaccard
        winner[order[similar]], similarity[order[similar]] = leader[similar], alike[similar]
        label, order = label[~similar], order[~similar]
    winner[order], similarity[order] = best[order], similarities.of(best[order], order)
    return best, winner, similarity


def _leaders(label: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place the document at which the run of its label begins."""
    begins = np.flatnonzero(np.diff(label, prepend=-1))
    return np.repeat(order[begins], np.diff(np.append(begins, len(order))))
