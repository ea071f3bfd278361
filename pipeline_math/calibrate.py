"""Learning the constants: the posterior of their logarithms given measured runs.

Minus the log posterior of ln c is a sum of squares: distance to the prior over its variance, and of every run
ln(measured) - ln(sum of amount * c) over its variance. Gauss-Newton finds the minimum; the inverse of its matrix is the
covariance (Laplace). A run that fits badly (a busy machine) counts less, as under Student's t with 4 degrees.
With one constant in one term this is the textbook update: inverse variances are the weights.
"""

import math
from collections.abc import Iterable, Mapping

from pipeline_math.forecast import Calibration, Noise, Observation, log_gradient, solve_positive, total

DEGREES_OF_FREEDOM = 4.0
"""Of the t distribution that weighs runs: at three standard deviations a run counts less than half."""
_ROUNDS = 60
_SETTLED = 1e-6
_LONGEST_STEP = 1.0


def calibrate(
    before: Calibration, observations: Iterable[Observation], noises: Mapping[str, Noise], machine: str
) -> Calibration:
    """The calibration after these runs. `noises` by quantity; runs with constants the class lacks are left out.

    `before` must not have learnt from the same runs already.
    """
    runs = [o for o in observations if o.measured > 0 and o.terms and all(name in before.index for name in o.terms)]
    if not runs:
        return before
    size = len(before.names)
    precision = _inverse(before.log_covariance)
    state = Calibration(before.names, before.log_means, before.log_covariance)
    for _ in range(_ROUNDS):
        matrix = [list(row) for row in precision]
        offsets = [m - n for m, n in zip(before.log_means, state.log_means, strict=True)]
        right = [sum(precision[i][j] * offsets[j] for j in range(size)) for i in range(size)]
        for run in runs:
            _add(run, state, noises[run.quantity], matrix, right)
        step = solve_positive(matrix, right)
        longest = max(abs(s) for s in step)
        scale = min(1.0, _LONGEST_STEP / longest) if longest else 1.0
        means = tuple(m + scale * s for m, s in zip(state.log_means, step, strict=True))
        state = Calibration(state.names, means, state.log_covariance)
        if longest < _SETTLED:
            break
    covariance = tuple(tuple(row) for row in _inverse(matrix))
    return Calibration(state.names, state.log_means, covariance, (*before.observations, *runs), machine)


def _add(run: Observation, state: Calibration, noise: Noise, matrix: list[list[float]], right: list[float]) -> None:
    """Add one run's weighted share to the normal equations."""
    residual = math.log(run.measured / total(run.terms, state))
    variance = noise.repetition_variance(run.measured) + noise.formula_log_sd**2
    weight = (DEGREES_OF_FREEDOM + 1) / (DEGREES_OF_FREEDOM + residual**2 / variance) / variance
    gradient = log_gradient(run.terms, state)
    for i, a in gradient:
        right[i] += weight * a * residual
        for j, b in gradient:
            matrix[i][j] += weight * a * b


def _inverse(matrix: Iterable[Iterable[float]]) -> list[list[float]]:
    """Inverse of a symmetric positive definite matrix, column by column."""
    rows = [list(row) for row in matrix]
    size = len(rows)
    columns = [solve_positive(rows, [1.0 if i == j else 0.0 for i in range(size)]) for j in range(size)]
    return [[columns[j][i] for j in range(size)] for i in range(size)]
