"""A wall-clock horizon: the steps follow the pace, the warm-up is not begun again, and nothing is planned blindly."""

import math

import pytest

from model.horizon import WallClock
from model.train_options import Schedule

SCHEDULE = Schedule(1000, warmup_fraction=0.1, warmdown_fraction=0.5)


def with_pace(seconds, step_seconds, steps=20):
    clock = WallClock(seconds)
    for _ in range(steps):
        clock.add_step(step_seconds)
    return clock


def test_without_a_measured_step_the_guess_stays():
    clock = WallClock(100.0)
    assert clock.plan(SCHEDULE, 0, 0.0, 0.0) == SCHEDULE
    for _ in range(3):
        clock.add_step(60.0)  # the first steps compile and warm caches
    assert clock.plan(SCHEDULE, 3, 180.0, 0.0) == SCHEDULE


def test_the_steps_fill_the_time_that_is_left():
    planned = with_pace(100.0, 0.5).plan(SCHEDULE, 20, 10.0, 9.5)
    assert planned.steps == 20 + math.floor((99.5 - 10.0 - 9.5) / 0.5)  # half a percent is kept in reserve


def test_one_slow_step_does_not_move_the_plan():
    clock = with_pace(100.0, 0.5)
    before = clock.plan(SCHEDULE, 20, 10.0, 0.0)
    clock.add_step(30.0)
    assert clock.plan(SCHEDULE, 20, 10.0, 0.0) == before


def test_a_run_out_of_time_ends_where_it_is():
    assert with_pace(100.0, 0.5).plan(SCHEDULE, 150, 120.0, 0.0).steps == 150


def test_planning_anew_in_the_warm_down_keeps_to_the_end():
    """The rate of the last step is the final one, whatever was guessed; it does not jump while plans agree."""
    planned = with_pace(100.0, 0.5).plan(SCHEDULE, 120, 60.0, 0.0)
    assert planned.steps == 120 + math.floor(39.5 / 0.5)
    last = planned.lr_factor(planned.steps - 1)
    assert last == pytest.approx(planned.final_lr_fraction, abs=1.5 / planned.warmdown_steps)


def test_a_warm_up_that_is_over_is_not_begun_again():
    """With three times the steps a tenth of them is 300: step 120 would be back in the warm-up."""
    planned = with_pace(10_000.0, 0.5).plan(SCHEDULE, 120, 60.0, 0.0)
    assert planned.steps > 10_000
    assert planned.lr_factor(120) == 1.0
    assert planned.warmup_steps == 100


def test_during_the_warm_up_it_stretches_with_the_plan():
    planned = with_pace(10_000.0, 0.5).plan(SCHEDULE, 50, 25.0, 0.0)
    assert planned.warmup_steps == math.ceil(0.1 * planned.steps)
    assert planned.replanned(500, 40).warmup_steps == 50


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_a_horizon_that_is_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match="positive number of seconds"):
        WallClock(seconds)
