"""gate: may this model be exported? The run's acceptance thresholds, and no real loss against the champion.

Reads    artifacts/budget/acceptance.json, artifacts/evaluation/{scores,latency_and_stability}.json; the measured times
         of the stages before; the registered champion, if there is one
Writes   artifacts/gate/verdict.json
Promise  every check is listed with value, interval, threshold and outcome, in the log too; what was not measured fails;
         one failed check fails the stage, and the evaluation stays
Limits   a drop against the champion counts only when it exceeds both max_regression and what the two intervals explain;
         spread between training runs is not known here; the wall clock holds the stages before the gate, with the times
         known when the gate runs, and other times alone do not make it stale
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline_math.acceptance import METRICS, RUN, Check, Measurements, check, straddles
from tasks._acceptance import read_thresholds
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json
from tasks._params import StageParams
from tasks.stages import Stage

Scores = Mapping[str, Mapping[str, float]]
"""Metric -> {"value", "low", "high"} of one checkpoint."""


class Params(StageParams):
    """Which model is judged; what it must reach is `budget.acceptance`."""

    selected: Literal["pretrain", "midtrain", "sft", "rl"] = "rl"
    """The training stage whose checkpoint is judged, and exported when it passes."""
    max_regression: Annotated[float, Field(ge=0)] | None = 0.02
    """Largest loss against the champion, in the benchmark's own unit; None compares with no champion."""


def check_champion(params: Params, scores: Scores, champion: Scores) -> list[Check]:
    """One check per quality that both have: the loss must not exceed max_regression and the intervals together.

    With half-widths h of the two 95 % intervals, the difference of two independent estimates has the half-width
    sqrt(h1^2 + h2^2). A loss within that is what chance alone would show, a loss within max_regression is tolerated.
    """
    tolerated = params.max_regression or 0.0
    checks = []
    for metric in sorted(set(scores) & set(champion)):
        if metric not in METRICS or METRICS[metric].kind != "quality":
            continue
        own, other = scores[metric], champion[metric]
        worse = other["value"] - own["value"] if METRICS[metric].better == "higher" else own["value"] - other["value"]
        loss, chance = (
            round(number, 6)
            for number in (worse, math.hypot((own["high"] - own["low"]) / 2, (other["high"] - other["low"]) / 2))
        )
        allowed, low, high = max(tolerated, chance), loss - chance, loss + chance
        name = f"{metric} of {params.selected}: loss against the champion <= {allowed:g}"
        across = straddles(low, high, tolerated)
        checks.append(Check(metric, params.selected, name, loss, low, high, allowed, loss <= allowed, across))
    return checks


def champion_scores(champion: dict[str, Any], selected: str) -> dict[str, dict[str, float]]:
    """The champion's scores by benchmark. They are registered either for every stage or for the exported one alone;
    entries that are not scores with an interval are left out."""
    scores = champion.get("scores") or {}
    scores = scores.get(selected, scores)
    fields = ("value", "low", "high")
    return {
        n: s
        for n, s in scores.items()
        if isinstance(s, dict) and all(isinstance(s.get(f), int | float) for f in fields)
    }


def wall_clock(seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Hours of all stages before the gate, as a measurement of the run; none when a stage has no recorded time."""
    before = [str(stage) for stage in takewhile(lambda stage: stage != Stage.GATE, Stage)]
    if any(stage not in seconds for stage in before):
        return {}
    return {"wall_clock_hours": {"value": sum(seconds[stage] for stage in before) / 3600}}


def measurements(ctx: StageContext) -> dict[str, dict[str, Mapping[str, float]]]:
    """Scores, latency and stability by checkpoint, and what belongs to the whole run."""
    found: dict[str, dict[str, Mapping[str, float]]] = {RUN: dict(wall_clock(ctx.measured_seconds()))}
    for name in ("scores.json", "latency_and_stability.json"):
        content = json.loads(ctx.input(f"artifacts/evaluation/{name}").read_text(encoding="utf-8"))
        for checkpoint, metrics in content.items():
            found.setdefault(checkpoint, {}).update(metrics)
    return found


def run(ctx: StageContext) -> None:
    """Hold every threshold against what was measured; StageError when one is missed."""
    params = ctx.params
    assert isinstance(params, Params)
    thresholds = read_thresholds(ctx.input("artifacts/budget/acceptance.json"))
    measured = measurements(ctx)
    scores = measured.get(params.selected)
    if scores is None:
        raise StageError(
            f"gate.selected is '{params.selected}', but artifacts/evaluation/scores.json has scores of "
            f"{', '.join(sorted(set(measured) - {RUN})) or 'nothing'}; next: add it to evaluation.checkpoints or "
            f"select another"
        )

    checks = [one for threshold in thresholds for one in check(threshold, measured, params.selected)]
    compared = params.max_regression is not None
    ctx.count(champion=float(compared))
    champion = ctx.champion() if compared else None
    if champion is not None:
        checks += check_champion(params, scores, champion_scores(champion, params.selected))
    failed = [one for one in checks if not one.passed]

    listed = [{**asdict(one), "unit": METRICS[one.metric].unit} for one in checks]
    verdict = {"passed": not failed, "selected": params.selected, "checks": listed, "champion": champion}
    write_json(ctx.out / "verdict.json", verdict)
    for one in checks:  # a failed stage publishes nothing, so the table is in the log as well
        ctx.note(f"{'passed' if one.passed else 'FAILED'}  {one.sentence()}")
    if not checks:
        ctx.note("nothing was asked: budget.acceptance is empty, and there was no champion to compare with")
    ctx.report(**{name: round(found["value"], 6) for name, found in measured[RUN].items()})
    ctx.report(passed=int(not failed), checks=len(checks), failed_checks=len(failed), selected=params.selected)
    if failed:
        raise StageError(explain(failed, len(checks), params.selected, measured))


def explain(failed: list[Check], asked: int, selected: str, measured: Measurements) -> str:
    """What failed, by how much, and what to do about it."""
    missing = sorted({one.checkpoint for one in failed if one.value is None})
    lines = [f"checkpoint '{selected}' failed {len(failed)} of {asked} checks:"]
    lines += [f"  {one.sentence()}; next: {advice(one)}" for one in failed]
    lines += [f"  measured of {where}: {', '.join(sorted(measured.get(where, {}))) or 'nothing'}" for where in missing]
    return "\n".join(
        [*lines, "next: artifacts/evaluation/report.md shows all scores, budget.acceptance the thresholds"]
    )


def advice(failed: Check) -> str:
    """What may turn one failed check."""
    if failed.value is None:
        if failed.checkpoint == RUN:
            return "`dvc repro`, so that every stage has its time in metrics/"
        return f"add '{failed.checkpoint}' to evaluation.checkpoints and give the benchmark items, or do not ask for it"
    if failed.straddles and METRICS[failed.metric].kind == "quality":
        return f"more items in evaluation tell whether it is missed; {METRICS[failed.metric].advice}"
    return METRICS[failed.metric].advice
