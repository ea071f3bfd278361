"""A benchmark's score with its uncertainty."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline_math.statistics import ratio_interval, wilson_interval


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
    low, high = wilson_interval(successes, n)
    return Score(successes / n, low, high, n)


def ratio(numerators: Sequence[float], denominators: Sequence[float], n: int) -> Score:
    """sum(numerators) / sum(denominators) over blocks, with the interval of a ratio of block totals.

    Blocks are taken as independent (delta method); with a single block the interval is the value itself.
    """
    found = ratio_interval(numerators, denominators)
    return Score(found.value, found.low, found.high, n)
