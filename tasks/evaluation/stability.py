"""Stability of the training behind a checkpoint, read from the curves of its stages."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from pipeline_math.stability import largest_loss_rise
from tasks.benchmarks.intervals import Score
from tasks.stages import Stage

LOSSES_IN_ORDER = (Stage.PRETRAIN, Stage.MIDTRAIN, Stage.SFT)
"""Training stages whose curve is a cross-entropy; that of rl is weighted with advantages and says nothing here."""


def loss_rises(curves: Mapping[str, Path]) -> dict[str, Score]:
    """loss_rise_nats of every training stage: the largest rise in its own curve or in one before it; n = points.

    `curves` are the curve.csv there are. A stage without any curve up to it is left out, and so is everything from a
    stage on whose curve holds a loss that is no number. The value has no error bar: it is what this run did.
    """
    found: dict[str, Score] = {}
    largest, points = 0.0, 0
    for stage in (*LOSSES_IN_ORDER, Stage.RL):
        losses = read_losses(curves[stage]) if stage in curves and stage in LOSSES_IN_ORDER else []
        if not all(math.isfinite(loss) for loss in losses):
            break
        if losses:
            largest, points = max(largest, largest_loss_rise(losses)), points + len(losses)
        if points:
            found[stage] = Score(largest, largest, largest, points)
    return found


def read_losses(path: Path) -> list[float]:
    """The loss column of a curve.csv, nats; rows without one (an evaluation alone) are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]
