"""Error bars against published values, closed forms and simulation."""

import math
import random

import pytest

from pipeline_math.statistics import (
    clustered_standard_error,
    detection_factor,
    items_needed,
    mean_standard_error,
    minimum_detectable_difference,
    noise_drop,
    normal_quantile,
    paired_bootstrap,
    paired_standard_error,
    ratio_interval,
    ratio_standard_error,
    standard_error,
    wilson_interval,
    zero_successes_upper_bound,
)

BENCHMARKS = [
    (0.1, 164, 2.3, 9.3),
    (0.05, 1319, 0.60, 2.4),
    (0.3, 1172, 1.34, 5.3),
    (0.4, 2376, 1.01, 4.0),
    (0.3, 14042, 0.39, 1.5),
    (0.3, 500, 2.05, 8.1),
]
"""Success rate, items, standard error and unpaired minimum detectable difference in percentage points."""


def digits(text_value):
    """Half of the last printed digit of a number such as 2.05."""
    decimals = len(str(text_value).partition(".")[2])
    return 0.5 * 10**-decimals + 1e-9


@pytest.mark.parametrize(("rate", "n", "error_pp", "detectable_pp"), BENCHMARKS)
def test_error_bars_of_benchmarks(rate, n, error_pp, detectable_pp):
    assert 100 * standard_error(rate, n) == pytest.approx(error_pp, abs=digits(error_pp))
    assert 100 * minimum_detectable_difference(rate, n) == pytest.approx(detectable_pp, abs=digits(detectable_pp))
    paired = minimum_detectable_difference(rate, n, correlation=0.7)
    assert paired / minimum_detectable_difference(rate, n) == pytest.approx(0.55, abs=0.005)


@pytest.mark.parametrize(("rate", "n", "error_pp", "detectable_pp"), BENCHMARKS)
def test_items_needed_inverts_the_detectable_difference(rate, n, error_pp, detectable_pp):
    for correlation in (0.0, 0.7):
        difference = minimum_detectable_difference(rate, n, correlation)
        assert items_needed(rate, difference, correlation) == n
        assert (
            items_needed(rate, difference * 1.001, correlation)
            <= n
            < items_needed(rate, difference / 1.01, correlation)
        )


def test_opposite_models_differ_by_twice_what_equal_ones_would():
    assert minimum_detectable_difference(0.3, 100, -1.0) == pytest.approx(
        math.sqrt(2) * minimum_detectable_difference(0.3, 100)
    )
    for correlation in (-1.01, 1.01):
        with pytest.raises(ValueError, match="correlation"):
            minimum_detectable_difference(0.3, 100, correlation)


@pytest.mark.parametrize("probability", [0, 1])
def test_quantiles_of_certainty_are_refused_by_name(probability):
    with pytest.raises(ValueError, match=f"probability={probability}: allowed"):
        normal_quantile(probability)


def test_detection_factor_is_2_8_and_grows_with_power():
    assert detection_factor() == pytest.approx(2.80, abs=0.005)
    assert detection_factor(power=0.9) > detection_factor()


def test_a_detectable_difference_is_detected_in_four_of_five_experiments():
    """Simulation of its own definition: two models on different items, one MDD apart around `rate`, alpha 0.05."""
    generator, n, rate, experiments = random.Random(0), 400, 0.3, 1000
    difference = minimum_detectable_difference(rate, n)
    better, worse = rate + difference / 2, rate - difference / 2
    found = 0
    for _ in range(experiments):
        first = sum(generator.random() < better for _ in range(n)) / n
        second = sum(generator.random() < worse for _ in range(n)) / n
        error = math.hypot(standard_error(first, n), standard_error(second, n))
        found += abs(first - second) > normal_quantile(0.975) * error
    assert found / experiments == pytest.approx(0.8, abs=0.04)  # three standard errors of the simulation


