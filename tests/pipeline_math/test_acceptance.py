"""Thresholds: bad ones are refused with the reason, good ones are held against measurements and forecasts."""

import math
import statistics

import pytest

from pipeline_math.acceptance import (
    METRICS,
    RUN,
    Threshold,
    check,
    forecast_of,
    miss_probability,
    reachable,
    share_above,
)
from pipeline_math.interval import Interval, lognormal_interval

MEASURED = {
    "pretrain": {"bits_per_byte": {"value": 1.5, "low": 1.48, "high": 1.52}},
    "sft": {"arithmetic": {"value": 0.90, "low": 0.86, "high": 0.93}},
    "rl": {"arithmetic": {"value": 0.95, "low": 0.92, "high": 0.97}, "loss_rise_nats": {"value": 0.3}},
    RUN: {"wall_clock_hours": {"value": 0.11}},
}
FORECAST = {
    "predictions": {
        "pretrain": {"bits_per_byte": lognormal_interval(1.5, 0.05).as_dict()},
        "inference": {
            "ttft_seconds": lognormal_interval(0.005, 0.4).as_dict(),
            "seconds_per_output_token": lognormal_interval(0.0015, 0.4).as_dict(),
        },
    },
    "total": {"seconds_interval": lognormal_interval(420, 0.2).as_dict()},
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "arithmetik", "at_least": 0.9}, "allowed: bits_per_byte, multiple_choice, arithmetic"),
        ({"metric": "arithmetic"}, "neither at_least nor at_most"),
        ({"metric": "arithmetic", "at_least": math.nan}, r"arithmetic\.at_least=nan: allowed are finite"),
        ({"metric": "ttft_seconds", "at_most": math.inf}, "finite"),
        ({"metric": "ttft_seconds", "at_most": -1.0}, "at least 0"),
        ({"metric": "arithmetic", "at_least": 90}, r"90 % is 0\.9"),
        ({"metric": "bits_per_byte", "at_least": 2.0, "at_most": 1.0}, "nothing passes"),
        ({"metric": "bits_per_byte", "at_most": 2.0, "checkpoint": "pretrian"}, "allowed: selected, pretrain, mid"),
        ({"metric": "arithmetic", "at_least": 0.5, "checkpoint": "pretrain"}, "a base model gives no replies"),
        ({"metric": "wall_clock_hours", "at_most": 1, "checkpoint": "sft"}, "belongs to the run"),
    ],
)
def test_a_threshold_that_cannot_be_meant_is_refused_with_the_reason(fields, message):
    with pytest.raises(ValueError, match=message):
        Threshold(**fields)


def test_equal_bounds_are_allowed():
    (low, high) = check(Threshold("arithmetic", 0.95, 0.95), MEASURED, "rl")
    assert low.passed
    assert high.passed


@pytest.mark.parametrize(
    ("threshold", "passed", "straddles", "sentence"),
    [
        # A value at its bound passes.
        (Threshold("arithmetic", at_least=0.95), True, True, "arithmetic of rl >= 0.95: 0.95 [0.92, 0.97], within"),
        (Threshold("arithmetic", at_least=0.9, checkpoint="sft"), True, True, "arithmetic of sft >= 0.9: 0.9 ["),
        (Threshold("arithmetic", at_least=0.5), True, False, "arithmetic of rl >= 0.5: 0.95 [0.92, 0.97]"),
        (Threshold("arithmetic", at_least=0.96), False, True, "within the error bar"),
        (Threshold("arithmetic", at_least=0.99), False, False, "arithmetic of rl >= 0.99: 0.95"),
        (Threshold("bits_per_byte", at_most=1.65, checkpoint="pretrain"), True, False, "bits_per_byte of pretrain <="),
        # Without an interval nothing can straddle.
        (Threshold("loss_rise_nats", at_most=0.3), True, None, "loss_rise_nats of rl <= 0.3: 0.3"),
        (Threshold("wall_clock_hours", at_most=0.1), False, None, "wall_clock_hours <= 0.1: 0.11"),
    ],
)
def test_a_check_says_value_interval_outcome_and_whether_chance_could_turn_it(threshold, passed, straddles, sentence):
    (found,) = check(threshold, MEASURED, "rl")
    assert (found.passed, found.straddles) == (passed, straddles)
    assert sentence in found.sentence()
    assert ("within the error bar" in found.sentence()) is bool(straddles)


def test_selected_follows_the_gate():
    threshold = Threshold("arithmetic", at_least=0.93)
    assert check(threshold, MEASURED, "rl")[0].passed
    assert not check(threshold, MEASURED, "sft")[0].passed


@pytest.mark.parametrize(
    ("low", "passed", "straddles"),
    [(0.004, True, True), (0.0075, True, False), (0.0076, False, False)],  # the middle one starts at the bound
)
def test_other_load_alone_does_not_miss_a_latency(low, passed, straddles):
    """Two cores with three other busy processes: a median of 0.15 s, and replies of 4 ms among them."""
    measured = {"rl": {"ttft_seconds": {"value": 0.15, "low": low, "high": 0.29}}}
    (one,) = check(Threshold("ttft_seconds", at_most=0.0075), measured, "rl")
    assert (one.passed, one.straddles) == (passed, straddles)
    (least,) = check(Threshold("ttft_seconds", at_least=0.2), measured, "rl")
    assert not least.passed


