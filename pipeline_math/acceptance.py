"""Acceptance: what a finished run must reach, whether the forecast expects it, and whether the measurements show it.

A threshold bounds one metric of one checkpoint. `check` holds it against measurements, `miss_probability` against a
forecast. Intervals of measurements cover 95 %, those of forecasts 90 %. The value alone decides a check; whether the
interval reaches to the other side is said beside it: then more items would tell. An upper bound on latency is the
exception: other load makes times longer and never shorter, so it is missed only when the whole interval is above it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from pipeline_math.checks import not_negative
from pipeline_math.interval import Z_90, Interval

SELECTED = "selected"
"""Stands for the checkpoint that would be exported."""
RUN = "run"
"""Where measurements of the whole run are found, beside those of the checkpoints."""
BASE = "pretrain"
"""The one checkpoint that does not know the chat format."""
CHECKPOINTS = (BASE, "midtrain", "sft", "rl")

Measurements = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Checkpoint -> metric -> {"value", "low", "high"}; low and high may be missing. Of the run: under `RUN`."""


@dataclass(frozen=True)
class Metric:
    """A quantity that may be asked for."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    kind: Literal["quality", "stability", "latency", "run"]
    """Only quality is compared between models: the rest depends on the machine or on the run."""
    meaning: str
    advice: str
    """What to do when it is missed."""
    forecast: tuple[str, str] | None = None
    """Stage and quantity of the forecast that predicts it; None: nothing does."""
    spoken: bool = False
    """It needs replies, which a base model does not give."""


_TRAIN = "train longer or on more data"
_TUTOR = "more arithmetic in sft.mixture, or more sft tokens"
_QUIET = "measure again on a quiet machine (`dvc repro --force --single-item evaluation`), or plan a smaller model"
_TABLE = (
    Metric(
        "bits_per_byte", "bits/byte", "lower", "quality",
        "loss on held-out text, nats / (ln 2 * bytes), special tokens excluded", _TRAIN, (BASE, "bits_per_byte"),
    ),
    Metric(
        "multiple_choice", "share", "higher", "quality",
        "right choices on held-out documentation; chance gives 0.25", _TRAIN,
    ),
    Metric(
        "arithmetic", "share", "higher", "quality",
        "exact answers with the tool, held-out numbers in held-out sentences",
        _TUTOR, spoken=True,
    ),
    Metric(
        "tool_call", "share", "higher", "quality",
        "exactly one call, of the right expression", _TUTOR, spoken=True,
    ),
    Metric(
        "ends_properly", "share", "higher", "quality",
        "replies that end within their budget, with well-formed special tokens",
        "more sft tokens, or a larger evaluation.max_reply_tokens", spoken=True,
    ),
    Metric(
        "loss_rise_nats", "nats", "lower", "stability",
        "largest rise of the smoothed loss above its running minimum (pipeline_math/stability.py), over the training "
        "stages that led to the checkpoint; rl has no cross-entropy and adds nothing",
        "look at plots/training.png of the evaluation, then lower learning_rate_scale of the stage that rises",
    ),
    Metric(
        "ttft_seconds", "s", "lower", "latency",
        "time to the first token of one prompt, this project's engine", _QUIET, ("inference", "ttft_seconds"),
    ),
    Metric(
        "seconds_per_output_token", "s", "lower", "latency",
        "time of one decode step after it, one sequence", _QUIET, ("inference", "seconds_per_output_token"),
    ),
    Metric(
        "wall_clock_hours", "h", "lower", "run",
        "measured times of all stages before the gate, added up: stages that ran side by side count in full",
        "lower budget.hours or the amounts of the stage that `python -m flows status` shows as slow",
    ),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}


@dataclass(frozen=True)
class Threshold:
    """A bound on one metric, in its unit; both bounds may be set. ValueError for one that could not be meant."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    checkpoint: str = SELECTED

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric '{self.metric}'; allowed: {', '.join(METRICS)}")
        known, allowed = METRICS[self.metric], (SELECTED, *CHECKPOINTS)
        if self.checkpoint not in allowed:
            raise ValueError(f"{self.metric}: unknown checkpoint '{self.checkpoint}'; allowed: {', '.join(allowed)}")
        if known.spoken and self.checkpoint == BASE:
            raise ValueError(f"{self.metric} of '{BASE}' is never measured: a base model gives no replies")
        if known.kind == "run" and self.checkpoint != SELECTED:
            raise ValueError(f"{self.metric} belongs to the run, not to '{self.checkpoint}'; next: remove checkpoint")
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"{self.metric}: neither at_least nor at_most is set; next: set one")
        bounds = {"at_least": self.at_least, "at_most": self.at_most}
        for name, bound in bounds.items():
            if bound is None:
                continue
            not_negative(**{f"{self.metric}.{name}": bound})
            if known.unit == "share" and bound > 1:
                raise ValueError(
                    f"{self.metric}.{name}={bound:g}: allowed are shares, 0 to 1; {bound:g} % is {bound / 100:g}"
                )
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"{self.metric}: at_least={self.at_least} is above at_most={self.at_most}: nothing passes")

    def where(self, selected: str) -> str:
        """The key of `Measurements` it is about, `selected` being the checkpoint that would be exported."""
        if METRICS[self.metric].kind == "run":
            return RUN
        return selected if self.checkpoint == SELECTED else self.checkpoint


