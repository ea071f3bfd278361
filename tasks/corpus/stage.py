"""corpus: turn text sources into clean, distinct documents.

Reads    requirements.lock and the installed packages' source text (python_docs), data/text/ (files), remote files (hub,
         url) as pinned in data/pins/, data/benchmarks/ (decontamination), data/quality/ (classifier), data/earlier/
Writes   artifacts/corpus/documents/NNNNN.parquet (the columns of Document, cluster_id, repeats; sorted by id)
         artifacts/corpus/rejected/NNNNN.parquet (id source domain reason value threshold cluster_id sample)
         artifacts/corpus/report.json, report.md, report.html; index/ with duplicates.write_index
Promise  documents in = kept + dropped by reason, per domain and shard; the result depends on the texts and parameters
         alone: not on files' order or size, workers, cluster or interruptions; thresholds change without reading again
Limits   eighty bytes per document are held in memory, texts a few megabytes at a time; who is near to whom is only
         asked of pairs that share a band of their signatures (a pair of Jaccard 0.8 is missed 8 % of the time)
"""

from typing import Any

import numpy as np

from tasks._context import StageContext
from tasks._errors import StageError
from tasks._executor import open_executor
from tasks._files import remove
from tasks.corpus.decontamination import drop_contaminated
from tasks.corpus.deduplication import drop_duplicates, drop_paragraphs, open_earlier, sign, write_index
from tasks.corpus.documents import DocumentTable, Mask, read_table
from tasks.corpus.gathering import Work, gather
from tasks.corpus.judging import drop_by_rules, drop_by_score
from tasks.corpus.mixing import mix
from tasks.corpus.params import Params
from tasks.corpus.quality.guard import check_guard
from tasks.corpus.quality.rules import RULE_NAMES, Quality, resolve
from tasks.corpus.report import assembling
from tasks.corpus.report.report import render_report
from tasks.corpus.sources.portions import PythonDocs
from tasks.corpus.writing import write_corpus

__all__ = ["Params", "run"]
SOURCE_CAP, KEPT_CAP, MIXING = "source_max_bytes", "kept_max_bytes_or_documents", "mixing"
NOT_JUDGED = (SOURCE_CAP, KEPT_CAP, MIXING)
"""Reasons that say nothing about a document's quality."""


def run(ctx: StageContext) -> None:
    """Gather, judge, deduplicate, decontaminate, mix, write, report."""
    params = ctx.params
    assert isinstance(params, Params)
    scratch = ctx.resume / "scratch"
    remove(scratch)
    scratch.mkdir(parents=True)
    with open_executor(ctx) as executor:
        work = Work(ctx, executor)
        shards = gather(work, params)
        table = read_table(shards)
        _cap_sources(table, params)
        judged = drop_by_rules(work, table, params)
        classifier = drop_by_score(work, table, params)
        earlier = open_earlier(ctx, params.duplicates)
        drop_duplicates(work, table, params.duplicates, earlier, scratch)
        benchmarks = drop_contaminated(work, table, params.decontamination)
        paragraphs = drop_paragraphs(work, table, params.duplicates, scratch)
        _check_domains(table, params)
        _check_dropped(table, params)
        mixing = _mix(table, params)
        _cap_kept(table, params)
        chosen = assembling.choose_samples(table)
        shown = np.unique(np.concatenate(list(chosen.values())).astype(np.int64))
        texts = write_corpus(ctx, executor, table, shown, paragraphs, scratch)
        if params.duplicates.write_index:
            write_index(ctx.out / "index", table, sign(work, table))
        work.finish()
    report = {
        **assembling.counts(table, shards),
        **judged,
        "clusters": assembling.clusters(table, texts),
        "samples": assembling.samples(table, chosen, texts),
        "benchmarks": benchmarks,
        "mixing": mixing,
        "classifier": classifier,
    }
    render_report(ctx.out, report)
    remove(scratch)
    _tell(ctx, report, params, work.new_bytes())


