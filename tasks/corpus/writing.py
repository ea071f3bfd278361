"""Writing what is kept and what is not: documents/NNNNN.parquet and rejected/NNNNN.parquet.

A file holds the documents whose id hashes fall into one range, sorted by id: the same files come out whatever the
shards were. Two passes do it in bounded memory: every shard is split by range, then every range is joined and sorted.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks._context import StageContext
from tasks._executor import in_order
from tasks.corpus.deduplication import ShardParagraphs
from tasks.corpus.documents import NONE, DocumentTable, Numbers
from tasks.corpus.passes import without_paragraphs
from tasks.corpus.reading import row_groups
from tasks.corpus.records import Document

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.parquet as pq

FILE_BYTES = 48 << 20
"""Text of one output file; a worker holds it a few times over."""
FILE_REJECTS = 100_000
SAMPLE_CHARACTERS = 200
SHOWN_CHARACTERS = 300


class ShardVerdicts(NamedTuple):
    """What is decided about the documents of one shard; arrays have one entry per document."""

    shard: str
    repeats: NDArray[np.int32]
    """0: dropped."""
    copy: NDArray[np.uint32]
    file: NDArray[np.int32]
    """Output file, of the documents or of the rejects."""
    reason: list[str | None]
    value: NDArray[np.float64]
    threshold: NDArray[np.float64]
    cluster_id: list[str | None]
    shown: Numbers
    """Documents whose beginning the report wants."""
    paragraphs: ShardParagraphs | None
    """Repeated paragraphs to leave out."""


class SplitShard(NamedTuple):
    """Where the parts of one shard lie, and the beginnings of the documents the report shows."""

    kept: dict[int, list[int]]
    """Output file -> its row groups in the shard's own file."""
    rejected: dict[int, list[int]]
    shown: dict[int, str]


