"""A spike shows, a falling curve does not, and ordinary noise stays small."""

import math
import random
import statistics

import pytest

from pipeline_math.stability import largest_loss_rise, smoothing_window


def falling(points, noise=0.0, seed=0):
    """A curve like that of pretraining: fast from 8, then slowly to about 3."""
    draw = random.Random(seed)
    return [3 + 5 * math.exp(-i / (0.15 * points)) + draw.gauss(0, noise) for i in range(points)]


def test_a_curve_that_only_falls_has_no_rise():
    assert largest_loss_rise(falling(200)) == 0.0
    assert largest_loss_rise([2.0]) == 0.0


def test_a_step_up_counts_in_full():
    """Reference by hand: 100 points at 2, then 100 at 3."""
    assert largest_loss_rise([2.0] * 100 + [3.0] * 100) == pytest.approx(1.0)


def test_a_slow_climb_counts_from_its_lowest_point():
    """Catches a comparison with a running mean, which follows a slow divergence and never sees it."""
    climb = [2 + i / 200 for i in range(201)]
    half_window = (smoothing_window(len(climb)) - 1) / 2
    assert largest_loss_rise(climb) == pytest.approx(1.0 - 2 * half_window / 200)


def test_one_odd_point_counts_for_its_share_of_the_window():
    curve = [2.0] * 200
    curve[120] += 1.0
    assert smoothing_window(200) == 10
    assert largest_loss_rise(curve) == pytest.approx(0.1)


def noise(points, sd, seed):
    draw = random.Random(seed)
    return [draw.gauss(0, sd) for _ in range(points)]


@pytest.mark.parametrize("points", [50, 200, 400])
def test_noise_alone_makes_what_the_docstring_says(points):
    unit = 1 / math.sqrt(smoothing_window(points))
    flat = [largest_loss_rise(noise(points, 1.0, seed)) / unit for seed in range(200)]
    assert 3.5 < statistics.median(flat) < 5.0
    assert sum(rise > 6.2 for rise in flat) <= 10
    steep = [largest_loss_rise(falling(points, 0.15, seed)) / (0.15 * unit) for seed in range(200)]
    assert 2.5 < statistics.median(steep) < 3.5


def test_a_spike_stands_out_of_the_noise():
    """Noise of 0.15 nats, and a jump by 2 nats that is over after 15 of 200 points."""
    quiet = max(largest_loss_rise(falling(200, 0.15, seed)) for seed in range(50))
    spiked = falling(200, 0.15)
    for i in range(100, 115):
        spiked[i] += 2.0 * (1 - (i - 100) / 15)
    assert largest_loss_rise(spiked) > 2 * quiet


def test_the_rise_moves_with_the_unit_and_not_with_the_level():
    curve = falling(150, noise=0.2)
    assert largest_loss_rise([7 * x for x in curve]) == pytest.approx(7 * largest_loss_rise(curve))
    assert largest_loss_rise([x + 4 for x in curve]) == pytest.approx(largest_loss_rise(curve))


@pytest.mark.parametrize(("points", "window"), [(1, 1), (2, 2), (3, 3), (60, 3), (61, 4), (200, 10)])
def test_the_window_grows_with_the_curve(points, window):
    assert smoothing_window(points) == window


@pytest.mark.parametrize("losses", [[], [2.0, math.nan], [math.inf]])
def test_what_is_no_curve_is_refused(losses):
    with pytest.raises(ValueError, match="allowed are"):
        largest_loss_rise(losses)