@dataclass(frozen=True)
class Check:
    """One bound held against one measurement."""

    metric: str
    checkpoint: str
    name: str
    value: float | None
    """None: not measured, which never passes."""
    low: float | None
    high: float | None
    threshold: float
    passed: bool
    straddles: bool | None
    """Does the interval hold values on the other side of the threshold? None without an interval."""

    def sentence(self) -> str:
        """The check as one line."""
        if self.value is None:
            return f"{self.name}: not measured"
        text = f"{self.name}: {self.value:.4g}"
        if self.low is not None and self.high is not None and self.low < self.high:
            text += f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{text}, within the error bar" if self.straddles else text


def check(threshold: Threshold, measured: Measurements, selected: str) -> list[Check]:
    """One check per bound that is set. A value at its bound passes; one that is missing or no number does not.

    For at_most on a latency the lower end of the interval counts instead of the value.
    """
    where = threshold.where(selected)
    found = measured.get(where, {}).get(threshold.metric, {})
    value = _finite(found.get("value"))
    low, high = (_finite(found.get(name)) if value is not None else None for name in ("low", "high"))
    best_case = low if METRICS[threshold.metric].kind == "latency" and low is not None else value
    checks = []
    for sign, bound in ((">=", threshold.at_least), ("<=", threshold.at_most)):
        if bound is None:
            continue
        counted = value if sign == ">=" else best_case
        passed = counted is not None and (counted >= bound if sign == ">=" else counted <= bound)
        of = "" if where == RUN else f" of {where}"
        name = f"{threshold.metric}{of} {sign} {bound:g}"
        across = straddles(low, high, bound)
        checks.append(Check(threshold.metric, where, name, value, low, high, bound, passed, across))
    return checks


def straddles(low: float | None, high: float | None, bound: float) -> bool | None:
    """Do low and high lie on different sides of a bound? None without an interval; one of no width is none."""
    if low is None or high is None or low >= high:
        return None
    return low < bound < high


def forecast_of(metric: str, forecast: Mapping[str, Any]) -> Interval | None:
    """The forecast's 90 % interval of a metric, in its unit; None where it has none.

    `forecast` has "predictions" (stage -> quantity -> {value, low, high}) and "total" with "seconds_interval".
    bits_per_byte is that of the base model; wall_clock_hours that of all stages, also those after the gate.
    """
    if METRICS[metric].kind == "run":
        found, factor = forecast.get("total", {}).get("seconds_interval"), 1 / 3600
    elif (source := METRICS[metric].forecast) is not None:
        found, factor = forecast.get("predictions", {}).get(source[0], {}).get(source[1]), 1.0
    else:
        return None
    return Interval(found["value"], found["low"], found["high"]).scaled(factor) if found else None


def share_above(interval: Interval, bound: float) -> float:
    """P(X > bound) of a lognormal X with this median and 90 % interval.

    ln X is normal with sd ln(high / value) / Z above the median and ln(value / low) / Z below it, Z = 1.645: exact for
    a lognormal interval, and usable for one that is a little skewed, such as a sum of several. 0 or 1 for an interval
    without width. ValueError unless 0 < low <= value <= high.
    """
    if not 0 < interval.low <= interval.value <= interval.high < math.inf:
        raise ValueError(f"{interval}: allowed are finite 0 < low <= value <= high")
    not_negative(bound=bound)
    if bound == 0:
        return 1.0
    distance = math.log(bound / interval.value)
    sd = (math.log(interval.high / interval.value) if distance > 0 else math.log(interval.value / interval.low)) / Z_90
    if sd == 0:
        return float(distance < 0)
    return 1 - NormalDist().cdf(distance / sd)


def miss_probability(threshold: Threshold, forecast: Mapping[str, Any]) -> float | None:
    """Probability, according to the forecast, that the threshold is missed; None where the forecast says nothing, or
    its interval reaches down to 0 and so is not that of a lognormal."""
    interval = forecast_of(threshold.metric, forecast)
    if interval is None or interval.low <= 0:
        return None
    above = share_above(interval, threshold.at_most) if threshold.at_most is not None else 0.0
    below = 1 - share_above(interval, threshold.at_least) if threshold.at_least is not None else 0.0
    return min(1.0, above + below)


def reachable(threshold: Threshold, forecast: Mapping[str, Any]) -> str | None:
    """A warning for the plan when the threshold is more likely missed than met; None otherwise, or without forecast."""
    interval, missed = forecast_of(threshold.metric, forecast), miss_probability(threshold, forecast)
    if interval is None:
        return None
    bounds = (("at least", threshold.at_least, 1), ("at most", threshold.at_most, -1))
    beyond = any(bound is not None and sign * (bound - interval.value) > 0 for _, bound, sign in bounds)
    if not (beyond if missed is None else missed > 0.5):
        return None
    metric = METRICS[threshold.metric]
    asked = " and ".join(f"{words} {bound:g}" for words, bound, _ in bounds if bound is not None)
    base = " of the base model" if metric.forecast and metric.forecast[0] == BASE else ""
    probability = "" if missed is None else f": missed with probability {missed:.0%}"
    return (
        f"acceptance asks for {metric.name} {asked} {metric.unit}; {interval.value:.3g} ({interval.low:.3g} to "
        f"{interval.high:.3g}){base} expected{probability}"
    )


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
