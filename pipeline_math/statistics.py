"""Error bars: how far a score, a difference of scores or a ratio may be from what it estimates.

Statistics, not a cost. Intervals are two-sided; items are independent unless a function names clusters or blocks.
Sources: Wilson 1927; Efron 1979 (bootstrap); Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640) for pairs,
clusters and sample sizes.
"""

import math
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from pipeline_math.checks import checked, not_negative, positive, share, whole
from pipeline_math.interval import Z_95


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its interval; all in the unit of the value."""

    value: float
    low: float
    high: float


@checked
def normal_quantile(probability: float) -> float:
    """z with P(Z <= z) = probability for a standard normal Z; 0.975 gives 1.96. ValueError at 0 and 1."""
    _open_share(probability=probability)
    return NormalDist().inv_cdf(probability)


@checked
def wilson_interval(successes: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Bounds of a success rate, by default at 95 % (Wilson 1927); right for rates near 0 and 1, where +-SE is not.

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). ValueError unless 0 <= successes <= n and n >= 1.
    Left out: clusters. For 0 of n the upper bound is near z^2/n; see `zero_successes_upper_bound` for one side.
    """
    positive(z=z)
    if n < 1 or successes > n:
        raise ValueError(f"successes={successes} of n={n}: allowed are 0 <= successes <= n, at least one item")
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the formula meets 0 and 1 exactly; floating point would miss them by an ulp.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


@checked
def zero_successes_upper_bound(n: int, confidence: float = 0.95) -> float:
    """Largest success rate that shows 0 of n with probability 1 - confidence: 1 - (1 - confidence)^(1/n), about 3/n."""
    whole(1, n=n)
    share(confidence=confidence)
    return 1.0 - (1.0 - confidence) ** (1.0 / n)


@checked
def standard_error(rate: float, n: int) -> float:
    """sqrt(p (1 - p) / n) of a success rate, as a share."""
    whole(1, n=n)
    share(rate=rate)
    return math.sqrt(rate * (1.0 - rate) / n)


def mean_standard_error(values: Iterable[float]) -> float:
    """Standard error of the mean of independent values, sd / sqrt n with n - 1 in the sd. At least two values."""
    values = _finite("values", values, at_least=2)
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1) / len(values))


def paired_standard_error(first: Iterable[float], second: Iterable[float]) -> float:
    """Standard error of the mean difference of two models on the same items (arXiv 2411.00640).

    sqrt((Var a + Var b - 2 Cov) / n), which is the standard error of the item-wise differences.
    """
    return mean_standard_error(_differences(first, second))


def paired_bootstrap(
    first: Iterable[float],
    second: Iterable[float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of first - second with its percentile bootstrap interval: items are drawn with replacement, in pairs.

    The same seed gives the same interval. Bounds are order statistics of the resampled means, so more than
    2 / (1 - confidence) resamples are needed. Left out: clusters, and the bias correction of BCa.
    """
    _open_share(confidence=confidence)
    whole(0, seed=seed)
    whole(1, resamples=resamples)
    tail = (1.0 - confidence) / 2.0
    if resamples * tail < 1.0:
        raise ValueError(f"resamples={resamples}: allowed are whole numbers of at least {math.ceil(1.0 / tail - 1e-9)}")
    differences = _differences(first, second)
    n, generator = len(differences), random.Random(seed)
    means = sorted(math.fsum(generator.choices(differences, k=n)) / n for _ in range(resamples))
    skipped = int(resamples * tail)
    return Estimate(math.fsum(differences) / n, means[skipped], means[resamples - 1 - skipped])


def clustered_standard_error(values: Iterable[float], clusters: Iterable[Hashable]) -> float:
    """Standard error of a mean whose items come in groups, such as questions on one text (arXiv 2411.00640).

    sqrt(G/(G-1) sum_g (sum_{i in g} (x_i - mean))^2) / n over G clusters. The factor G/(G-1) makes it equal to
    `mean_standard_error` where every item is its own cluster. At least two clusters.
    """
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, float] = {}
    for value, cluster in zip(_finite("values", values, at_least=2), clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
        sizes[cluster] = sizes.get(cluster, 0.0) + 1.0
    if len(sums) < 2:
        raise ValueError(f"clusters: found {len(sums)}, allowed are at least 2")
    return ratio_standard_error(list(sums.values()), list(sizes.values()))


def ratio_standard_error(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Standard error of sum(numerators) / sum(denominators) over independent blocks (delta method).

    sqrt(B/(B-1) sum_b (a_b - r d_b)^2) / sum d, r the ratio. At least two blocks, denominators above 0 in total.
    """
    numerators = _finite("numerators", numerators, at_least=2)
    denominators = _finite("denominators", denominators, at_least=2)
    total = _total_of(denominators)
    value, blocks = math.fsum(numerators) / total, len(numerators)
    squares = math.fsum((a - value * d) ** 2 for a, d in zip(numerators, denominators, strict=True))
    return math.sqrt(squares * blocks / (blocks - 1)) / total


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], z: float = Z_95) -> Estimate:
    """sum(numerators) / sum(denominators) -+ z standard errors over blocks, such as bits per byte over documents.

    One block says nothing about its own spread: its interval is the value itself.
    """
    positive(z=z)
    numerators = _finite("numerators", numerators, at_least=1)
    denominators = _finite("denominators", denominators, at_least=1)
    value = math.fsum(numerators) / _total_of(denominators)
    half = z * ratio_standard_error(numerators, denominators) if len(numerators) > 1 else 0.0
    return Estimate(value, value - half, value + half)


