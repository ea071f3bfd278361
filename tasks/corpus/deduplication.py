"""Exact copies, near copies and repeated paragraphs: among the documents still kept, and against earlier crawls."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks._context import StageContext
from tasks._errors import StageError
from tasks._executor import in_order
from tasks._units import code_version
from tasks.corpus import passes
from tasks.corpus.documents import NONE, DocumentTable, Numbers
from tasks.corpus.duplicates.index import Index, find_exact, open_index, save_index
from tasks.corpus.duplicates.minhash import exact_winners
from tasks.corpus.duplicates.near_duplicates import near_clusters, near_earlier
from tasks.corpus.duplicates.paragraphs import Repeated, repeated
from tasks.corpus.gathering import Work
from tasks.corpus.params import Duplicates

EXACT, NEAR, PARAGRAPHS = "exact_duplicate", "near_duplicate", "duplicate_paragraphs"
MEMORY_BYTES = 512 << 20
"""What grouping equal keys may take at once; beyond it they are partitioned on disk."""


def open_earlier(ctx: StageContext, params: Duplicates) -> Index | None:
    """The index of earlier crawls, where params.yaml names one."""
    if params.earlier is None:
        return None
    root = ctx.input("data/earlier")
    folder = (root / params.earlier).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise StageError(
            f"corpus.duplicates.earlier: {params.earlier!r} leads outside data/earlier; next: copy the index there"
        )
    return open_index(folder)


def drop_duplicates(work: Work, table: DocumentTable, params: Duplicates, earlier: Index | None, scratch: Path) -> None:
    """Exact copies first, then near copies among what is left; each first against earlier crawls, which always win."""
    if not params.exact and params.min_jaccard is None:
        return
    signed = sign(work, table)
    rank = table.winner_rank()
    if params.exact:
        keys = np.concatenate([np.load(unit / passes.KEYS) for unit in signed])
        if earlier is not None:
            found = find_exact(earlier, keys, table.kept, scratch, MEMORY_BYTES)
            _mark_earlier(table, EXACT, earlier, found, np.ones(len(table), np.float32), 1.0)
        winner = exact_winners(keys, rank, table.kept)
        _mark(table, EXACT, winner, winner, np.ones(len(table), np.float32), 1.0)
    if params.min_jaccard is not None:
        files, bound = [unit / passes.SIGNATURES for unit in signed], params.min_jaccard
        if earlier is not None:
            matches = near_earlier(
                earlier.signature_files, files, table.kept, bound, scratch, MEMORY_BYTES, work.executor
            )
            _mark_earlier(table, NEAR, earlier, matches.earlier, matches.similarity, bound)
        clusters = near_clusters(
            files,
            rank,
            table.kept,
            bound,
            lambda numbers: shingle_sets(work, table, numbers),
            scratch,
            MEMORY_BYTES,
            work.executor,
        )
        _mark(table, NEAR, clusters.winner, clusters.cluster, clusters.similarity, bound)


def sign(work: Work, table: DocumentTable) -> list[Path]:
    """Units of the pass `sign`, one per shard of the table."""
    return work.over("sign", table.shards, code_version(passes.SIGN_CODE, passes.SIGN_LIBRARIES))


def _mark(
    table: DocumentTable,
    reason: str,
    winner: Numbers,
    cluster: Numbers,
    similarity: NDArray[np.float32],
    bound: float,
) -> None:
    """Drop every document that is not its own winner; all of a cluster, winners too, get its number."""
    own = np.arange(len(table))
    dropped = (winner != own) & table.kept
    joined = cluster != own
    joined[cluster[joined]] = True
    table.cluster[joined] = cluster[joined]
    known = table.cluster != NONE  # copies of a document that has joined another cluster follow it
    table.cluster[known] = table.cluster[table.cluster[known]]
    table.similarity[dropped] = similarity[dropped]
    table.drop(dropped, reason, similarity.astype(np.float64), bound)


def _mark_earlier(
    table: DocumentTable,
    reason: str,
    earlier: Index,
    found: Numbers,
    similarity: NDArray[np.float32],
    bound: float,
) -> None:
    """Drop what an earlier crawl kept already; the cluster is named after the earlier document."""
    dropped = (found != NONE) & table.kept
    numbers = np.flatnonzero(dropped)
    for number, name in zip(numbers.tolist(), earlier.ids(found[numbers]), strict=True):
        table.earlier[number] = name
    table.similarity[dropped] = similarity[dropped]
    table.drop(dropped, reason, similarity.astype(np.float64), bound)


def shingle_sets(work: Work, table: DocumentTable, numbers: Numbers) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """(number, sorted distinct shingle hashes) of some documents of this crawl, read from their shards again."""
    parts = list(table.by_shard(numbers))
    jobs = [(str(table.shards[shard].text), rows) for shard, rows in parts]
    results = in_order(work.ctx, work.executor, passes.shingle_sets_of, jobs, "comparing candidates")
    for (shard, rows), sets in zip(parts, results, strict=True):
        yield from zip((table.starts[shard] + rows).tolist(), sets, strict=True)


class ShardParagraphs(NamedTuple):
    """What a worker needs to take repeated paragraphs out of one shard."""

    first: int
    """Number of the shard's first document."""
    repeats: Repeated
    min_characters: int


