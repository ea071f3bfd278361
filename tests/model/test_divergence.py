"""The guard on curves with known answers: ordinary noise, spikes, lost weights, numbers that are none.

The false-alarm figures in the guard's docstring come from the same curves with ten seeds.
"""

import json
import math
from collections import Counter

import numpy as np
import pytest

from model.divergence import DivergenceGuard, GuardOptions


def falling(steps):
    """A power law from 9 to about 3 nats, as of pretraining with a vocabulary of 8,192."""
    return 3 + 6 * (1 + np.arange(steps) / 20) ** -0.5


def noisy(steps, deviation, seed=0):
    return falling(steps) + deviation * np.random.default_rng(seed).standard_normal(steps)


class Watched:
    """A guard that is fed losses in float32, as a device has them; a rollback changes its curve no further."""

    def __init__(self, options=None, guard=None):
        self.guard, self.step = guard or DivergenceGuard(options or GuardOptions()), 0
        self.actions, self.verdicts = Counter(), []

    def feed(self, losses, gradient_norm=1.0):
        """-> the verdict that is no "ok" or "skip", or else the last one."""
        verdict = None
        for loss in losses:
            self.step += 1
            verdict = self.guard.judge(
                self.step, float(np.float32(loss)), gradient_norm, rate=0.02, rows=f"rows of {self.step}"
            )
            self.actions[verdict.action] += 1
            if verdict.action != "ok":
                self.verdicts.append(verdict)
            if verdict.action in ("roll_back", "fail"):
                break
        return verdict


def test_the_steep_fall_at_the_start_and_gaussian_noise_trip_nothing():
    watched = Watched()
    watched.feed(noisy(4_000, 0.3))
    assert watched.actions == {"ok": 4_000}


def test_heavy_tails_cost_few_steps_and_no_rollback():
    """Student's t with three degrees, scale 0.3: its largest values lie ten and more deviations out."""
    watched = Watched()
    watched.feed(falling(10_000) + 0.3 * np.random.default_rng(0).standard_t(3, 10_000))
    assert watched.actions.keys() == {"ok", "skip"}
    assert 5 <= watched.actions["skip"] <= 40


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_single_batches_a_nat_higher_are_data(share):
    """Bug it catches: four rows that all came from the harder part of a mixture ended a midtraining run."""
    chance, watched = np.random.default_rng(1), Watched()
    watched.feed(noisy(2000, 0.05) + 1.0 * (chance.random(2000) < share))
    assert watched.actions == {"ok": 2000}


def test_a_kind_of_batch_far_above_the_others_is_dropped_three_times_not_for_ever():
    """Every twentieth batch lies four nats higher. A rule by median and MAD alone would drop that data silently."""
    watched = Watched()
    watched.feed(noisy(2000, 0.05) + 4.0 * (np.arange(2000) % 20 == 19))
    assert watched.actions["skip"] <= 4
    assert watched.actions.keys() == {"ok", "skip"}


def test_a_spike_is_skipped_and_told_with_its_height():
    watched = Watched()
    watched.feed(noisy(200, 0.05))
    before = watched.guard.limit()
    verdict = watched.feed([falling(200)[-1] + 3.0])
    assert verdict.action == "skip"
    assert verdict.z > 8
    assert "step 201: the loss jumped to 7.8" in verdict.text
    assert "(1 in a row, of 10 allowed) (rows of 201)" in verdict.text
    assert watched.guard.limit() == before  # a skipped loss moves no threshold
    assert watched.feed(noisy(300, 0.05)[200:]).action == "ok"


def test_the_limit_is_the_border_of_the_verdict_in_float32():
    """Device and host must agree on every loss, or a step that was applied is called skipped."""
    watched = Watched()
    watched.feed(noisy(100, 0.05))
    limit = watched.guard.limit()
    assert float(np.float32(limit)) == limit
    for loss, action in ((limit, "ok"), (np.nextafter(np.float32(limit), np.float32(99)), "skip")):
        again = DivergenceGuard()
        again.load_state_dict(watched.guard.state_dict())
        assert Watched(guard=again).feed([loss]).action == action


def test_odd_batches_do_not_move_the_limit():
    """A mean and a standard deviation would follow them: 4.14 + 8 * 0.42."""
    watched = Watched()
    watched.feed([4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 5.4] * 20)
    assert watched.actions == {"ok": 200}
    assert watched.guard.limit() == 5.5


def test_nothing_finite_is_a_spike_before_there_is_a_history():
    watched = Watched()
    watched.feed([9.0] * 19)
    assert watched.guard.limit() == math.inf
    watched.feed([9.0])
    assert watched.guard.limit() == pytest.approx(10.5)


def test_a_loss_that_jumps_and_stays_goes_back_to_before_the_jump():
    watched = Watched()
    watched.feed(noisy(300, 0.05))
    verdict = watched.feed(np.full(50, 7.5))
    assert verdict.action == "roll_back"
    assert watched.step == 310
    assert verdict.before == 300  # the 300th update may have done it; a state of 299 is good
    assert "rates times 0.5 from there" in verdict.text
    assert "step 301 (rows of 301)" in verdict.text


def test_a_small_jump_that_stays_is_a_new_level():
    """Harder rows from some step on: the run must go on, at the cost of the steps it took to be sure."""
    watched = Watched()
    watched.feed(noisy(500, 0.02))
    watched.feed(noisy(1000, 0.02)[500:] + 1.8)
    assert watched.actions == {"ok": 990, "skip": 10}
    assert "taken for the new level" in watched.verdicts[-1].text


