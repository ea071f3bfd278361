"""The divergence guard: which steps are skipped, when a run goes back to a saved state, and when it gives up.

A step is skipped when its loss or gradient is not finite, or when its loss is a spike: above

    median + max(spike_z * 1.4826 * MAD, least_jump)        of the last `history` losses that were no spikes,

1.4826 MAD being the standard deviation of Gaussian noise (Leys et al. 2013, J. Exp. Soc. Psychol. 49), which single
odd batches do not move. Losses fall, so the median lies above the present level and early training trips nothing. The
same rule with mean and deviation skips steps in OLMo-core. What a skipped step costs is one batch.

Batches of few rows are of mixed difficulty: one that is as hard as three others were in the same history is data, not
a spike. Several spikes in a row, at weights which skipping has left alone, are

- a new level if they lie less than `least_rise` above the median: it is accepted, and training goes on;
- lost weights if they lie higher: the run goes back to a saved state, with lower learning rates.

It also goes back when losses are not finite several times in a row, or in a quarter of a history, and when the median
of the last `recent` losses has crept up by `least_rise` (and by three deviations) above the lowest it has been. A
rollback that is followed by `forgiven_after` accepted steps no longer counts; too many end the run.

False alarms in 100,000 simulated steps each, noise around 3 + 6 (1 + t / 20)^-0.5 nats, defaults, no rollback in any:
Gaussian noise of 0.02 to 2 nats: none skipped. Student's t with three degrees, scale 0.02 / 0.1 / 0.3 to 2 nats: 0.1 /
3.5 / 17 per 10,000 skipped. One batch in twenty 3 nats harder, Gaussian noise of 0.02 to 2 nats: 0 to 45 per 10,000.
The 67 recorded curves of this project's own stages (7,939 points, of small batches) trip nothing.
Not noticed: a run that stops learning, or rises by less than `least_rise`; that is what curves are for.
"""

import math
import struct
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

_SIGMA_PER_MAD = 1.4826
_DEVIATIONS_OF_A_RISE = 3.0
"""A rise of the median of 32 values by three deviations of one value is thirteen of its own."""
_SEEN_BEFORE = 3
"""Spikes of a height, apart from each other in one history, that make it a kind of batch."""
_SHARE_NOT_FINITE = 0.25


@dataclass(frozen=True)
class GuardOptions:
    """When the guard acts. The defaults are meant for any batch size; `signed` for losses without a lower bound."""

    spike_z: float = 8.0
    """Robust standard deviations above the median that make a spike."""
    least_jump: float = 1.5
    """Nats above the median that a spike has at least, however quiet the losses are."""
    least_rise: float = 2.0
    """Nats above the usual level at which the weights are taken for lost, when it lasts."""
    history: int = 128
    """Losses the median and the deviation are taken of."""
    least_history: int = 20
    """Losses before anything finite is a spike."""
    recent: int = 32
    """Losses whose median is the present level."""
    skips_in_a_row: int = 10
    """Skipped steps one after the other that end in a rollback, or in a new level."""
    rollbacks: int = 3
    """Rollbacks without `forgiven_after` good steps since; the next one is a failure."""
    forgiven_after: int = 2000
    """Accepted steps in a row after which one rollback no longer counts."""
    lr_factor: float = 0.5
    """Factor on every learning rate at a rollback."""
    signed: bool = False
    """Losses of policy updates have any sign and size: only what is not finite is acted on."""

    def __post_init__(self) -> None:
        positive = min(self.spike_z, self.least_jump, self.least_rise, self.skips_in_a_row, self.forgiven_after)
        if (
            positive <= 0
            or self.rollbacks < 0
            or not 0 < self.lr_factor <= 1
            or not 2 <= self.recent <= self.history
            or not 2 <= self.least_history <= self.history
        ):
            raise ValueError(
                f"guard {self}: allowed: thresholds and counts above 0, rollbacks of at least 0, lr_factor in (0, 1], "
                f"recent and least_history in 2..history"
            )


@dataclass(frozen=True)
class Verdict:
    """What to do about a step. `text` is for people, empty if all is well."""

    action: Literal["ok", "skip", "roll_back", "fail"]
    text: str = ""
    z: float = 0.0
    """Robust standard deviations above the median; 0 while the history is short."""
    before: int | None = None
    """When rolling back: states of fewer updates than this were saved before anything was seen to be wrong."""