def _tell(ctx: StageContext, report: dict[str, Any], params: Params, new_bytes: float) -> None:
    total = report["total"]
    ctx.count(
        raw_bytes=total["bytes"],
        new_bytes=new_bytes,
        documents=total["documents"],
        documentation_sources=sum(isinstance(source, PythonDocs) for source in params.sources),
    )
    ctx.measure("documents", total["kept"])
    ctx.measure("kept_bytes", total["kept_bytes"])
    ctx.measure("kept_share", total["kept_bytes"] / max(1, total["bytes"]))
    ctx.report(**total, bad_records=report["unreadable"])
    ctx.note(f"{total['kept']:,} of {total['documents']:,} documents kept, {total['kept_bytes']:,} bytes")


def _cap_sources(table: DocumentTable, params: Params) -> None:
    for number, source in enumerate(params.sources):
        if isinstance(source, PythonDocs) and source.max_bytes is not None:
            _drop_beyond(table, table.source == number, SOURCE_CAP, source.max_bytes, None)


def _cap_kept(table: DocumentTable, params: Params) -> None:
    if params.max_bytes is None and params.max_documents is None:
        return
    everything = np.ones(len(table), bool)
    smallest = int(table.bytes[table.kept].min())
    _drop_beyond(table, everything, KEPT_CAP, params.max_bytes, params.max_documents)
    if not table.kept.any():
        raise StageError(
            f"corpus: no document fits max_bytes={params.max_bytes}, max_documents={params.max_documents}; allowed: "
            f"room for at least one; next: raise corpus.max_bytes to {smallest}"
        )


def _drop_beyond(
    table: DocumentTable, chosen: Mask, reason: str, max_bytes: int | None, max_documents: int | None
) -> None:
    """Drop the still kept, `chosen` documents that lie beyond a limit when taken in hash order, copies counted."""
    order = table.hash_order()
    taken = order[(chosen & table.kept)[order]]
    beyond = np.zeros(len(taken), bool)
    if max_bytes is not None:
        beyond |= np.cumsum(table.bytes[taken].astype(np.int64) * table.repeats[taken]) > max_bytes
    if max_documents is not None:
        beyond |= np.arange(1, len(taken) + 1) > max_documents
    dropped = np.zeros(len(table), bool)
    dropped[taken[beyond]] = True
    bound = float(max_bytes if max_bytes is not None else max_documents or 0)
    table.drop(dropped, reason, table.bytes.astype(np.float64), bound)


def _mix(table: DocumentTable, params: Params) -> list[dict[str, Any]] | None:
    if params.mixing is None:
        return None
    kept = np.flatnonzero(table.kept)
    repeats, rows = mix(table.domain[kept], table.domains, table.bytes[kept], table.order_key(kept), params.mixing)
    table.repeats[kept] = repeats
    left_out = np.zeros(len(table), bool)
    left_out[kept[repeats == 0]] = True
    table.drop(left_out, MIXING)
    return rows


def _check_domains(table: DocumentTable, params: Params) -> None:
    """The guard once more, for what is no rule: duplicates, benchmarks, scores, blocked addresses."""
    pairs = np.stack([table.domain, table.reason], axis=1)[~table.kept]
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    broken = {
        (table.domains[domain], table.reasons[reason]): count
        for (domain, reason), count in zip(found.tolist(), counts.tolist(), strict=True)
        if table.reasons[reason] not in (*RULE_NAMES, *NOT_JUDGED)
    }
    sizes = np.bincount(table.domain, minlength=len(table.domains)).tolist()
    no_rules = resolve(Quality(recipes=()), {})
    check_guard(broken, dict(zip(table.domains, sizes, strict=True)), no_rules, params.guard)


def _check_dropped(table: DocumentTable, params: Params) -> None:
    codes = [code for code, name in enumerate(table.reasons) if name in NOT_JUDGED]
    judged = table.reason[~np.isin(table.reason, codes)]
    counts = np.bincount(judged, minlength=len(table.reasons))
    kept, dropped = int(counts[0]), int(counts[1:].sum())
    if kept and dropped <= params.max_dropped_fraction * len(judged):
        return
    reasons = sorted(((int(n), name) for n, name in zip(counts[1:], table.reasons[1:], strict=True) if n), reverse=True)
    raise StageError(
        f"corpus: {dropped} of {len(judged)} documents are dropped, {kept} kept; allowed: at least one kept, "
        f"corpus.max_dropped_fraction={params.max_dropped_fraction}; reasons: "
        f"{', '.join(f'{name} {count}' for count, name in reasons)}; next: loosen the first (artifacts are untouched), "
        f"or add text"
    )