def drop_paragraphs(
    work: Work, table: DocumentTable, params: Duplicates, scratch: Path
) -> list[ShardParagraphs | None] | None:
    """Find paragraphs of too many kept documents; documents that are nothing else are dropped. Returns, per shard, what
    is to be removed when it is written; None: nothing."""
    if params.max_paragraph_documents is None:
        return None
    least = params.min_paragraph_characters
    version = code_version(passes.PARAGRAPH_CODE, ())
    units = work.over("paragraphs", table.shards, version, (least,), least)
    files = [(unit / passes.PARAGRAPH_DOCUMENTS, unit / passes.PARAGRAPH_HASHES) for unit in units]
    firsts = table.starts[:-1].tolist()
    ranks = table.winner_rank()
    found = repeated(files, firsts, ranks, table.kept, params.max_paragraph_documents, scratch, MEMORY_BYTES)
    plans: list[ShardParagraphs | None] = []
    for (_, hashes), first in zip(files, firsts, strict=True):
        inside = np.isin(found.hashes, np.load(hashes, mmap_mode="r"))
        own = Repeated(found.hashes[inside], found.owners[inside])
        plans.append(ShardParagraphs(first, own, least) if inside.any() else None)
    jobs = [(str(shard.text), plan) for shard, plan in zip(table.shards, plans, strict=True)]
    for number, sizes in enumerate(in_order(work.ctx, work.executor, passes.trimmed_bytes, jobs, "trimming")):
        if sizes is not None:
            table.trimmed[table.span(number)] = sizes
    # A document of which nothing is left to learn from: fewer bytes than the shortest paragraph worth removing.
    left = table.bytes.astype(np.int64) - table.trimmed
    empty = (table.trimmed > 0) & (left < least)
    share = table.trimmed / np.maximum(table.bytes, 1)
    table.drop(empty, PARAGRAPHS, share, 1.0)
    table.trimmed[~table.kept] = 0
    return plans


def write_index(folder: Path, table: DocumentTable, signed: list[Path]) -> None:
    """A part of an index with the documents kept in this crawl."""
    numbers = np.flatnonzero(table.kept)
    names = table.ids(numbers)
    keys = np.concatenate([np.load(unit / passes.KEYS) for unit in signed])

    def blocks() -> Iterator[NDArray[np.uint32]]:
        for shard, rows in table.by_shard(numbers):
            yield np.load(signed[shard] / passes.SIGNATURES, mmap_mode="r")[rows]

    save_index(folder, [names[number] for number in numbers.tolist()], keys[numbers], blocks())
