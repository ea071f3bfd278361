"""Forecasts that learn: the posterior, its intervals, and what they do with runs that do not fit."""

import math
import random

import pytest

from pipeline_math.calibrate import calibrate
from pipeline_math.constants import CONSTANTS, noise_of, prior_of
from pipeline_math.forecast import (
    Calibration,
    Constant,
    Noise,
    Observation,
    forecast,
    prior,
    similarity,
    solve_positive,
    total,
)
from pipeline_math.hardware import HARDWARE, find_hardware
from pipeline_math.interval import Z_90, log_posterior


def constant(name: str, value: float, log_sd: float) -> Constant:
    return Constant(name, value, log_sd, "s", "test", "test")


def constants(**given: tuple[float, float]) -> Calibration:
    return prior({name: constant(name, value, log_sd) for name, (value, log_sd) in given.items()})


def test_one_constant_gives_the_textbook_posterior():
    """Prior ln .46 +- .10, twenty runs at .42 +- .005: mean .42000, sd of ln .0011."""
    noise = Noise(log_sd=0.005)
    runs = [Observation("step", {"speed": 1.0}, 0.42)] * 20
    known = calibrate(constants(speed=(0.46, 0.10)), runs, {"step": noise}, "here")
    mean, log_sd = log_posterior(0.46, 0.10, 0.42, 0.005, 20)
    # Runs are weighted as under Student's t: (4 + 1) / 4 more than under a normal where they fit.
    assert known.value("speed") == pytest.approx(mean, rel=1e-5)
    assert known.value("speed") == pytest.approx(0.42, abs=5e-6)
    assert known.log_sd("speed") == pytest.approx(log_sd, rel=0.12)
    assert known.log_sd("speed") == pytest.approx(0.0011, abs=1.5e-4)


def test_sums_are_taken_apart_when_runs_differ():
    """Two unknown rates, runs with different mixtures: both are found, although no run shows either alone."""
    noise, truth = Noise(log_sd=0.01), {"bytes": 3.0e-7, "start": 2.0}
    draw = random.Random(0)
    runs = []
    for _ in range(12):
        terms = {"bytes": 10 ** draw.uniform(5, 8), "start": 1.0}
        seconds = sum(amount * truth[name] for name, amount in terms.items()) * math.exp(draw.gauss(0, 0.01))
        runs.append(Observation("seconds", terms, seconds))
    known = calibrate(constants(bytes=(1.0e-6, 1.0), start=(5.0, 1.0)), runs, {"seconds": noise}, "here")
    for name, value in truth.items():
        assert known.value(name) == pytest.approx(value, rel=0.03)
        assert known.log_sd(name) < 0.05


def test_what_runs_cannot_tell_stays_uncertain():
    runs = [Observation("seconds", {"a": 1.0, "b": 1.0}, 4.0)] * 3
    known = calibrate(constants(a=(1.0, 0.5), b=(1.0, 0.5)), runs, {"seconds": Noise(0.01)}, "here")
    assert known.value("a") + known.value("b") == pytest.approx(4.0, rel=0.01)
    assert known.value("a") == pytest.approx(known.value("b"))
    assert known.log_sd("a") > 0.2
    both = forecast("seconds", {"a": 1.0, "b": 1.0}, known, Noise(0.01))
    alone = forecast("seconds", {"a": 1.0}, known, Noise(0.01))
    assert both.high / both.low < 1.05 < alone.high / alone.low


def test_a_disturbed_run_moves_little():
    """One run of a busy machine, ten times too slow, among six good ones."""
    good = [Observation("seconds", {"a": 1.0}, 1.0 + 0.01 * i) for i in range(6)]
    noises = {"seconds": Noise(0.03)}
    clean = calibrate(constants(a=(1.0, 0.5)), good, noises, "here")
    disturbed = calibrate(constants(a=(1.0, 0.5)), [*good, Observation("seconds", {"a": 1.0}, 10.0)], noises, "here")
    assert disturbed.value("a") == pytest.approx(clean.value("a"), rel=0.02)


def test_runs_alike_share_what_the_formula_leaves_out():
    """The formula is 20 % off at one shape: known there after a run, half known nearby, unknown far away."""
    noise = Noise(log_sd=0.01, formula_log_sd=0.10)
    # Several other shapes pin the constant, so that it cannot absorb the difference.
    others = [Observation("step", {"a": 10.0**k}, 10.0**k) for k in range(-6, 0)]
    odd = Observation("step", {"a": 1.0e3}, 1.2e3)
    known = calibrate(constants(a=(1.0, 0.3)), [*others, odd], {"step": noise}, "here")
    here = forecast("step", {"a": 1.0e3}, known, noise)
    near = forecast("step", {"a": 1.4e3}, known, noise)
    far = forecast("step", {"a": 1.0e6}, known, noise)
    assert here.value == pytest.approx(1.2e3, rel=0.02)
    assert far.value / 1.0e6 < near.value / 1.4e3 < here.value / 1.0e3
    assert here.high / here.low < near.high / near.low < far.high / far.low


