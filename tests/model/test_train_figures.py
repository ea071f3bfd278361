"""Figures of training steps against sums made by hand, with a clock that stands still unless told."""

import json

import pytest

from model.train_figures import RECENT_STEPS, StepFigures

FLOPS_PER_TOKEN, PEAK = 1e6, 4e9
"""With these 2000 tokens per second are an MFU of one half."""


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def figures_of(clock, **options):
    return StepFigures(FLOPS_PER_TOKEN, **{"peak_flops_per_second": PEAK, "clock": clock, **options})


def take(figures, clock, step, *, seconds=1.0, tokens=2000, loss=3.0, between=0.0, **more):
    """One step that ends `between` + `seconds` after the last."""
    clock.now += between + seconds
    figures.add(step=step, tokens=tokens, loss=loss, seconds=seconds, **more)


def test_a_row_holds_the_means_of_its_interval_and_begins_the_next(clock):
    figures = figures_of(clock, steps=10)
    take(figures, clock, 1, loss=4.0, data_wait_seconds=0.5, norms={"matrices": 1.0, "head": 5.0})
    take(figures, clock, 2, loss=2.0, seconds=3.0, norms={"matrices": 2.0})
    row = figures.row({"matrices": 0.02}, {"matrices": 1e-3})
    assert row.pop("memory_bytes") > 1e6  # of this process
    assert row.pop("eta_seconds") == pytest.approx(8 * 2.0)
    assert row == pytest.approx(
        {
            "loss": 3.0,
            "tokens_per_second": 1000.0,
            "mfu": 0.25,
            "data_wait_share": 0.125,
            "grad_norm_matrices": 1.5,
            "grad_norm_head": 5.0,
            "lr_matrices": 0.02,
            "update_ratio_matrices": 1e-3,
        }
    )
    take(figures, clock, 3, loss=1.0)
    assert figures.row()["loss"] == 1.0


def test_without_a_peak_there_is_no_mfu(clock):
    figures = figures_of(clock, peak_flops_per_second=None)
    take(figures, clock, 1)
    assert "mfu" not in figures.row() | figures.live(1, 2) | figures.totals()


def test_a_skipped_step_takes_time_and_enters_no_mean(clock):
    figures = figures_of(clock)
    take(figures, clock, 1, loss=3.0, norms={"matrices": 1.0})
    take(figures, clock, 2, loss=float("nan"), norms={"matrices": float("inf")}, applied=False)
    row, live = figures.row(), figures.live(2, 4)
    assert (row["loss"], row["grad_norm_matrices"], row["skipped_steps"]) == (3.0, 1.0, 1)
    assert (live["loss"], live["skipped_steps"]) == (3.0, 1)
    assert row["tokens_per_second"] == 2000.0
    take(figures, clock, 3, loss=float("inf"), applied=False)
    assert "loss" not in figures.row()
    assert json.loads(json.dumps(figures.live(3, 4), allow_nan=False))["skipped_steps"] == 2


def test_the_time_left_forgets_a_pause_and_counts_evaluations_by_their_share(clock):
    """Steps of a second, one of them with a compilation, and an evaluation of 10 s after every 20th."""
    figures = figures_of(clock)
    for step in range(1, 41):
        take(
            figures, clock, step, seconds=60.0 if step == 1 else 1.0, between=10.0 if step % 20 == 1 and step > 1 else 0
        )
    between_share = 10.0 / (60 + 39)
    assert figures.live(40, 100)["eta_seconds"] == pytest.approx(60 * (1 + between_share))
    assert figures.totals()["between_share"] == pytest.approx(10.0 / (10 + 60 + 39))
    assert figures.live(100, 100)["eta_seconds"] == 0


def test_the_live_rate_is_that_of_the_last_steps(clock):
    figures = figures_of(clock)
    for step in range(1, 200):
        take(figures, clock, step, seconds=1.0 if step < 200 - RECENT_STEPS else 0.5, loss=float(step))
    live = figures.live(199, 400)
    assert (live["step"], live["steps"]) == (199, 400)
    assert live["tokens_per_second"] == 4000.0
    assert live["loss"] == pytest.approx(199 - (RECENT_STEPS - 1) / 2)


def test_a_resumed_run_goes_on_in_the_middle_of_its_interval(clock):
    """Through JSON, as a state stores it; the time between two sessions is nobody's."""
    whole, first = figures_of(clock), figures_of(clock)
    steps = [
        {"loss": 4.0, "data_wait_seconds": 0.25, "norms": {"head": 2.0}},
        {"loss": 9.0, "applied": False},
        {"loss": 3.0, "between": 2.0, "norms": {"head": 1.0}},
        {"loss": 1.0, "data_wait_seconds": 0.5, "norms": {"head": 0.0}},
    ]
    for step, given in enumerate(steps, 1):
        take(whole, clock, step, **given)
    for step, given in enumerate(steps[:3], 1):
        take(first, clock, step, **given)
    clock.now += 1e6
    resumed = figures_of(clock)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    take(resumed, clock, 4, **steps[3])
    rows = [figures.row() for figures in (whole, resumed)]
    totals = [figures.totals() for figures in (whole, resumed)]
    for found in (*rows, *totals):
        found.pop("memory_bytes", None)
        found.pop("peak_memory_bytes", None)
    assert rows[0] == rows[1]
    assert totals[0] == totals[1] and totals[0]["between_share"] == pytest.approx(2 / 6)


def test_steps_skipped_before_a_rollback_stay_counted(clock):
    figures = figures_of(clock)
    take(figures, clock, 1)
    state = json.loads(json.dumps(figures.state_dict()))
    take(figures, clock, 2, loss=float("nan"), applied=False)
    clock.now += 1e6  # reading the state
    figures.load_state_dict(state)
    assert figures.step == 1
    take(figures, clock, 2)
    totals = figures.totals()
    assert (totals["skipped_steps"], totals["between_share"]) == (1, 0.0)


def test_before_the_first_step_there_is_little_to_say(clock):
    figures = figures_of(clock, steps=4)
    assert set(figures.row()) == {"memory_bytes"}
    live = figures.live(0, 4)
    assert live["step"] == 0 and "eta_seconds" not in live and "tokens_per_second" not in live


@pytest.mark.parametrize("wrong", [{"peak_flops_per_second": 0.0}, {"train_flops_per_token": float("nan")}])
def test_impossible_rates_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed: a positive number"):
        StepFigures(**{"train_flops_per_token": FLOPS_PER_TOKEN, **wrong})