@checked
def detection_factor(significance: float = 0.05, power: float = 0.8) -> float:
    """z(1 - significance/2) + z(power): standard errors a true difference must span to be found; 2.80 by default."""
    _open_share(significance=significance, power=power)
    return normal_quantile(1.0 - significance / 2.0) + normal_quantile(power)


def minimum_detectable_difference(
    rate: float, n: int, correlation: float = 0.0, significance: float = 0.05, power: float = 0.8
) -> float:
    """Smallest difference between two models that n items find, as a share: 2.80 sqrt(2 (1 - rho)) SE.

    `correlation` rho of the two models' answers to the same items; 0 where each model has its own items.
    `rate` is the mean of both success rates (arXiv 2411.00640). Left out: that their two variances differ.
    """
    spread = _pair_spread(correlation)
    return detection_factor(significance, power) * spread * standard_error(rate, n)


def items_needed(
    rate: float, difference: float, correlation: float = 0.0, significance: float = 0.05, power: float = 0.8
) -> int:
    """Fewest items that find a true `difference` (a share): 2 (1 - rho) p (1 - p) (2.80 / difference)^2, rounded up.

    The inverse of `minimum_detectable_difference`, at least 1.
    """
    positive(difference=difference)
    share(difference=difference)
    errors = minimum_detectable_difference(rate, 1, correlation, significance, power) / difference
    return max(1, math.ceil(errors**2 - 1e-9))


@checked
def noise_drop(run_sd: float, confidence: float = 0.95) -> float:
    """Drop between two single runs that training noise alone exceeds with probability 1 - confidence: z sd sqrt 2.

    `run_sd` is the standard deviation between runs that differ in nothing but their seed; the unit is that of run_sd.
    """
    _open_share(confidence=confidence)
    return normal_quantile(confidence) * run_sd * math.sqrt(2.0)


def _open_share(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < 1:  # refuses NaN too
            raise ValueError(f"{name}={value}: allowed are shares between 0 and 1, without the ends")


def _pair_spread(correlation: float) -> float:
    if not -1 <= correlation <= 1:  # refuses NaN too
        raise ValueError(f"correlation={correlation}: allowed are numbers from -1 to 1")
    return math.sqrt(2.0 * (1.0 - correlation))


def _finite(name: str, values: Iterable[float], at_least: int) -> list[float]:
    found = list(values)
    if len(found) < at_least:
        raise ValueError(f"{name}: found {len(found)} values, allowed are at least {at_least}")
    for place, value in enumerate(found):
        if not math.isfinite(value):
            raise ValueError(f"{name}[{place}]={value}: allowed are finite numbers")
    return found


def _differences(first: Iterable[float], second: Iterable[float]) -> list[float]:
    ours, theirs = _finite("first", first, at_least=2), _finite("second", second, at_least=2)
    if len(ours) != len(theirs):
        raise ValueError(f"first has {len(ours)} items, second {len(theirs)}: pairs need the same items in both")
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _total_of(denominators: Sequence[float]) -> float:
    for place, value in enumerate(denominators):
        not_negative(**{f"denominators[{place}]": value})
    total = math.fsum(denominators)
    positive(sum_of_denominators=total)
    return total
