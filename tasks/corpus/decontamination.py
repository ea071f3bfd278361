"""Documents that hold text of a benchmark: found for all of data/benchmarks, and left out."""

from pathlib import Path
from typing import Any

import numpy as np

from tasks._units import code_version, digest_of
from tasks.benchmarks.items import find_benchmarks, read_items
from tasks.benchmarks.overlap import Hits, NgramIndex, enough, merge, shared_by_document
from tasks.benchmarks.overlap_report import report_of
from tasks.corpus import passes
from tasks.corpus.documents import DocumentTable
from tasks.corpus.gathering import Work
from tasks.corpus.params import Decontamination
from tasks.corpus.reading import row_groups

CONTAMINATED = "contaminated"


def drop_contaminated(work: Work, table: DocumentTable, params: Decontamination | None) -> dict[str, Any]:
    """Drop the kept documents that share enough with a benchmark item; returns the report per benchmark, which also
    counts documents that other rules had dropped before."""
    folder = work.ctx.input("data/benchmarks")
    files = find_benchmarks(folder)
    if params is None or not files:
        return {}
    version = code_version(passes.OVERLAP_CODE, ())
    content = [(path.relative_to(folder).as_posix(), digest_of(path)) for path in files]
    index = work.one("benchmarks", build_index, (str(folder),), version, content)
    units = work.over("overlap", table.shards, version, (str(index),), index.name)
    known = NgramIndex.load(index)
    hits = enough(known, _together(table, units), params.min_shared_ngrams)
    shared = shared_by_document(hits, len(table))
    table.drop(shared > 0, CONTAMINATED, shared.astype(np.float64), float(params.min_shared_ngrams))
    ids = table.ids(np.unique(hits.document).astype(np.int64))
    return report_of(known, hits, lambda number: (ids[number], _text(table, number)))


def build_index(out: Path, folder: str) -> None:
    """The index of all items below `folder`, in `out`."""
    NgramIndex.build(read_items(Path(folder))).save(out)


def _together(table: DocumentTable, units: list[Path]) -> Hits:
    import polars as pl

    parts = []
    for number, unit in enumerate(units):
        found = pl.read_parquet(unit / passes.HITS)
        columns = (found[name].to_numpy() for name in Hits._fields)
        parts.append((Hits(*columns), int(table.starts[number])))
    return merge(parts)


def _text(table: DocumentTable, number: int) -> str:
    """The text of one document; for the few that the report quotes."""
    ((shard, rows),) = table.by_shard(np.array([number]))
    place, start = int(rows[0]), 0
    for group in row_groups(table.shards[shard].text, ["text"]):
        if place < start + group.height:
            return str(group["text"][place - start])
        start += group.height
    raise AssertionError(f"document {number} is not in its shard")
