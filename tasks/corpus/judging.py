"""Thresholds, after the statistics: which documents the rules, the block list and the classifier reject."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks._executor import in_order
from tasks._units import code_version
from tasks.corpus import passes
from tasks.corpus.documents import DocumentTable
from tasks.corpus.gathering import Work
from tasks.corpus.params import Params
from tasks.corpus.quality import classifier
from tasks.corpus.quality.blocklist import Blocklist, Entries, blocked, load_entries
from tasks.corpus.quality.examples import read_examples
from tasks.corpus.quality.guard import check_guard
from tasks.corpus.quality.rules import RULE_NAMES, RULES, Resolved, judge, resolve
from tasks.corpus.report.histograms import Histograms

BELOW_SCORE = "classifier"


class ShardJudgement(NamedTuple):
    """What thresholds say about one shard; small, but for one reason, value and bound per document."""

    blocked: list[str | None]
    reason: list[str | None]
    value: NDArray[np.float64]
    threshold: NDArray[np.float64]
    broken: Counter[tuple[str, str]]
    documents: Counter[str]
    histograms: Histograms
    languages: dict[str, Counter[str]]


def drop_by_rules(work: Work, table: DocumentTable, params: Params) -> dict[str, Any]:
    """Block list and rules; StageError where the guard stops. Returns the report's rules, histograms and languages."""
    resolved = resolve(params.quality, params.quality_by_domain)
    entries = load_entries(params.blocklist, work.ctx.root / "data/text")
    jobs = [(str(shard.measures / passes.MEASURES), resolved, params.blocklist, entries) for shard in table.shards]
    broken: Counter[tuple[str, str]] = Counter()
    documents: Counter[str] = Counter()
    histograms, languages = Histograms(), {domain: Counter[str]() for domain in table.domains}
    for number, found in enumerate(in_order(work.ctx, work.executor, judge_shard, jobs, "applying thresholds")):
        _mark(table, number, found)
        broken.update(found.broken)
        documents.update(found.documents)
        histograms.merge(found.histograms)
        for domain, counted in found.languages.items():
            languages[domain].update(counted)
    check_guard(broken, documents, resolved, params.guard)
    return {
        "rules": _rules(resolved, broken, table.domains),
        "histograms": histograms.as_dict(),
        "languages": {domain: dict(sorted(counted.items())) for domain, counted in languages.items()},
    }


def judge_shard(measures: str, resolved: Resolved, blocklist: Blocklist, entries: Entries) -> ShardJudgement:
    """Judge one shard by its statistics. Runs in a worker."""
    import polars as pl

    frame = pl.read_parquet(measures)
    if blocklist.domains or blocklist.words or blocklist.file:
        stopped = blocked(frame["url"], blocklist, entries).to_list()
    else:
        stopped = [None] * frame.height
    verdict = judge(frame, resolved)
    histograms = Histograms()
    wanted = sorted({rule.statistic for rule in RULES} & set(frame.columns))
    histograms.add(frame.select("domain", *wanted))
    spoken = frame.group_by("domain", "language").len().rows()
    languages: dict[str, Counter[str]] = {}
    for domain, language, count in spoken:
        languages.setdefault(domain, Counter())[language or "unknown"] += count
    return ShardJudgement(
        stopped,
        verdict.frame["reason"].to_list(),
        verdict.frame["value"].fill_null(np.nan).to_numpy(),
        verdict.frame["threshold"].fill_null(np.nan).to_numpy(),
        verdict.broken,
        verdict.documents,
        histograms,
        languages,
    )


def _mark(table: DocumentTable, number: int, found: ShardJudgement) -> None:
    span = table.span(number)
    free = table.reason[span] == 0
    for reasons, has_value in ((found.blocked, False), (found.reason, True)):
        names = {name for name in reasons if name is not None}
        codes: dict[str | None, int] = {None: 0, **{name: table.code(name) for name in sorted(names, key=_place)}}
        own = np.array([codes[name] for name in reasons], np.uint16)
        new = free & (own > 0)
        table.reason[span][new] = own[new]
        if has_value:
            table.value[span][new] = found.value[new]
            table.threshold[span][new] = found.threshold[new]
        free &= ~new


def _place(reason: str) -> tuple[int, str]:
    return (RULE_NAMES.index(reason) if reason in RULE_NAMES else -1, reason)


def _rules(resolved: Resolved, broken: Counter[tuple[str, str]], domains: list[str]) -> dict[str, Any]:
    """Every rule that is on somewhere: its bounds, and how many documents break it (whatever else they break)."""
    found: dict[str, Any] = {}
    statistics = {"languages": ("language", True), **{rule.name: (rule.statistic, rule.is_minimum) for rule in RULES}}
    for name, (statistic, is_minimum) in statistics.items():
        base = getattr(resolved.base, name)
        by_domain = {
            domain: getattr(resolved(domain), name) for domain in domains if getattr(resolved(domain), name) != base
        }
        if base is None and not by_domain:
            continue
        found[name] = {
            "statistic": statistic,
            "is_minimum": is_minimum,
            "threshold": base,
            "by_domain": by_domain,
            "broken": {domain: broken[domain, name] for domain in domains if broken[domain, name]},
        }
    return found


def drop_by_score(work: Work, table: DocumentTable, params: Params) -> dict[str, Any] | None:
    """Train the classifier on the examples, score every document, cut. Returns the report's part."""
    if params.classifier is None:
        return None
    chosen = params.classifier
    folder = _trained(work, chosen)
    model = classifier.load(folder)
    version = code_version(passes.SCORE_CODE, passes.SCORE_LIBRARIES)
    units = work.over("score", table.shards, version, (str(folder),), model.digest())
    scores = np.concatenate([np.load(unit / passes.SCORES) for unit in units])
    kept = np.flatnonzero(table.kept)
    cut = classifier.cut(scores[kept], table.domain[kept], table.domains, table.order_key(kept), chosen)
    dropped = np.zeros(len(table), bool)
    dropped[kept[~cut.keep]] = True
    bounds = np.array([cut.thresholds.get(domain, np.nan) for domain in table.domains])
    table.drop(dropped, BELOW_SCORE, scores.astype(np.float64), bounds[table.domain])
    return {**model.figures, "thresholds": cut.thresholds, "dropped": int(dropped.sum())}


def _trained(work: Work, chosen: classifier.Classifier) -> Path:
    """The folder with the model of these examples, trained now or earlier."""
    root = work.ctx.input("data/quality")
    examples = [read_examples(root, glob) for glob in (chosen.good, chosen.bad)]
    version = code_version(passes.SCORE_CODE, passes.SCORE_LIBRARIES)
    options = chosen.model_dump(include={"min_examples", "min_auc", "seed"})
    return work.one("train", train, (*examples, options), version, examples, options)


def train(out: Path, good: list[str], bad: list[str], options: dict[str, Any]) -> None:
    """A classifier of these examples in `out`."""
    classifier.save(classifier.train(good, bad, **options), out)
