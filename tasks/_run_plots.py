"""Pictures of a finished stage for MLflow: drawn beside the stage, not by it, so that no change of them retrains."""

import csv
from pathlib import Path
from typing import Any

from pipeline_math.interval import Interval
from tasks import _curve_plots, _forecast_plots, _ledger
from tasks._context import read_events
from tasks._forecast import planned
from tasks.stages import Stage

TRAINING = frozenset({Stage.PRETRAIN, Stage.MIDTRAIN, Stage.SFT, Stage.RL})
"""Stages that leave a curve.csv."""


def draw(stage: str, root: Path, folder: Path) -> list[Path]:
    """Write the pictures of one stage into `folder`; those that have something to show."""
    folder.mkdir(parents=True, exist_ok=True)
    if stage == Stage.BUDGET:
        return _plan(root, folder)
    return _curves(stage, root, folder) if stage in TRAINING else []


def draw_pipeline(root: Path, folder: Path) -> list[Path]:
    """Predicted beside measured of all stages' newest runs: the pictures of the parent run."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _ledger.rows(root)
    pictures = {
        folder / "predicted_vs_measured.svg": _forecast_plots.predicted_vs_measured,
        folder / "time_breakdown.svg": _forecast_plots.time_breakdown,
        folder / "accuracy.svg": _forecast_plots.accuracy,
    }
    return [path for path, drawn in pictures.items() if drawn(rows, path)]


def _plan(root: Path, folder: Path) -> list[Path]:
    plan = planned(root / "artifacts" / Stage.BUDGET)
    if plan is None:
        return []
    seconds = {stage: Interval(**own["seconds"]) for stage, own in plan.forecast["predictions"].items()}
    time, memory = folder / "planned_time.svg", folder / "planned_memory.svg"
    drawn = {
        time: _forecast_plots.time_breakdown([], time, seconds),
        memory: _forecast_plots.memory_breakdown(plan.forecast["memory"]["parts"], plan.hardware.memory_bytes, memory),
    }
    return [path for path, there in drawn.items() if there]


def _curves(stage: str, root: Path, folder: Path) -> list[Path]:
    """What a training stage's curve shows and, of pretraining, the loss beside its forecast."""
    curve = root / "artifacts" / stage / "curve.csv"
    if not curve.exists():
        return []
    with curve.open(encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file))
    path = folder / "training_curves.svg"
    found = [path] if _curve_plots.training_curves(_with_speed(points, folder), path, stage) else []
    return found + (_loss(points, root, folder) if stage == Stage.PRETRAIN else [])


def _with_speed(points: list[dict[str, str]], folder: Path) -> list[dict[str, Any]]:
    """The curve's rows with what the event log beside `folder` knows besides: the file leaves out how fast it went."""
    events = read_events(folder.parent / "events.jsonl")
    known = {event["step"]: event["values"] for event in events if event["event"] == "curve"}
    return [{**known.get(int(float(row["step"])), {}), **row} for row in points]


def _loss(points: list[dict[str, str]], root: Path, folder: Path) -> list[Path]:
    plan = planned(root / "artifacts" / Stage.BUDGET)
    expected = plan.forecast["predictions"][Stage.PRETRAIN].get("bits_per_byte") if plan else None
    path = folder / "loss_forecast.svg"
    interval = Interval(**expected) if expected else None
    return [path] if _forecast_plots.loss_forecast(points, interval, path) else []