def test_intervals_cover_what_they_promise():
    """Runs drawn from the prior itself: about nine in ten fall into the interval, before and after learning."""
    draw, noise = random.Random(1), Noise(log_sd=0.05)
    before = constants(a=(2.0, 0.3), b=(1.0, 0.3))
    inside = {"before": 0, "after": 0}
    rounds = 400
    for _ in range(rounds):
        truth = {name: before.value(name) * math.exp(draw.gauss(0, 0.3)) for name in before.names}

        def run(truth: dict[str, float] = truth) -> Observation:
            terms = {"a": draw.uniform(0.5, 5), "b": draw.uniform(0.5, 5)}
            value = sum(amount * truth[name] for name, amount in terms.items())
            return Observation("seconds", terms, value * math.exp(draw.gauss(0, 0.05)))

        after = calibrate(before, [run()], {"seconds": noise}, "here")
        new = run()
        for label, known in (("before", before), ("after", after)):
            interval = forecast("seconds", new.terms, known, noise)
            inside[label] += interval.low <= new.measured <= interval.high
    for label, count in inside.items():
        assert 0.85 <= count / rounds <= 0.95, label


def test_a_calibration_survives_json():
    known = calibrate(constants(a=(2.0, 0.3)), [Observation("q", {"a": 2.0}, 5.0)], {"q": Noise(0.1)}, "here")
    again = Calibration.from_json(known.as_json())
    assert again == known
    assert forecast("q", {"a": 3.0}, again, Noise(0.1)) == forecast("q", {"a": 3.0}, known, Noise(0.1))


def test_nothing_to_learn_changes_nothing():
    before = constants(a=(2.0, 0.3))
    runs = [Observation("q", {"unknown": 1.0}, 1.0), Observation("q", {"a": 1.0}, 0.0), Observation("q", {}, 1.0)]
    assert calibrate(before, runs, {"q": Noise(0.1)}, "here") is before


def test_impossible_amounts_are_refused():
    with pytest.raises(ValueError, match="q: the forecast is"):
        forecast("q", {"a": 0.0}, constants(a=(1.0, 0.1)), Noise(0.1))
    with pytest.raises(ValueError, match="the forecast is nan"):
        forecast("q", {"a": math.nan}, constants(a=(1.0, 0.1)), Noise(0.1))
    with pytest.raises(KeyError):
        total({"b": 1.0}, constants(a=(1.0, 0.1)))


def test_the_linear_solver_and_its_refusal():
    solution = solve_positive([[4.0, 1.0], [1.0, 3.0]], [1.0, 2.0])
    assert solution == pytest.approx([1 / 11, 7 / 11])
    with pytest.raises(ValueError, match="not positive definite"):
        solve_positive([[1.0, 2.0], [2.0, 1.0]], [1.0, 1.0])


def test_similarity_falls_with_the_largest_ratio():
    assert similarity({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}) == 1.0
    assert 0.5 < similarity({"a": 1.0, "b": 2.0}, {"a": 1.3, "b": 2.0}) < 1.0
    assert similarity({"a": 1.0}, {"b": 1.0}) < 1e-6


@pytest.mark.parametrize("name", sorted(HARDWARE))
def test_every_class_has_a_prior(name):
    hardware = find_hardware(name)
    known = prior_of(hardware)
    assert set(known.names) == set(CONSTANTS[hardware.kind])
    assert all(known.log_sd(constant) > 0 for constant in known.names)
    if hardware.kind == "gpu":
        assert known.log_sd("whole_model") == pytest.approx(hardware.mfu_log_sd)


def test_a_prior_interval_is_its_spread():
    interval = forecast("budget.seconds", {"process": 1.0}, prior_of(find_hardware("cpu-2core")), noise_of("seconds"))
    process, noise = CONSTANTS["cpu"]["process"], noise_of("seconds")
    variance = process.log_sd**2 + noise.formula_log_sd**2 + noise.repetition_variance(process.value)
    assert interval.high / interval.value == pytest.approx(math.exp(Z_90 * math.sqrt(variance)))
