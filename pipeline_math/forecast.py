"""Forecasts that can learn: a quantity is a sum of terms, amount times constant; only the constants are uncertain.

A stage's seconds are such a sum (bytes times seconds per byte, FLOPs at peak times a slow-down, one process start),
a memory peak and a loss are others. Amounts are known before the run; the logarithm of each constant is normal, with
a prior per device class and a posterior after measured runs (`calibrate`). With one term the posterior is the usual one
of a normal mean. Left out: dependence between constants of a prior, skew.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline_math.interval import Interval, lognormal_interval

Terms = Mapping[str, float]
"""Constant name -> amount; the forecast is the sum of amount times constant."""

ALIKE = 0.35
"""Amounts that differ by this logarithm (about 40 %) share exp(-1/2) of what the formula gets wrong."""


@dataclass(frozen=True)
class Constant:
    """A number of a device class that no formula gives. Its prior is lognormal."""

    name: str
    value: float
    """Most likely value, in `unit`."""
    log_sd: float
    """Standard deviation of its logarithm before anything was measured here: 0.1 is about +-18 % at 90 %."""
    unit: str
    meaning: str
    source: str


@dataclass(frozen=True)
class Noise:
    """Why two runs of the same amounts differ, and how far the formula may miss runs unlike those it knows."""

    log_sd: float
    """Spread between repetitions, as standard deviation of the logarithm."""
    absolute: float = 0.0
    """The same in the quantity's unit, for short stages: 0.2 s of a stage of 1 s are more than 0.2 s of 100 s."""
    formula_log_sd: float = 0.0
    """What the formula leaves out: wrong in the same way for equal amounts, differently for others."""

    def repetition_variance(self, value: float) -> float:
        """Variance of the logarithm between repetitions of a run of this size."""
        return self.log_sd**2 + (self.absolute / value) ** 2


@dataclass(frozen=True)
class Observation:
    """A finished run: what it should be made of and what it came to."""

    quantity: str
    """Such as "pretrain.seconds": only runs of the same quantity tell each other what the formula leaves out."""
    terms: Terms
    measured: float


@dataclass(frozen=True)
class Calibration:
    """What is known of a device class's constants: mean and covariance of their logarithms."""

    names: tuple[str, ...]
    log_means: tuple[float, ...]
    log_covariance: tuple[tuple[float, ...], ...]
    observations: tuple[Observation, ...] = ()
    """What it was learnt from, for the part that the formulas leave out."""
    machine: str = "prior"
    """Machine whose runs it was learnt from."""
    index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {name: i for i, name in enumerate(self.names)})

    def value(self, name: str) -> float:
        """Most likely value of a constant."""
        return math.exp(self.log_means[self.index[name]])

    def log_sd(self, name: str) -> float:
        """Standard deviation of its logarithm."""
        i = self.index[name]
        return math.sqrt(max(0.0, self.log_covariance[i][i]))

    def as_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` reads it back."""
        return {
            "machine": self.machine,
            "names": list(self.names),
            "log_means": list(self.log_means),
            "log_covariance": [list(row) for row in self.log_covariance],
            "observations": [[o.quantity, dict(o.terms), o.measured] for o in self.observations],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Calibration":
        return cls(
            tuple(content["names"]),
            tuple(content["log_means"]),
            tuple(tuple(row) for row in content["log_covariance"]),
            tuple(Observation(*entry) for entry in content["observations"]),
            content["machine"],
        )


def prior(constants: Mapping[str, Constant]) -> Calibration:
    """Constants before any run: independent, with the spreads of their priors."""
    names = tuple(constants)
    covariance = tuple(tuple(constants[row].log_sd ** 2 if row == column else 0.0 for column in names) for row in names)
    return Calibration(names, tuple(math.log(constants[name].value) for name in names), covariance)


def total(terms: Terms, calibration: Calibration) -> float:
    """Sum of amount times most likely constant. KeyError for a constant the class lacks."""
    return sum(amount * calibration.value(name) for name, amount in terms.items())


def log_gradient(terms: Terms, calibration: Calibration) -> list[tuple[int, float]]:
    """(index of constant, share of the sum it makes up): the derivative of ln(sum) by ln(constant)."""
    whole = total(terms, calibration)
    return [(calibration.index[n], amount * calibration.value(n) / whole) for n, amount in terms.items() if amount]


def forecast(quantity: str, terms: Terms, calibration: Calibration, noise: Noise) -> Interval:
    """The quantity with its 90 % interval: uncertain constants, what the formula leaves out, and repetition."""
    value = total(terms, calibration)
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{quantity}: the forecast is {value} from amounts {dict(terms)}; allowed are positive sums")
    shares = log_gradient(terms, calibration)
    variance = sum(a * b * calibration.log_covariance[i][j] for i, a in shares for j, b in shares)
    shift, left_out = _learnt_remainder(quantity, terms, calibration, noise)
    value *= math.exp(shift)
    return lognormal_interval(value, math.sqrt(variance + left_out + noise.repetition_variance(value)))


def _learnt_remainder(quantity: str, terms: Terms, calibration: Calibration, noise: Noise) -> tuple[float, float]:
    """(mean, variance) of what the formula leaves out here, from runs alike: Gaussian-process regression.

    Without such runs: 0 and the prior variance. Kernel: exp(-(ln-distance of amounts / ALIKE)^2 / 2).
    """
    prior_variance = noise.formula_log_sd**2
    known = [(o, similarity(terms, o.terms)) for o in calibration.observations if o.quantity == quantity]
    known = sorted((pair for pair in known if pair[1] > 0.05), key=lambda pair: -pair[1])[:30]
    if not known or not prior_variance:
        return 0.0, prior_variance
    runs = [o for o, _ in known]
    kernel = [
        [
            prior_variance * similarity(a.terms, b.terms) + (noise.repetition_variance(a.measured) if i == j else 0.0)
            for j, b in enumerate(runs)
        ]
        for i, a in enumerate(runs)
    ]
    cross = [prior_variance * alike for _, alike in known]
    residuals = [math.log(o.measured / total(o.terms, calibration)) for o in runs]
    weights = solve_positive(kernel, cross)
    mean = sum(w * r for w, r in zip(weights, residuals, strict=True))
    return mean, max(0.0, prior_variance - sum(w * c for w, c in zip(weights, cross, strict=True)))


def similarity(first: Terms, second: Terms) -> float:
    """1 for equal amounts, towards 0 as their largest ratio grows; amounts that one run lacks count as a tenfold."""
    distance = 0.0
    for name in {*first, *second}:
        a, b = first.get(name, 0.0), second.get(name, 0.0)
        if a != b:
            distance = max(distance, abs(math.log(a / b)) if a > 0 and b > 0 else math.log(10.0))
    return math.exp(-0.5 * (distance / ALIKE) ** 2)


def solve_positive(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x of A x = b for a symmetric positive definite A (Cholesky); ValueError when it is not."""
    lower = cholesky(matrix)
    size = len(right)
    forward = [0.0] * size
    for i in range(size):
        forward[i] = (right[i] - sum(lower[i][k] * forward[k] for k in range(i))) / lower[i][i]
    solution = [0.0] * size
    for i in reversed(range(size)):
        solution[i] = (forward[i] - sum(lower[k][i] * solution[k] for k in range(i + 1, size))) / lower[i][i]
    return solution


def cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Lower triangle L with L L^T = A; ValueError for a matrix that is not positive definite."""
    size = len(matrix)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            if i == j and rest <= 0:
                raise ValueError(f"matrix of {size} rows is not positive definite at row {i}")
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    return lower