@pytest.mark.parametrize("found", [{}, {"value": math.nan}, {"value": None}, {"value": "0.99"}])
def test_what_was_not_measured_never_passes(found):
    """Catches NaN slipping through a comparison."""
    for threshold in (Threshold("arithmetic", at_least=0.0), Threshold("arithmetic", at_most=1.0)):
        (one,) = check(threshold, {"rl": {"arithmetic": found}}, "rl")
        assert not one.passed
        assert one.value is None
        assert one.sentence().endswith("not measured")
    assert not check(Threshold("arithmetic", at_least=0.0), {}, "rl")[0].passed


def test_every_metric_has_words_and_a_forecast_only_where_one_exists():
    assert len(METRICS) == 9
    for metric in METRICS.values():
        assert metric.unit
        assert metric.meaning
        assert metric.advice
    forecast = {name for name in METRICS if forecast_of(name, FORECAST)}
    assert forecast == {"bits_per_byte", "ttft_seconds", "seconds_per_output_token", "wall_clock_hours"}
    assert not any(forecast_of(name, {}) for name in METRICS)


def test_hours_come_from_the_seconds_of_all_stages():
    hours = forecast_of("wall_clock_hours", FORECAST)
    assert hours is not None
    assert hours.value == pytest.approx(420 / 3600)


@pytest.mark.parametrize("sd", [0.05, 0.4])
def test_share_above_is_the_tail_of_the_lognormal(sd):
    """Reference: statistics.NormalDist of the logarithm, and the definition of a 90 % interval."""
    interval = lognormal_interval(2.0, sd)
    for bound in (1.5, 2.0, 3.0):
        expected = 1 - statistics.NormalDist(math.log(2.0), sd).cdf(math.log(bound))
        assert share_above(interval, bound) == pytest.approx(expected, abs=1e-12)
    assert share_above(interval, interval.low) == pytest.approx(0.95)
    assert share_above(interval, interval.high) == pytest.approx(0.05)


def test_share_above_of_a_skewed_and_of_an_exact_interval():
    skewed = Interval(2.0, 1.5, 4.0)
    assert share_above(skewed, 1.5) == pytest.approx(0.95)
    assert share_above(skewed, 4.0) == pytest.approx(0.05)
    assert share_above(skewed, 0.0) == 1.0
    exact = Interval(2.0, 2.0, 2.0)
    assert [share_above(exact, bound) for bound in (1.9, 2.0, 2.1)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("interval", [Interval(1, 0, 2), Interval(1, 2, 3), Interval(1, 0.5, math.nan)])
def test_share_above_refuses_what_is_no_lognormal_interval(interval):
    with pytest.raises(ValueError, match="0 < low <= value <= high"):
        share_above(interval, 1.0)


@pytest.mark.parametrize(
    ("threshold", "warned"),
    [
        (Threshold("bits_per_byte", at_most=1.65, checkpoint="pretrain"), None),
        (
            Threshold("bits_per_byte", at_most=1.4),
            "bits_per_byte at most 1.4 bits/byte; 1.5 (1.38 to 1.63) of the base",
        ),
        (Threshold("wall_clock_hours", at_most=0.1), "0.117 (0.084 to 0.162) expected: missed with probability 78%"),
        (Threshold("ttft_seconds", at_most=0.001), "missed with probability 100%"),
        (Threshold("seconds_per_output_token", at_least=0.002, at_most=0.02), "at least 0.002 and at most 0.02 s"),
        (Threshold("arithmetic", at_least=0.99), None),  # nothing forecasts it
    ],
)
def test_the_plan_is_warned_of_what_will_probably_be_missed(threshold, warned):
    warning = reachable(threshold, FORECAST)
    assert warning is None if warned is None else warned in str(warning)


def test_the_probability_counts_both_sides():
    both = Threshold("bits_per_byte", at_least=1.45, at_most=1.55)
    forecast = forecast_of("bits_per_byte", FORECAST)
    assert forecast is not None
    expected = 1 - share_above(forecast, 1.45) + share_above(forecast, 1.55)
    assert miss_probability(both, FORECAST) == pytest.approx(expected)
    assert miss_probability(Threshold("arithmetic", at_least=0.9), FORECAST) is None


def test_a_sum_whose_interval_reaches_zero_still_warns_but_names_no_probability():
    """A sum of independent stages is cut off at 0; the logarithm of its lower bound must not stop the plan."""
    forecast = {"total": {"seconds_interval": {"value": 3600.0, "low": 0.0, "high": 9000.0}}}
    assert miss_probability(Threshold("wall_clock_hours", at_most=0.5), forecast) is None
    warning = reachable(Threshold("wall_clock_hours", at_most=0.5), forecast)
    assert warning is not None
    assert "probability" not in warning
    assert reachable(Threshold("wall_clock_hours", at_most=1.5), forecast) is None
