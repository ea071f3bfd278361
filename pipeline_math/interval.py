"""A predicted number with its 90 % interval, and the arithmetic of such intervals.

Times and rates are products of uncertain factors, so their logarithms are treated as normal.
Left out: skew from rare events such as a machine that is shared with other work.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Z_90 = 1.6448536269514722
"""Standard deviations on either side of the mean that hold 90 % of a normal distribution."""
Z_95 = 1.959963984540054
"""The same for 95 %."""


@dataclass(frozen=True)
class Interval:
    """A prediction in the unit of its name: most likely value and the bounds of its 90 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """The interval in another unit: every bound times a known, positive factor."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def as_dict(self) -> dict[str, float]:
        """The form in which plan.json stores an interval."""
        return {"value": self.value, "low": self.low, "high": self.high}


def lognormal_interval(value: float, log_sd: float) -> Interval:
    """90 % interval of a positive quantity whose logarithm has standard deviation `log_sd` (0.1 is about +-18 %)."""
    spread = math.exp(Z_90 * log_sd)
    return Interval(value, value / spread, value * spread)


def add_independent(parts: Iterable[Interval]) -> Interval:
    """Sum of independent quantities: values add up, distances to the bounds add in quadrature."""
    parts = list(parts)
    value = sum(part.value for part in parts)
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts))
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts))
    return Interval(value, max(0.0, value - below), value + above)


def log_posterior(
    prior_mean: float, prior_log_sd: float, measured_mean: float, measured_log_sd: float, count: int
) -> tuple[float, float]:
    """Mean and sd of ln of a positive constant after `count` measurements with geometric mean `measured_mean`.

    Normal prior and normal noise on the logarithm: weights are the inverse variances.
    Returns (geometric mean, standard deviation of the logarithm).
    """
    if count < 1:
        return prior_mean, prior_log_sd
    prior_weight, data_weight = prior_log_sd**-2, count / measured_log_sd**2
    total = prior_weight + data_weight
    mean = (math.log(prior_mean) * prior_weight + math.log(measured_mean) * data_weight) / total
    return math.exp(mean), total**-0.5
