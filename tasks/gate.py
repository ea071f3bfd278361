"""gate: may this model be exported? Thresholds on its scores, and no real loss against the champion.

Reads    artifacts/evaluation/scores.json; the registered champion, if there is one
Writes   artifacts/gate/verdict.json
Promise  every check is listed with value, threshold and outcome, in the log too; one failed check fails the stage, and
         the evaluation stays
Limits   a drop against the champion counts only when it exceeds both max_regression and what the two intervals explain;
         spread between training runs is not known here
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json
from tasks._params import StageParams

LOWER_IS_BETTER = frozenset({"bits_per_byte"})


class Threshold(StageParams):
    """A bound on one benchmark of the selected checkpoint; both bounds may be set."""

    benchmark: str
    """A name in scores.json, such as arithmetic, ends_properly or bits_per_byte."""
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def bounds_something(self) -> "Threshold":
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"threshold on '{self.benchmark}' sets neither at_least nor at_most; next: set one")
        return self


class Params(StageParams):
    """What a model must reach to be exported."""

    selected: Literal["pretrain", "midtrain", "sft", "rl"] = "rl"
    """The training stage whose checkpoint is judged, and exported when it passes."""
    thresholds: tuple[Threshold, ...] = (
        Threshold(benchmark="arithmetic", at_least=0.9),
        Threshold(benchmark="ends_properly", at_least=0.95),
    )
    max_regression: Annotated[float, Field(ge=0)] | None = 0.02
    """Largest loss against the champion, in the benchmark's own unit; None compares with no champion."""


def check_thresholds(params: Params, scores: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """One check per bound; a benchmark that was not measured fails its check."""
    checks = []
    for threshold in params.thresholds:
        value = scores.get(threshold.benchmark, {}).get("value")
        for sign, bound in ((">=", threshold.at_least), ("<=", threshold.at_most)):
            if bound is None:
                continue
            passed = value is not None and math.isfinite(value) and (value >= bound if sign == ">=" else value <= bound)
            checks.append(_check(f"{threshold.benchmark} {sign} {bound:g}", value, bound, passed))
    return checks


def check_champion(
    params: Params, scores: dict[str, dict[str, float]], champion: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """One check per benchmark that both have: the loss must not exceed max_regression and the intervals together.

    With half-widths h of the two 95 % intervals, the difference of two independent estimates has the half-width
    sqrt(h1^2 + h2^2). A loss within that is what chance alone would show, a loss within max_regression is tolerated.
    """
    checks = []
    for name in sorted(set(scores) & set(champion)):
        own, other = scores[name], champion[name]
        loss = own["value"] - other["value"] if name in LOWER_IS_BETTER else other["value"] - own["value"]
        chance = math.hypot((own["high"] - own["low"]) / 2, (other["high"] - other["low"]) / 2)
        allowed = max(params.max_regression or 0.0, chance)
        checks.append(_check(f"{name}: loss against the champion", round(loss, 6), round(allowed, 6), loss <= allowed))
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


def _check(name: str, value: float | None, threshold: float, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "threshold": threshold, "passed": bool(passed)}


def run(ctx: StageContext) -> None:
    params = ctx.params
    assert isinstance(params, Params)
    all_scores = json.loads((ctx.input("artifacts/evaluation/scores.json")).read_text(encoding="utf-8"))
    scores = all_scores.get(params.selected)
    if scores is None:
        raise StageError(
            f"gate.selected is '{params.selected}', but artifacts/evaluation/scores.json has scores of "
            f"{', '.join(sorted(all_scores)) or 'nothing'}; next: add it to evaluation.checkpoints or select another"
        )

    checks = check_thresholds(params, scores)
    champion = ctx.champion() if params.max_regression is not None else None
    if champion is not None:
        checks += check_champion(params, scores, champion_scores(champion, params.selected))
    failed = [check for check in checks if not check["passed"]]

    verdict = {"passed": not failed, "selected": params.selected, "checks": checks, "champion": champion}
    write_json(ctx.out / "verdict.json", verdict)
    for check in checks:  # a failed stage publishes nothing, so the table is in the log as well
        value = "not measured" if check["value"] is None else f"{check['value']:.4f}"
        ctx.note(
            f"{'passed' if check['passed'] else 'FAILED'}  {check['name']}: {value} (threshold {check['threshold']:g})"
        )
    ctx.report(passed=int(not failed), checks=len(checks), failed_checks=len(failed), selected=params.selected)
    if failed:
        names = "; ".join(f"{c['name']} (found {c['value']})" for c in failed)
        raise StageError(
            f"gate: checkpoint '{params.selected}' failed {len(failed)} of {len(checks)} checks: {names}; next: see "
            f"artifacts/evaluation/report.md, then train longer, or change gate.thresholds if they ask too much"
        )