def test_a_loss_that_creeps_up_is_noticed_though_no_step_is_a_spike():
    """A rate a little too high: a hundredth of a nat per step, for ever."""
    watched = Watched()
    watched.feed(noisy(1000, 0.1))
    verdict = watched.feed(noisy(2000, 0.1)[1000:] + 0.01 * np.arange(1000))
    assert verdict.action == "roll_back"
    assert watched.actions["skip"] == 0
    assert 1200 < watched.step < 1300
    assert verdict.before < 1020
    assert "the loss has risen from" in verdict.text


def test_one_step_that_is_no_number_is_skipped_and_forgotten():
    watched = Watched()
    watched.feed(noisy(50, 0.1))
    assert "the loss is nan" in watched.feed([math.nan]).text
    assert watched.feed(noisy(150, 0.1)[50:]).action == "ok"
    assert watched.actions == {"ok": 150, "skip": 1}


def test_only_skipped_steps_in_a_row_count_as_such():
    watched = Watched()
    watched.feed(([5.0] * 150 + [math.nan] * 9 + [5.0] + [math.nan] * 9) * 3)
    assert watched.actions == {"ok": 453, "skip": 54}


def test_an_infinite_gradient_skips_though_the_loss_is_fine():
    watched = Watched()
    watched.feed(noisy(50, 0.1))
    verdict = watched.feed([5.0], gradient_norm=math.inf)
    assert verdict.action == "skip"
    assert "the norm of the gradient is inf" in verdict.text


@pytest.mark.parametrize("signed", [False, True])
def test_steps_without_numbers_go_back_then_fail_with_rate_and_rows(signed):
    """Four times ten in a row, or every third step: three rollbacks, then an error that says what to try."""
    in_a_row, often = Watched(GuardOptions(signed=signed)), Watched(GuardOptions(signed=signed))
    for attempt in range(4):
        for watched, losses in ((in_a_row, [math.nan] * 99), (often, [5.0, 5.0, math.nan] * 99)):
            watched.feed([5.0] * 30)
            verdict = watched.feed(losses)
            assert verdict.action == ("roll_back" if attempt < 3 else "fail")
            if attempt < 3:
                assert watched.guard.rolled_back() == 0.5 ** (attempt + 1)
    assert in_a_row.actions["skip"] == 4 * 9
    for watched in (in_a_row, often):
        text = watched.verdicts[-1].text
        assert "after 3 rollbacks; learning rate in force 0.02" in text
        assert f"(rows of {watched.step})" in text
        assert "next: lower learning_rate_scale" in text


def test_signed_losses_may_jump_and_rise_as_they_like():
    watched = Watched(GuardOptions(signed=True))
    watched.feed(np.random.default_rng(0).standard_cauchy(2000).cumsum())
    assert watched.actions == {"ok": 2000}
    assert watched.guard.limit() == math.inf


def test_batches_without_supervised_tokens_are_no_losses():
    """Their loss is exactly 0: taken for a level, everything after them would be a spike."""
    watched = Watched()
    watched.feed([0.0, 0.0, 0.0, 4.0] * 100)
    assert watched.actions == {"ok": 400}


def test_a_rollback_keeps_the_losses_up_to_its_step_and_the_lowered_rate():
    watched = Watched()
    watched.feed(noisy(300, 0.05))
    watched.feed([9.0] * 10)
    assert watched.guard.rolled_back(250) == watched.guard.lr_factor == 0.5
    assert [step for step, _ in watched.guard.state_dict()["losses"]] == list(range(173, 251))
    assert watched.guard.limit() < 7  # so the same jump would be seen again at once
    watched.step = 250
    assert watched.feed(noisy(600, 0.05)[250:]).action == "ok"


def test_after_a_rollback_the_loss_has_time_to_come_down():
    """The only state is from when the loss had crept up: the lowered rate must be given a chance to show."""
    watched = Watched()
    watched.feed(noisy(1000, 0.1))
    assert watched.feed(noisy(2000, 0.1)[1000:] + 0.01 * np.arange(1000)).action == "roll_back"
    watched.guard.rolled_back(watched.step)
    high = falling(1000)[-1] + 2.2
    assert watched.feed(np.linspace(high, high - 1.5, 130)).action == "ok"
    assert watched.feed(np.linspace(high - 1.5, high + 2, 400)).action == "roll_back"


def test_rollbacks_far_apart_do_not_add_up_to_a_failure():
    watched = Watched(GuardOptions(forgiven_after=500))
    for attempt in range(5):
        assert watched.feed(noisy(600, 0.05)[100:]).action == "ok"
        assert watched.feed([9.0] * 10).action == "roll_back"
        assert watched.guard.rolled_back() == 0.5 ** (attempt + 1)


def test_a_resumed_guard_gives_the_same_verdicts():
    """State through JSON at awkward moments: short history, within a run of spikes, after a rollback."""
    losses = noisy(600, 0.1, seed=3)
    losses[[5, 150, 151]] = math.nan
    losses[300:306] += 4
    losses[400:] += 5
    whole, split = Watched(), Watched()
    for at, loss in enumerate(losses):
        if at in (3, 6, 151, 303, 405):
            resumed = DivergenceGuard()
            resumed.load_state_dict(json.loads(json.dumps(split.guard.state_dict(), allow_nan=False)))
            split.guard = resumed
        assert whole.guard.limit() == split.guard.limit()
        a, b = whole.feed([loss]), split.feed([loss])
        assert a == b
        if a.action == "roll_back":
            assert whole.guard.rolled_back(at - 20) == split.guard.rolled_back(at - 20)
    assert whole.actions["roll_back"] >= 1
    assert whole.actions["skip"] >= 9


def test_options_that_make_no_sense_are_refused():
    for wrong in ({"spike_z": 0}, {"lr_factor": 1.5}, {"recent": 500}, {"rollbacks": -1}, {"least_history": 1}):
        with pytest.raises(ValueError, match="allowed: thresholds and counts above 0"):
            GuardOptions(**wrong)
