"""What a report is made of: files of the pipeline and rows of the ledger; what is not there is named, not an error."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_math.interval import Interval
from pipeline_math.ledger import Row
from tasks.stages import Stage

STAGES = tuple(str(stage) for stage in Stage)
_FILES = {  # name in Inputs -> path, what it holds, the stage that writes it
    "plan": ("artifacts/budget/plan.json", "the plan", Stage.BUDGET),
    "forecast": ("artifacts/budget/forecast.json", "the forecast of every stage", Stage.BUDGET),
    "acceptance": ("artifacts/budget/acceptance.json", "what the model must reach", Stage.BUDGET),
    "hardware": ("artifacts/budget/hardware.json", "the machine of the plan", Stage.BUDGET),
    "scores": ("artifacts/evaluation/scores.json", "scores of the checkpoints", Stage.EVALUATION),
    "verdict": ("artifacts/gate/verdict.json", "the verdict", Stage.GATE),
}
_CURVE = "artifacts/pretrain/curve.csv"


@dataclass
class Inputs:
    """Content of the files, empty where there is none."""

    plan: dict[str, Any] = field(default_factory=dict)
    forecast: dict[str, Any] = field(default_factory=dict)
    acceptance: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """One row per stage and quantity: the measurements of the present outputs, or the last ones there are."""
    history: list[Row] = field(default_factory=list)
    """All rows of the ledger."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Stage -> K of its present output."""
    missing: list[dict[str, str]] = field(default_factory=list)
    """What is not there: {"what", "path", "next"}."""
    failures: list[str] = field(default_factory=list)
    """Messages of stages whose last run failed."""

    def prediction(self, stage: str, quantity: str) -> Interval | None:
        """The forecast made before the run."""
        found = self.forecast.get("predictions", {}).get(stage, {}).get(quantity)
        return Interval(found["value"], found["low"], found["high"]) if found else None

    def row(self, stage: str, quantity: str) -> Row | None:
        """The measurement of one quantity of one stage."""
        return next((row for row in self.rows if (row.stage, row.quantity) == (stage, quantity)), None)

    @property
    def predicted_seconds(self) -> dict[str, Interval]:
        """Stage -> forecast of its seconds."""
        return {stage: found for stage in STAGES if (found := self.prediction(stage, "seconds"))}


def read_inputs(root: Path, rows: Iterable[Row] | None, keys: Mapping[str, str] | None) -> Inputs:
    """Everything below `root` that a report shows; None takes the ledger's rows and the keys of dvc.lock."""
    found = Inputs(keys=recorded_keys(root) if keys is None else keys)
    absent: dict[Stage, list[tuple[str, str]]] = {}
    for name, (path, what, writer) in _FILES.items():
        content = _read_json(root / path)
        setattr(found, name, content)
        if not content:
            absent.setdefault(writer, []).append((what, path))
    if (root / _CURVE).exists():
        with (root / _CURVE).open(encoding="utf-8", newline="") as file:
            found.curve = list(csv.DictReader(file))
    if not found.curve:
        absent[Stage.PRETRAIN] = [("the loss curve of pretraining", _CURVE)]
    for writer, pieces in absent.items():
        whats, paths = (", ".join(texts) for texts in zip(*pieces, strict=True))
        _miss(found, whats, paths, f"`make run`, or `dvc repro {writer}` for this and what it needs")
    if rows is None:
        from tasks import _ledger

        _ledger.collect(root)
        rows = _ledger.rows(root)
    found.history = list(rows)
    if not found.history:
        _miss(found, "predictions beside measurements", "ledger/ledger.parquet", "`make run`")
    for stage in STAGES:
        found.rows += rows_of_stage(found, stage, _read_json(root / "metrics" / f"{stage}.json"))
        failed = _read_json(root / "work" / stage / "failed.json")
        found.failures += [str(failed["error"])] if "error" in failed else []
    measured = {row.stage for row in found.rows if row.quantity == "seconds"}
    if untimed := [stage for stage in STAGES if stage not in measured]:
        _miss(found, f"seconds of {', '.join(untimed)}", "ledger, metrics", "`make run`; resumed stages have none")
    return found


def rows_of_stage(found: Inputs, stage: str, metrics: Mapping[str, Any]) -> list[Row]:
    """Rows of the run that made the stage's present output, else of its last run, else of metrics/<stage>.json."""
    own = sorted((row for row in found.history if row.stage == stage), key=lambda row: row.time)
    of_output = [row for row in own if row.key == found.keys.get(stage)]
    if own:
        last = (of_output or own)[-1]
        chosen = {row.quantity: row for row in own if (row.key, row.run) == (last.key, last.run)}
        return sorted(chosen.values(), key=lambda row: (row.quantity != "seconds", row.quantity))
    rows, measured = [], metrics.get("measured", {})
    for quantity in sorted(measured, key=lambda quantity: (quantity != "seconds", quantity)):
        expected = found.prediction(stage, quantity)
        rows.append(
            Row(
                stage,
                quantity,
                expected.value if expected else None,
                expected.low if expected else None,
                expected.high if expected else None,
                float(measured[quantity]),
                machine="",
                key=found.keys.get(stage, ""),
                run=f"metrics/{stage}.json",
                hardware="",
                profile="",
                git="",
                time="",
            )
        )
    return rows


def recorded_keys(root: Path) -> dict[str, str]:
    """Stage -> K according to dvc.lock; stages that never finished are absent."""
    from tasks._keys import keys_from_lock_entry, lock_entries

    return {stage: keys_from_lock_entry(entry)[0] for stage, entry in lock_entries(root).items()}


def _miss(found: Inputs, what: str, path: str, following: str) -> None:
    found.missing.append({"what": what, "path": path, "next": following})


def _read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file with an object in it; empty when there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