def write_corpus(
    ctx: StageContext,
    executor: Executor,
    table: DocumentTable,
    shown: Numbers,
    paragraphs: Sequence[ShardParagraphs | None] | None,
    scratch: Path,
) -> dict[int, str]:
    """Write both folders; returns the beginnings of the documents `shown` by number."""
    for name in ("kept", "rejected"):
        (scratch / name).mkdir(parents=True)
    kept, total = table.kept, int(table.bytes[table.kept].astype(np.int64).sum())
    files = max(1, -(-total // FILE_BYTES))
    reject_files = max(1, -(-int((~kept).sum()) // FILE_REJECTS))
    verdicts = _verdicts(table, files, reject_files, shown, paragraphs)
    splits: list[SplitShard] = []
    texts: dict[int, str] = {}
    with ctx.progress("corpus: sorting", len(table.shards), "shards") as bar:
        jobs = ((str(scratch), number, own) for number, own in enumerate(verdicts))
        for number, split in enumerate(in_order(ctx, executor, split_shard, jobs, "sorting documents")):
            splits.append(split)
            texts.update({int(table.starts[number]) + row: text for row, text in split.shown.items()})
            bar.update(1)
    files_to_join = []
    for name, count in (("kept", files), ("rejected", reject_files)):
        folder = ctx.out / ("documents" if name == "kept" else name)
        folder.mkdir()
        for file in range(count):
            parts = [
                (shard, getattr(split, name)[file])
                for shard, split in enumerate(splits)
                if file in getattr(split, name)
            ]
            files_to_join.append((str(scratch / name), parts, str(folder / f"{file:05d}.parquet")))
    for _ in in_order(ctx, executor, join_file, files_to_join, "writing documents"):
        pass
    return texts


def _verdicts(
    table: DocumentTable,
    files: int,
    reject_files: int,
    shown: Numbers,
    paragraphs: Sequence[ShardParagraphs | None] | None,
) -> Iterator[ShardVerdicts]:
    kept = table.kept
    # The high bits of the hash choose the file: every range holds about as many documents.
    spread = (table.id_high >> np.uint64(32)).astype(np.int64)
    file = np.where(kept, spread * files >> 32, spread * reject_files >> 32).astype(np.int32)
    names = table.ids(np.unique(table.cluster[table.cluster != NONE]))
    for number, shard in enumerate(table.shards):
        span = table.span(number)
        inside = (shown >= span.start) & (shown < span.stop)
        yield ShardVerdicts(
            str(shard.text),
            np.where(kept[span], table.repeats[span], 0).astype(np.int32),
            table.copy[span],
            file[span],
            [None if code == 0 else table.reasons[code] for code in table.reason[span].tolist()],
            table.value[span],
            table.threshold[span],
            [
                table.earlier.get(document, names.get(winner))
                for document, winner in enumerate(table.cluster[span].tolist(), start=span.start)
            ],
            shown[inside] - span.start,
            paragraphs[number] if paragraphs else None,
        )


def split_shard(scratch: str, number: int, verdicts: ShardVerdicts) -> SplitShard:
    """Split one shard by output file into scratch/kept/NNNNN.parquet and scratch/rejected/NNNNN.parquet; memory holds
    one row group of the shard. Runs in a worker."""
    import polars as pl

    name, shown, start = f"{number:05d}.parquet", dict[int, str](), 0
    with PartWriter(Path(scratch) / "kept" / name) as kept, PartWriter(Path(scratch) / "rejected" / name) as rejected:
        for group in row_groups(Path(verdicts.shard), list(Document._fields)):
            span = slice(start, start + group.height)
            own = verdicts.shown[(verdicts.shown >= start) & (verdicts.shown < span.stop)]
            for row, text in zip(own.tolist(), group["text"].gather(own - start).to_list(), strict=True):
                shown[row] = text[:SHOWN_CHARACTERS]
            group = _with_verdicts(group, verdicts, span)
            kept.add(_kept, group.filter(pl.col("repeats") > 0))
            rejected.add(_rejected, group.filter(pl.col("repeats") == 0))
            start = span.stop
    return SplitShard(kept.places, rejected.places, shown)


class PartWriter:
    """A Parquet file of the parts of one shard; every row group belongs to one output file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None
        self.groups = 0
        self.places: dict[int, list[int]] = {}
        """Output file -> its row groups."""

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def add(self, shape: Callable[["pl.DataFrame"], "pl.DataFrame"], documents: "pl.DataFrame") -> None:
        """Write documents, in the columns of `shape`, by their column `file`."""
        import pyarrow.parquet as pq

        for (file,), part in sorted(documents.partition_by("file", as_dict=True).items()):
            arrow = shape(part).to_arrow()
            if self.writer is None:
                self.writer = pq.ParquetWriter(self.path, arrow.schema, compression="zstd", compression_level=1)
            self.writer.write_table(arrow, row_group_size=max(1, arrow.num_rows))
            self.places.setdefault(int(file), []).append(self.groups)
            self.groups += 1


def _with_verdicts(group: "pl.DataFrame", verdicts: ShardVerdicts, span: slice) -> "pl.DataFrame":
    import polars as pl

    group = group.with_columns(
        pl.Series("repeats", verdicts.repeats[span]),
        pl.Series("copy", verdicts.copy[span]),
        pl.Series("file", verdicts.file[span]),
        pl.Series("reason", verdicts.reason[span], pl.String),
        pl.Series("value", verdicts.value[span]).fill_nan(None),
        pl.Series("threshold", verdicts.threshold[span]).fill_nan(None),
        pl.Series("cluster_id", verdicts.cluster_id[span], pl.String),
    )
    numbered = pl.when(pl.col("copy") > 1).then(pl.format("{}#{}", "id", "copy")).otherwise(pl.col("id"))
    group = group.with_columns(numbered.alias("id"))
    if verdicts.paragraphs is None:
        return group
    return group.with_columns(without_paragraphs(group["text"], span.start, verdicts.paragraphs))


def _kept(part: "pl.DataFrame") -> "pl.DataFrame":
    return part.select(*Document._fields, "cluster_id", "repeats")


def _rejected(part: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    sample = pl.col("text").str.slice(0, SAMPLE_CHARACTERS).alias("sample")
    return part.select("id", "source", "domain", "reason", "value", "threshold", "cluster_id", sample)


def join_file(folder: str, parts: list[tuple[int, list[int]]], target: str) -> None:
    """Join the row groups (shard, groups) of one output file, sorted by id. Runs in a worker."""
    import polars as pl
    import pyarrow.parquet as pq

    tables = []
    for shard, groups in parts:
        with pq.ParquetFile(Path(folder) / f"{shard:05d}.parquet") as file:
            tables.append(pl.DataFrame(pl.from_arrow(file.read_row_groups(groups, use_threads=False))))
    whole = pl.concat(tables) if tables else _empty(Path(folder).name)
    whole.sort("id").write_parquet(target, compression="zstd", statistics=False)


def _empty(kind: str) -> "pl.DataFrame":
    import polars as pl

    text = dict.fromkeys(Document._fields, pl.String)
    if kind == "kept":
        return pl.DataFrame(schema={**text, "cluster_id": pl.String, "repeats": pl.Int32})
    columns = {"id": pl.String, "source": pl.String, "domain": pl.String, "reason": pl.String}
    return pl.DataFrame(
        schema={**columns, "value": pl.Float64, "threshold": pl.Float64, "cluster_id": pl.String, "sample": pl.String}
    )
