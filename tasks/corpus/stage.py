"""corpus: turn text sources into clean, distinct documents.

Reads    requirements.lock and the installed packages' source text (python_docs), data/text/ (files)
Writes   artifacts/corpus/documents/NNNNN.parquet (id text source domain title kind; sorted by id)
         artifacts/corpus/rejected/NNNNN.parquet (id source domain reason value threshold cluster_id sample)
         artifacts/corpus/report.json, report.md
Promise  documents in = kept + dropped by reason, per domain; the result does not depend on workers or file order
Limits   all texts are held in memory, at the peak with their statistics and shingles; near duplicates are estimated,
         so a pair at the threshold may be judged either way
"""

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from tasks._context import StageContext
from tasks._errors import StageError
from tasks._params import StageParams
from tasks.corpus.duplicates import duplicate_fractions, exact_clusters, near_clusters, shingle, signatures
from tasks.corpus.files import SUFFIXES
from tasks.corpus.quality import STATISTICS, Thresholds, add_statistics, judge
from tasks.corpus.records import BadRecord, Document, Harvest
from tasks.corpus.report import build_report, render_report
from tasks.corpus.sources import PythonDocs, Source, collect, flatten

if TYPE_CHECKING:
    import polars as pl

DOCUMENTS_PER_FILE = 50_000
SAMPLE_CHARACTERS = 200
BAD_SAMPLES = 20
SOURCE_CAP, KEPT_CAP = "source_max_bytes", "kept_max_bytes_or_documents"


class Params(StageParams):
    """Section `corpus` of params.yaml."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = (PythonDocs(kind="python_docs"),)
    """Where text comes from."""
    max_record_bytes: Annotated[int, Field(gt=0)] = 64 * 2**20
    """Largest single record of a file source; a longer one counts as bad."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of unusable records per source above which the stage fails."""
    quality: Thresholds = Thresholds()
    """Rules for every domain."""
    quality_by_domain: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Thresholds that differ in one domain: {domain: {threshold: value}}."""
    min_jaccard: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Estimated shingle similarity from which two documents count as duplicates."""
    max_dropped_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The stage fails when rules and duplicates (not the caps below) drop more than this share of the documents."""
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """UTF-8 bytes of kept text; documents are taken in hash order of their ids."""
    max_documents: Annotated[int, Field(gt=0)] | None = None
    """Number of kept documents, taken in hash order of their ids."""

    @model_validator(mode="after")
    def _domain_thresholds_are_valid(self) -> "Params":
        self.thresholds_by_domain()
        return self

    def thresholds_by_domain(self) -> dict[str, Thresholds]:
        """Complete thresholds of each domain that has its own; the others use `quality`."""
        base = self.quality.model_dump()
        return {
            domain: Thresholds.model_validate({**base, **own}) for domain, own in sorted(self.quality_by_domain.items())
        }


def run(ctx: StageContext) -> None:
    """Collect, judge, deduplicate, cap, write."""
    params = ctx.params
    assert isinstance(params, Params)
    harvests = collect(ctx, params.sources, params.max_record_bytes)
    _check_bad_records(harvests, params)
    documents, bad = flatten(harvests)
    if not documents:
        raise StageError(
            f"corpus: the {len(params.sources)} source(s) hold no document; allowed: at least one; "
            f"next: put {', '.join(SUFFIXES)} files into data/text or add a source of kind python_docs"
        )
    records = len(documents) + len(bad)
    frame = _frame(documents)
    del documents, harvests
    ctx.check_stop()
    frame = _mark_source_caps(frame, params)
    frame = _mark_quality(frame, params)
    ctx.check_stop()
    frame = _mark_duplicates(frame, params)
    _check_dropped(frame, params)
    frame = _mark_cap(frame, params)
    _write(ctx, frame)
    report = build_report(frame, records, len(bad), _samples(bad))
    render_report(ctx.out, report)
    total = report["total"]
    ctx.count(
        raw_bytes=total["bytes"],
        documents=total["documents"],
        documentation_sources=sum(source.kind == "python_docs" for source in params.sources),
    )
    ctx.measure("documents", total["kept"])
    ctx.measure("kept_bytes", total["kept_bytes"])
    ctx.measure("kept_share", total["kept_bytes"] / max(1, total["bytes"]))
    ctx.report(**total, bad_records=len(bad))
    ctx.note(f"{report['total']['kept']:,} of {frame.height:,} documents kept, {report['total']['kept_bytes']:,} bytes")


def _check_bad_records(harvests: list[tuple[int, Harvest]], params: Params) -> None:
    for number, source in enumerate(params.sources):
        own = [harvest for n, harvest in harvests if n == number]
        bad = [record for harvest in own for record in harvest.bad]
        records = len(bad) + sum(len(harvest.documents) for harvest in own)
        if records and len(bad) > params.max_bad_fraction * records:
            where = f"glob {source.glob!r}" if source.kind == "files" else source.kind
            samples = "\n  ".join(f"{b.file}:{b.line}: {b.reason}" for b in bad[:BAD_SAMPLES])
            raise StageError(
                f"corpus: {len(bad)} of {records} records of source {number} ({where}) are unusable; allowed: "
                f"corpus.max_bad_fraction={params.max_bad_fraction}; next: mend them or raise the limit. Such as:\n"
                f"  {samples}"
            )


def _samples(bad: list[BadRecord]) -> list[dict[str, Any]]:
    return [record._asdict() for record in sorted(bad)[:BAD_SAMPLES]]


def _frame(documents: list[tuple[int, Document]]) -> "pl.DataFrame":
    """One row per document, sorted by id; equal ids get #2, #3, ... in the order of their texts."""
    import polars as pl

    columns = {name: [document[i] for _, document in documents] for i, name in enumerate(Document._fields)}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(Document._fields, pl.String))
    frame = frame.with_columns(pl.Series("source_number", [number for number, _ in documents], pl.Int64))
    frame = frame.sort("id", "source_number", "text")
    copy = pl.int_range(1, pl.len() + 1).over("id")
    unique = pl.when(copy == 1).then(pl.col("id")).otherwise(pl.format("{}#{}", pl.col("id"), copy))
    frame = frame.with_columns(unique.alias("id")).sort("id")
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in frame["id"]]
    return frame.with_columns(
        pl.col("text").str.len_bytes().cast(pl.Int64).alias("bytes"),
        pl.Series("hash", hashes, pl.String),
        pl.lit(None, pl.String).alias("reason"),
        pl.lit(None, pl.Float64).alias("value"),
        pl.lit(None, pl.Float64).alias("threshold"),
        pl.lit(None, pl.String).alias("cluster_id"),
    )


