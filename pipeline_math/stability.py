"""Stability of training: how far a loss curve ever rose above where it had been."""

import itertools
import math
import statistics
from collections.abc import Sequence

from pipeline_math.checks import whole

WINDOW_SHARE = 0.05
"""Share of the curve's points in one window of the moving mean."""
MINIMUM_WINDOW = 3
"""Points of a window at least, where the curve has them."""


def smoothing_window(points: int) -> int:
    """Points in one window of the moving mean: 5 % of the curve, at least 3, never more than there are."""
    whole(minimum=1, points=points)
    return min(points, max(MINIMUM_WINDOW, math.ceil(WINDOW_SHARE * points)))


def largest_loss_rise(losses: Sequence[float]) -> float:
    """max over i of (m_i - min over j <= i of m_j), nats; m = moving means of the loss. 0 when it only fell.

    The largest drawdown of the smoothed curve. The mean over w points divides independent noise by sqrt(w) and one odd
    batch by w, while a loss that jumps and takes a share of the run to recover, or creeps up, keeps its height.
    Noise of standard deviation s per point alone makes about 4.5 s / sqrt(w) over a flat curve of 50 to 400 points,
    seldom more than 6, and about 3 over a falling one (by simulation; a test repeats it). Left out: what happens within
    a window.
    Convention: points are equally spaced in steps. ValueError for no points, or a loss that is not finite.
    """
    for position, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise ValueError(f"losses[{position}]={loss}: allowed are finite numbers")
    window = smoothing_window(len(losses))
    means = [statistics.fmean(losses[i : i + window]) for i in range(len(losses) - window + 1)]
    return max(mean - lowest for mean, lowest in zip(means, itertools.accumulate(means, min), strict=True))
