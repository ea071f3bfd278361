"""Pictures of a finished stage for MLflow: drawn beside the stage, not by it, so that no change of them retrains."""

import csv
from pathlib import Path

from pipeline_math.interval import Interval
from tasks import _forecast_plots, _ledger
from tasks._forecast import planned
from tasks.stages import Stage


def draw(stage: str, root: Path, folder: Path) -> list[Path]:
    """Write the pictures of one stage into `folder`; those that have something to show."""
    folder.mkdir(parents=True, exist_ok=True)
    if stage == Stage.BUDGET:
        return _plan(root, folder)
    if stage == Stage.PRETRAIN:
        return _loss(root, folder)
    return []


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


def _loss(root: Path, folder: Path) -> list[Path]:
    curve = root / "artifacts" / Stage.PRETRAIN / "curve.csv"
    if not curve.exists():
        return []
    plan = planned(root / "artifacts" / Stage.BUDGET)
    expected = plan.forecast["predictions"][Stage.PRETRAIN].get("bits_per_byte") if plan else None
    path = folder / "loss_forecast.svg"
    with curve.open(encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file))
    interval = Interval(**expected) if expected else None
    return [path] if _forecast_plots.loss_forecast(points, interval, path) else []