def test_wilson_interval_reference_and_edges():
    """10 of 20 gives 0.299 to 0.701 and 8 of 10 0.4902 to 0.9433 (statsmodels, proportion_confint, method wilson)."""
    assert wilson_interval(10, 20) == (pytest.approx(0.2993, abs=5e-5), pytest.approx(0.7007, abs=5e-5))
    assert wilson_interval(8, 10) == (pytest.approx(0.4902, abs=5e-5), pytest.approx(0.9433, abs=5e-5))
    assert wilson_interval(0, 100) == (0.0, pytest.approx(3.8415 / 103.8415, abs=1e-4))
    assert wilson_interval(100, 100)[1] == 1.0
    assert wilson_interval(1, 1) == (pytest.approx(1 / (1 + 3.8415), abs=1e-4), 1.0)
    for successes in range(21):
        low, high = wilson_interval(successes, 20)
        assert 0 <= low <= successes / 20 <= high <= 1


def test_wilson_bounds_solve_their_defining_equation():
    """|p - bound| = z sqrt(bound (1 - bound) / n) at both ends."""
    for bound in wilson_interval(7, 30):
        assert abs(7 / 30 - bound) == pytest.approx(1.959964 * standard_error(bound, 30), rel=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (0, 0), (-1, 2), (math.nan, 2)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes="):
        wilson_interval(successes, n)


def test_nothing_of_n_is_at_most_three_in_n():
    for n in (30, 164, 1319):
        assert zero_successes_upper_bound(n) == pytest.approx(3 / n, rel=0.05)
    assert (1 - zero_successes_upper_bound(10)) ** 10 == pytest.approx(0.05)


def test_paired_error_is_that_of_the_differences():
    assert paired_standard_error([1, 0, 1], [1, 0, 1]) == 0
    assert paired_standard_error([1, 0, 1, 0], [0, 0, 0, 0]) == pytest.approx(math.sqrt(1 / 3 / 4))
    first, second = [0.1, 0.9, 0.4, 0.6, 0.3], [0.2, 0.7, 0.1, 0.9, 0.3]
    n = len(first)
    means = sum(first) / n, sum(second) / n
    variance = sum((x - means[0]) ** 2 for x in first) / (n - 1) + sum((x - means[1]) ** 2 for x in second) / (n - 1)
    covariance = sum((x - means[0]) * (y - means[1]) for x, y in zip(first, second, strict=True)) / (n - 1)
    assert paired_standard_error(first, second) == pytest.approx(math.sqrt((variance - 2 * covariance) / n))


def correlated_answers(n, seed=0):
    """Right/wrong answers of two models that agree on most items, the first about 10 points better."""
    generator = random.Random(seed)
    hard = [generator.random() for _ in range(n)]
    return [float(h + generator.gauss(0, 0.2) < 0.5) for h in hard], [
        float(h + generator.gauss(0, 0.2) < 0.4) for h in hard
    ]


def test_paired_bootstrap_agrees_with_the_normal_interval():
    first, second = correlated_answers(500)
    found = paired_bootstrap(first, second, resamples=4000)
    half = normal_quantile(0.975) * paired_standard_error(first, second)
    assert found.value == pytest.approx(sum(first) / 500 - sum(second) / 500)
    # Bounds of 4,000 resamples are known to a few per cent of the half width.
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_paired_bootstrap_is_repeatable_narrower_than_unpaired_and_exact_for_constant_differences():
    first, second = correlated_answers(300)
    assert paired_bootstrap(first, second, seed=1) == paired_bootstrap(first, second, seed=1)
    assert paired_bootstrap(first, second, seed=1) != paired_bootstrap(first, second, seed=2)
    found = paired_bootstrap(first, second)
    shuffled = random.Random(0).sample(second, len(second))
    apart = paired_bootstrap(first, shuffled)
    assert found.high - found.low < apart.high - apart.low
    constant = paired_bootstrap([0.5, 1.5, 2.5], [0.0, 1.0, 2.0])
    assert (constant.value, constant.low, constant.high) == (0.5, 0.5, 0.5)


def test_paired_bootstrap_refuses_what_it_cannot_answer():
    with pytest.raises(ValueError, match="at least 40"):
        paired_bootstrap([0, 1], [1, 0], resamples=39)
    paired_bootstrap([0, 1], [1, 0], resamples=40)
    with pytest.raises(ValueError, match="same items"):
        paired_bootstrap([0, 1], [1, 0, 1])
    with pytest.raises(ValueError, match="at least 2"):
        paired_bootstrap([0], [1])


def test_clustered_error_equals_the_plain_one_for_clusters_of_one():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert clustered_standard_error(values, range(5)) == pytest.approx(mean_standard_error(values))


def test_copies_of_an_item_add_no_information():
    """Four identical answers per question: the error is that of the questions, twice the naive one (nearly)."""
    questions = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    values = [x for x in questions for _ in range(4)]
    clusters = [i for i in range(8) for _ in range(4)]
    assert clustered_standard_error(values, clusters) == pytest.approx(mean_standard_error(questions))
    assert mean_standard_error(values) < 0.5 * clustered_standard_error(values, clusters)


def test_clustered_error_follows_the_published_sum_over_pairs():
    """Miller 2024: SE^2 = sum of residual products within clusters / n^2, before the small-sample factor G/(G-1)."""
    values, clusters = [0.1, 0.9, 0.4, 0.6, 0.3, 0.8], "aabbbc"
    mean = sum(values) / 6
    products = sum(
        (values[i] - mean) * (values[j] - mean) for i in range(6) for j in range(6) if clusters[i] == clusters[j]
    )
    assert clustered_standard_error(values, clusters) == pytest.approx(math.sqrt(products * 3 / 2) / 6)
    assert clustered_standard_error([1.0, 1.0, 0.0], "aab") > 0  # two clusters are enough
    with pytest.raises(ValueError, match="clusters"):
        clustered_standard_error([1, 2], ["a", "a"])


def test_ratio_weights_blocks_by_their_size():
    """Catches a mean of means: one long block must count more than one short block."""
    found = ratio_interval([10.0, 90.0], [5.0, 15.0])
    assert found.value == pytest.approx(5.0)
    assert found.low < 5.0 < found.high
    equal = ratio_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert equal.low == pytest.approx(equal.high)
    alone = ratio_interval([3.0], [2.0])
    assert (alone.value, alone.low, alone.high) == (1.5, 1.5, 1.5)
    for bad in ([1.0, -1.0], [0.0, 0.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match="denominators"):
            ratio_interval([1.0, 1.0], bad)


def test_ratio_error_covers_repeated_samples():
    """95 % intervals of a ratio over 30 blocks hold the true ratio in 90-98 % of 400 experiments."""
    generator, hits = random.Random(3), 0
    for _ in range(400):
        sizes = [generator.uniform(1, 3) for _ in range(30)]
        found = ratio_interval([2 * size + generator.gauss(0, 1) for size in sizes], sizes)
        hits += found.low <= 2 <= found.high
    assert 0.90 <= hits / 400 <= 0.98
    assert ratio_standard_error([2.0, 4.0], [1.0, 2.0]) == 0


def test_noise_of_a_pair_of_runs():
    """1.645 * sd * sqrt 2 of the seven public CORE runs is 0.0122 (see test_evaluation_cost)."""
    assert noise_drop(1.0) == pytest.approx(1.645 * math.sqrt(2), abs=1e-3)
    assert noise_drop(0.01) == pytest.approx(noise_drop(1.0) / 100)
    generator = random.Random(4)
    drops = [generator.gauss(0, 1) - generator.gauss(0, 1) for _ in range(20000)]
    assert sum(d > noise_drop(1.0) for d in drops) / 20000 == pytest.approx(0.05, abs=0.005)
