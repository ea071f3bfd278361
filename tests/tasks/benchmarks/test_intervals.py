"""Score intervals against known values and at their ends."""

import math

import pytest

from tasks.benchmarks.intervals import ratio, share


def test_wilson_interval_equals_the_published_example():
    """8 of 10: 0.4902 to 0.9433 (statsmodels.stats.proportion.proportion_confint, method wilson)."""
    score = share(8, 10)
    assert (round(score.low, 4), round(score.high, 4)) == (0.4902, 0.9433)


@pytest.mark.parametrize("n", [1, 7, 250])
def test_interval_stays_within_0_and_1_and_holds_the_value(n):
    for successes in range(n + 1):
        score = share(successes, n)
        assert 0.0 <= score.low <= score.value <= score.high <= 1.0
    assert share(n, n).low < 1.0
    assert share(0, n).high > 0.0


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="allowed"):
        share(successes, n)


def test_ratio_weights_blocks_by_their_size():
    """Catches a mean of means: one long block must count more than one short block."""
    score = ratio([10.0, 90.0], [5.0, 15.0], n=20)
    assert score.value == pytest.approx(5.0)
    assert score.low < 5.0 < score.high
    equal = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], n=6)
    assert math.isclose(equal.low, equal.high)