class DivergenceGuard:
    """Judges every step by its loss; all ranks that see the same losses judge alike.

    Per step: hand `limit()` to the device, which leaves weights and buffers alone if the loss is above it or anything
    is not finite; then `judge`. After "roll_back": load a state, `rolled_back`, save at once (the lowered rate must
    survive a kill). The guard's own state belongs into every saved state, but is not taken back by a rollback.
    """

    def __init__(self, options: GuardOptions = GuardOptions()) -> None:
        self.options = options
        self._remember([])
        self._spikes: list[tuple[int, float]] = []
        """Of about one history: accepted or not, but with ordinary losses around them."""
        self._run: list[tuple[int, float | None, str]] = []
        """(step, loss, rows) of the steps skipped in a row up to now; None: not finite."""
        self._not_finite: list[int] = []
        """Such steps of the last history."""
        self._best: tuple[int, float, float] | None = None
        """Step, median and deviation of the `recent` losses with the lowest median."""
        self._accepted = 0
        """Steps since the start, or since the last rollback, or since one was forgiven."""
        self._rollbacks = 0
        self._lr_factor = 1.0

    @property
    def lr_factor(self) -> float:
        """Factor on all learning rates: 1, lower after every rollback, never higher again."""
        return self._lr_factor

    def limit(self) -> float:
        """The largest loss, in nats, that the next step may have; a float32, for the device compares in that."""
        limit = self._spike_limit()
        if len(self._spikes) >= _SEEN_BEFORE:
            known = sorted(loss for _, loss in self._spikes)[-_SEEN_BEFORE]
            limit = max(limit, known + self.options.least_jump)
        return struct.unpack("f", struct.pack("f", limit))[0] if limit < 3e38 else math.inf

    def judge(
        self,
        step: int,
        loss: float,
        gradient_norm: float = 0.0,
        *,
        limit: float | None = None,
        rate: float | None = None,
        rows: str = "",
    ) -> Verdict:
        """What to do about step `step` (the first is 1) with this loss and norm of its gradient.

        limit: what the device was given, if that was not `limit()` of just now. rate: the learning rate in force;
        rows: what the batch consisted of; both only for the text.
        """
        limit = self.limit() if limit is None else limit
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        if finite and (loss <= limit or self.options.signed):
            return self._accept(step, loss, rate)
        z = self._z(loss) if finite else 0.0
        what = self._described(loss, gradient_norm, z)
        self._run.append((step, loss if finite else None, rows))
        if not finite:
            oldest = step - self.options.history
            self._not_finite = [*(earlier for earlier in self._not_finite if earlier > oldest), step]
        heights = [height for _, height, _ in self._run if height is not None]
        before = self._run[0][0] - 1  # the update just before the first skipped step may be what broke the weights
        if len(self._not_finite) >= max(self.options.skips_in_a_row, _SHARE_NOT_FINITE * self.options.history):
            return self._lost(step, f"{what}, {len(self._not_finite)} such steps of late", z, before, rate)
        if len(self._run) < self.options.skips_in_a_row:
            count = f"{len(self._run)} in a row, of {self.options.skips_in_a_row} allowed"
            return Verdict("skip", f"step {step}: {what}; the step is skipped ({count}){_of(rows)}", z)
        if 2 * len(heights) <= len(self._run) or median(heights) > self._median + self.options.least_rise:
            return self._lost(step, f"{what}, and {len(self._run)} steps in a row were skipped", z, before, rate)
        self._remember([(then, height) for then, height, _ in self._run if height is not None])
        self._spikes, self._run = [], []
        return Verdict("skip", f"step {step}: {what}; it lasts, and is taken for the new level from now on", z)

    def rolled_back(self, step: int | None = None) -> float:
        """Told that the weights are those after `step` updates again (None: not known); -> the new factor on rates."""
        self._rollbacks += 1
        self._lr_factor *= self.options.lr_factor
        self._remember([] if step is None else [pair for pair in self._losses if pair[0] <= step])
        if step is None or self._best is None or self._best[0] > step:
            self._best = None
        self._spikes, self._run, self._not_finite, self._accepted = [], [], [], 0
        return self._lr_factor

    def state_dict(self) -> dict[str, Any]:
        """Everything the guard remembers, as plain JSON: a resumed run judges as an uninterrupted one."""
        return {
            "losses": [list(pair) for pair in self._losses],
            "spikes": [list(pair) for pair in self._spikes],
            "run": [list(skipped) for skipped in self._run],
            "not_finite": list(self._not_finite),
            "best": None if self._best is None else list(self._best),
            "accepted": self._accepted,
            "rollbacks": self._rollbacks,
            "lr_factor": self._lr_factor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. An empty state, as of a run saved without a guard, changes nothing."""
        if not state:
            return
        self._remember([(int(step), float(loss)) for step, loss in state["losses"]])
        self._spikes = [(int(step), float(loss)) for step, loss in state["spikes"]]
        self._run = [(int(step), loss, str(rows)) for step, loss, rows in state["run"]]
        self._not_finite = [int(step) for step in state["not_finite"]]
        best = state["best"]
        self._best = None if best is None else (int(best[0]), float(best[1]), float(best[2]))
        self._accepted, self._rollbacks = int(state["accepted"]), int(state["rollbacks"])
        self._lr_factor = float(state["lr_factor"])

    def _accept(self, step: int, loss: float, rate: float | None) -> Verdict:
        options, z = self.options, self._z(loss)
        self._accepted += 1
        if self._rollbacks and self._accepted >= options.forgiven_after:
            self._rollbacks, self._accepted = self._rollbacks - 1, 0
        if options.signed or loss == 0.0:  # exactly 0: nothing in the batch was supervised
            self._run = []
            return Verdict("ok")
        self._spikes = [spike for spike in self._spikes if spike[0] > step - options.history]
        self._spikes += [(then, height) for then, height, _ in self._run if height is not None]
        if loss > self._spike_limit():
            self._spikes.append((step, loss))
        self._run = []
        self._remember([*self._losses, (step, loss)][-options.history :])
        return self._judge_level(step, z, rate)

    def _judge_level(self, step: int, z: float, rate: float | None) -> Verdict:
        """Has the median of the recent losses risen above the lowest it has been, by more than noise can?"""
        options = self.options
        recent = [loss for _, loss in self._losses[-options.recent :]]
        if len(recent) < options.recent:
            return Verdict("ok", z=z)
        level, deviation = median(recent), _deviation(recent)
        if self._best is None or level < self._best[1]:
            self._best = (step, level, deviation)
        lowest_step, lowest, lowest_deviation = self._best
        allowed = max(options.least_rise, _DEVIATIONS_OF_A_RISE * max(deviation, lowest_deviation))
        settling = self._rollbacks > 0 and self._accepted < options.history
        if level - lowest <= allowed or settling:
            return Verdict("ok", z=z)
        what = f"the loss has risen from {lowest:.3f} (step {lowest_step}) to {level:.3f} (medians of {options.recent})"
        return self._lost(step, what, z, lowest_step + 1, rate)

    def _lost(self, step: int, what: str, z: float, before: int, rate: float | None) -> Verdict:
        shown = "" if rate is None else f"; learning rate in force {rate:.3g}"
        rows = [f"step {then}{_of(which)}" for then, _, which in self._run if which][-self.options.skips_in_a_row :]
        skipped = f"; skipped: {', '.join(rows)}" if rows else ""
        if self._rollbacks < self.options.rollbacks:
            count = f"{self._rollbacks + 1} of {self.options.rollbacks}"
            factor = self._lr_factor * self.options.lr_factor
            next_ = f"going back to a saved state ({count}), rates times {factor:.3g} from there"
            return Verdict("roll_back", f"step {step}: {what}; {next_}{shown}{skipped}", z, before)
        advice = "next: lower learning_rate_scale, lengthen warmup_fraction, or look at the rows of these steps"
        return Verdict("fail", f"step {step}: {what}, after {self._rollbacks} rollbacks{shown}{skipped}; {advice}", z)

    def _remember(self, losses: list[tuple[int, float]]) -> None:
        """(step, loss) of the last accepted steps, oldest first, with their median and deviation."""
        values = [loss for _, loss in losses]
        self._losses = losses
        self._median, self._deviation = (median(values), _deviation(values)) if values else (math.inf, 0.0)

    def _spike_limit(self) -> float:
        if self.options.signed or len(self._losses) < self.options.least_history:
            return math.inf
        return self._median + max(self.options.spike_z * self._deviation, self.options.least_jump)

    def _z(self, loss: float) -> float:
        if self.options.signed or len(self._losses) < self.options.least_history:
            return 0.0
        return (loss - self._median) / max(self._deviation, 1e-6)

    def _described(self, loss: float, gradient_norm: float, z: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"the norm of the gradient is {gradient_norm}, the loss {loss:.3f}"
        usual = f"{self._median:.3f}, the median of {len(self._losses)}"
        return f"the loss jumped to {loss:.3f}, {z:.1f} deviations above {usual}"


def _deviation(losses: list[float]) -> float:
    """Robust standard deviation, in nats."""
    center = median(losses)
    return _SIGMA_PER_MAD * median(abs(loss - center) for loss in losses)


def _of(rows: str) -> str:
    return f" ({rows})" if rows else ""
