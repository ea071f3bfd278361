"""A benchmark's score with its uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Score:
    """A value with its 95 % interval and the number of items (or bytes) behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int]:
        return {key: round(value, 6) for key, value in asdict(self).items()}


def share(successes: int, n: int) -> Score:
    """A share of n items with Wilson's interval, which stays within 0..1 and is honest near both ends.

    ValueError when n is 0 or successes are not within 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} items; allowed: at least one item, successes within 0..n")
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At the ends the formula meets 0 and 1 exactly; floating point would miss them by an ulp.
    return Score(p, 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half, n)


def ratio(numerators: Sequence[float], denominators: Sequence[float], n: int) -> Score:
    """sum(numerators) / sum(denominators) over blocks, with the interval of a ratio of block totals.

    Blocks are taken as independent (delta method); with a single block the interval is the value itself.
    """
    blocks, total = len(numerators), sum(denominators)
    if blocks == 0 or total <= 0:
        raise ValueError("a ratio needs at least one block with a positive denominator")
    value = sum(numerators) / total
    if blocks == 1:
        return Score(value, value, value, n)
    residuals = [a - value * b for a, b in zip(numerators, denominators, strict=True)]
    error = math.sqrt(sum(r * r for r in residuals) * blocks / (blocks - 1)) / total
    return Score(value, value - Z_95 * error, value + Z_95 * error, n)
