"""Step 7, evaluation: error bars (statistics, not cost) and what a benchmark costs."""

import math
from collections.abc import Iterable

from pipeline_math.interval import Z_95

DETECTION_FACTOR = 2.8
"""z(0.975) + z(0.80): a difference this many standard errors wide is found with 80 % power."""
CORE_RUN_SD = 0.0052
"""Standard deviation of CORE between seven identical runs of karpathy/nanochat, 0.2512 to 0.2677."""


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Bounds of a success rate, by default at 95 % (Wilson 1927); right for rates near 0 and 1, where +-SE is not.

    (0, 1) when nothing was counted. ValueError unless 0 <= successes <= n.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes} of n={n}: allowed are 0 <= successes <= n")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def standard_error(rate: float, n: int) -> float:
    """sqrt(p (1 - p) / n) of a success rate."""
    return math.sqrt(rate * (1.0 - rate) / n)


def paired_standard_error(first: Iterable[float], second: Iterable[float]) -> float:
    """Standard error of the mean difference of two models on the same items (Miller 2024, arXiv 2411.00640)."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n = len(differences)
    if n < 2:
        raise ValueError(f"a paired standard error needs at least 2 items, found {n}")
    mean = sum(differences) / n
    return math.sqrt(sum((x - mean) ** 2 for x in differences) / (n - 1) / n)


def minimum_detectable_difference(rate: float, n: int, correlation: float = 0.0) -> float:
    """Smallest difference between two models found with 80 % power at alpha 0.05, as a share.

    2.8 sqrt(2 (1 - rho)) SE; `correlation` rho of the two models' answers is 0 for different items.
    """
    return DETECTION_FACTOR * math.sqrt(2.0 * (1.0 - correlation)) * standard_error(rate, n)


def core_noise_drop(run_sd: float = CORE_RUN_SD) -> float:
    """Drop in one pair of runs that is still noise at a one-sided 5 %, 1.645 sd sqrt 2."""
    return 1.645 * run_sd * math.sqrt(2.0)


def centred_accuracy(accuracy: float, baseline: float) -> float:
    """(acc - baseline) / (1 - baseline): 0 is guessing, 1 perfect. CORE (arXiv 2406.11794) is its mean over tasks."""
    return (accuracy - baseline) / (1.0 - baseline)


def benchmark_flops(scaling_parameters: float, items: int, tokens_per_item: float, passes_per_item: int = 1) -> float:
    """2 N per token and pass; `passes_per_item` is the number of options unless they share a prefix."""
    return 2.0 * scaling_parameters * items * tokens_per_item * passes_per_item


def bits_per_byte(nats: float, target_bytes: float) -> float:
    """Sum of nats over ln 2 times the bytes of the targets; specials belong in neither sum."""
    return nats / (math.log(2.0) * target_bytes)