def _mark_source_caps(frame: "pl.DataFrame", params: Params) -> "pl.DataFrame":
    import polars as pl

    for number, source in enumerate(params.sources):
        if source.kind == "python_docs" and source.max_bytes is not None:
            frame = _mark_beyond(frame, pl.col("source_number") == number, SOURCE_CAP, source.max_bytes, None)
    return frame


def _mark_beyond(
    frame: "pl.DataFrame", chosen: "pl.Expr", reason: str, max_bytes: int | None, max_documents: int | None
) -> "pl.DataFrame":
    """Mark the still kept, `chosen` documents that lie beyond a limit when taken in hash order."""
    import polars as pl

    limit = pl.lit(False)
    taken = frame.filter(chosen & pl.col("reason").is_null()).sort("hash").select("id", "bytes")
    taken = taken.with_columns(pl.col("bytes").cum_sum().alias("sum"), pl.int_range(1, pl.len() + 1).alias("place"))
    if max_bytes is not None:
        limit = limit | (pl.col("sum") > max_bytes)
    if max_documents is not None:
        limit = limit | (pl.col("place") > max_documents)
    beyond = pl.col("id").is_in(taken.filter(limit)["id"].implode())
    bound = float(max_bytes if max_bytes is not None else max_documents or 0)
    return frame.with_columns(
        pl.when(beyond).then(pl.lit(reason)).otherwise(pl.col("reason")).alias("reason"),
        pl.when(beyond).then(pl.col("bytes").cast(pl.Float64)).otherwise(pl.col("value")).alias("value"),
        pl.when(beyond).then(pl.lit(bound)).otherwise(pl.col("threshold")).alias("threshold"),
    )


def _mark_quality(frame: "pl.DataFrame", params: Params) -> "pl.DataFrame":
    import polars as pl

    statistics = add_statistics(frame.select("text", "domain"))
    repeated = pl.Series("duplicate_shingle_fraction", duplicate_fractions(shingle(frame["text"])))
    verdict = judge(
        statistics.with_columns(repeated).select("domain", *STATISTICS), params.quality, params.thresholds_by_domain()
    )
    free = frame["reason"].is_null()
    return frame.with_columns(
        pl.when(free).then(verdict[name]).otherwise(frame[name]).alias(name) for name in verdict.columns
    )


