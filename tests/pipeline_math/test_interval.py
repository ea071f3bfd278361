"""Intervals of predictions: sums, units, and what measurements make of a prior."""

import math

import pytest

from pipeline_math.interval import Interval, add_independent, log_posterior, lognormal_interval


def test_posterior_after_twenty_steps():
    """Prior 0.46 +- 10 %, twenty steps at 0.42 +- 0.5 %: the data wins, sd of the logarithm 0.0011."""
    mean, log_sd = log_posterior(0.46, 0.10, 0.42, 0.005, 20)
    assert mean == pytest.approx(0.4200, abs=5e-5)
    assert log_sd == pytest.approx(0.0011, abs=5e-5)
    assert log_posterior(0.46, 0.10, 1.0, 1.0, 0) == (0.46, 0.10)


def test_intervals_add_and_scale():
    one = lognormal_interval(10, 0.1)
    assert one.low * one.high == pytest.approx(100)
    both = add_independent([one, one])
    assert both.value == 20
    assert both.high - 20 == pytest.approx((one.high - 10) * math.sqrt(2))
    assert one.scaled(2) == Interval(20, 2 * one.low, 2 * one.high)
