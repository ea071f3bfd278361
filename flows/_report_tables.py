"""Tables of a report: lists of texts, one mapping per line."""

from collections.abc import Iterable, Mapping
from typing import Any

from flows._report_inputs import STAGES, Inputs
from pipeline_math.interval import Interval
from pipeline_math.ledger import Row
from tasks._figures import with_unit
from tasks._forecast_plots import interval_of
from tasks.stages import NUMBER, Stage

SHORT = 12
"""Characters of K and of a run's id in most tables; the last one has them whole."""


def lines(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (name, value) lines for people, in the file's order; empty values are left out."""
    found: list[tuple[str, str]] = []
    for name, value in content.items():
        words = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            found += lines(value, f"{words}: ")
        elif isinstance(value, list):
            found.append((words, ", ".join(map(str, value))))
        elif isinstance(value, float):
            found.append((words, with_unit(name, value)))
        elif value is not None:
            found.append((words, f"{value:,}" if type(value) is int else str(value)))
    return [(name, value) for name, value in found if value]


def by_stage(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows in groups of one stage, as text: {"stage", "key", "run", "rows"}."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.stage, []).append(row)
    return [
        {**stage_name(stage), "key": own[0].key[:SHORT], "run": short_run(own[0]), "rows": [_cells(row) for row in own]}
        for stage, own in groups.items()
    ]


def stage_name(stage: str) -> dict[str, str]:
    """{"number", "stage"}; rows of a stage that no longer exists have no number."""
    return {"number": NUMBER[Stage(stage)] if stage in STAGES else "", "stage": stage}


def short_run(row: Row) -> str:
    """The run's id, shortened; a file's name as it is."""
    return row.run if "/" in row.run else row.run[:SHORT]


def source(found: Inputs, stage: str) -> str:
    """Where a stage's numbers come from, in words."""
    row = next((row for row in found.rows if row.stage == stage), None)
    key = row.key if row else found.keys.get(stage, "")
    run = f", run {short_run(row)}" if row else ""
    return f"{stage}{run}, K {key[:SHORT] or 'unknown'}"


def _cells(row: Row) -> dict[str, str]:
    interval, exact = interval_of(row), row.low == row.high
    cells = {"quantity": row.quantity.replace("_", " "), "measured": with_unit(row.quantity, row.measured)}
    if interval is None or row.inside is None:
        return cells
    outcome = ("equal" if row.inside else "differs") if exact else ("inside" if row.inside else "outside")
    error = f"{row.measured / row.predicted - 1:+.1%}" if row.predicted and outcome != "equal" else ""
    if exact:  # with all digits: a difference of one must be seen
        cells["measured"] = f"{row.measured:,.15g}"
    return cells | {
        "predicted": f"{interval.value:,.15g}" if exact else with_unit(row.quantity, interval.value),
        "interval": "exact" if exact else bounds(row.quantity, interval),
        "error": error,
        "outcome": outcome,
    }


def acceptance(verdict: Mapping[str, Any], asked: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was asked and what came out: checks of the verdict, then thresholds that no check is about."""
    rows = []
    for check in verdict.get("checks", []):
        value, low, high = (check.get(name) for name in ("value", "low", "high"))
        interval = f"{low:.4g} to {high:.4g}" if low is not None and high is not None and low < high else ""
        rows.append(
            {
                "check": str(check["name"]),
                "value": "not measured" if value is None else f"{value:.4g} {check.get('unit', '')}".strip(),
                "interval": interval,
                "outcome": "passed" if check["passed"] else "failed",
            }
        )
    judged = " ".join(row["check"] for row in rows).split()
    for threshold in asked.get("thresholds", []):
        if threshold["metric"] not in judged:
            limits = ((">=", threshold.get("at_least")), ("<=", threshold.get("at_most")))
            words = " and ".join(f"{sign} {bound:g}" for sign, bound in limits if bound is not None)
            name = f"{threshold['metric']} of {threshold.get('checkpoint', 'selected')} {words}"
            rows.append({"check": name, "value": "not measured", "interval": "", "outcome": "not judged"})
    return rows


def scores(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One line per checkpoint and benchmark."""
    return [
        {
            "checkpoint": stage,
            "benchmark": benchmark.replace("_", " "),
            "value": f"{score['value']:.4g}",
            "interval": f"{score['low']:.4g} to {score['high']:.4g}",
            "n": f"{score.get('n', 0):,}",
        }
        for stage, own in found.items()
        for benchmark, score in own.items()
    ]


def provenance(found: Inputs) -> list[dict[str, str]]:
    """One line per stage: run and K in full, when, what code, which machine, and whether that is the present output."""
    first = {row.stage: row for row in reversed(found.rows)}
    table = []
    for stage in STAGES:
        row, key = first.get(stage), found.keys.get(stage, "")
        if row is None and not key:
            continue
        of_output = "yes" if row is not None and key == row.key else "no" if key else "unknown"
        texts = (row.key, row.run, row.time, row.git, row.profile, row.machine) if row else (key, "", "", "", "", "")
        names = ("key", "run", "time", "git", "profile", "machine")
        table.append({**stage_name(stage), **dict(zip(names, texts, strict=True)), "present": of_output})
    return table


def bounds(quantity: str, interval: Interval) -> str:
    """Low and high of an interval in words."""
    return f"{with_unit(quantity, interval.low)} to {with_unit(quantity, interval.high)}"