def _mark_duplicates(frame: "pl.DataFrame", params: Params) -> "pl.DataFrame":
    """Exact copies first, then near copies among what is left; compared without the heading of a docstring."""
    import polars as pl

    without_heading = pl.col("text").str.replace(r"\A[^\n]*\n\n", "")
    body = pl.when(pl.col("kind") == "file").then(pl.col("text")).otherwise(without_heading)
    for reason in ("exact_duplicate", "near_duplicate"):
        left = frame.filter(pl.col("reason").is_null()).select("id", body.alias("body"))
        similarity = np.ones(left.height)
        if reason == "exact_duplicate":
            first, bound = exact_clusters(left["body"]), 1.0
        else:
            signature = signatures(shingle(left["body"]))
            first, bound = near_clusters(signature, params.min_jaccard), params.min_jaccard
            similarity = (signature == signature[first]).mean(axis=1)  # to the kept one; a chain may lie between
        clusters = left.select("id", left["id"].gather(first).alias("_cluster"), pl.Series("_similarity", similarity))
        frame = frame.join(clusters.filter(pl.len().over("_cluster") > 1), on="id", how="left", maintain_order="left")
        dropped = pl.col("_cluster").is_not_null() & (pl.col("_cluster") != pl.col("id"))
        frame = frame.with_columns(
            pl.coalesce("_cluster", "cluster_id").alias("cluster_id"),
            pl.when(dropped).then(pl.lit(reason)).otherwise(pl.col("reason")).alias("reason"),
            pl.when(dropped).then(pl.col("_similarity")).otherwise(pl.col("value")).alias("value"),
            pl.when(dropped).then(pl.lit(bound)).otherwise(pl.col("threshold")).alias("threshold"),
        ).drop("_cluster", "_similarity")
    return frame


def _check_dropped(frame: "pl.DataFrame", params: Params) -> None:
    judged = frame.filter(frame["reason"].is_null() | (frame["reason"] != SOURCE_CAP))
    dropped = judged.filter(judged["reason"].is_not_null())
    kept = judged.height - dropped.height
    if kept and dropped.height <= params.max_dropped_fraction * judged.height:
        return
    counts = sorted(dropped["reason"].value_counts().rows(), key=lambda row: (-row[1], row[0]))
    rule = counts[0][0]
    remedy = (
        f"quality.{rule}, for one domain corpus.quality_by_domain" if rule[:4] in ("min_", "max_") else "min_jaccard"
    )
    raise StageError(
        f"corpus: {dropped.height} of {judged.height} documents are dropped, {kept} kept; allowed: at least one kept, "
        f"corpus.max_dropped_fraction={params.max_dropped_fraction}; reasons: "
        f"{', '.join(f'{reason} {count}' for reason, count in counts)}; next: loosen corpus.{remedy}, or add text"
    )


def _mark_cap(frame: "pl.DataFrame", params: Params) -> "pl.DataFrame":
    import polars as pl

    if params.max_bytes is None and params.max_documents is None:
        return frame
    frame = _mark_beyond(frame, pl.lit(True), KEPT_CAP, params.max_bytes, params.max_documents)
    if frame["reason"].is_null().any():
        return frame
    raise StageError(
        f"corpus: no document fits max_bytes={params.max_bytes}, max_documents={params.max_documents}; allowed: room "
        f"for at least one; next: raise corpus.max_bytes to {max(frame['bytes'].to_list())}"
    )


def _write(ctx: StageContext, frame: "pl.DataFrame") -> None:
    import polars as pl

    kept = frame.filter(pl.col("reason").is_null()).select(*Document._fields)
    sample = pl.col("text").str.slice(0, SAMPLE_CHARACTERS).alias("sample")
    rejected = frame.filter(pl.col("reason").is_not_null()).select(
        "id", "source", "domain", "reason", "value", "threshold", "cluster_id", sample
    )
    for name, table in (("documents", kept), ("rejected", rejected)):
        folder = ctx.out / name
        folder.mkdir()
        for number, start in enumerate(range(0, max(table.height, 1), DOCUMENTS_PER_FILE)):
            part = table.slice(start, DOCUMENTS_PER_FILE)
            part.write_parquet(folder / f"{number:05d}.parquet", compression="zstd")
