"""What a training run is told and what it tells: schedule, options, sources of batches, reporters, result."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from model.batches import Batch
from model.divergence import GuardOptions
from model.optim import OptimizerOptions


class TrainingDiverged(ValueError):  # noqa: N818 - says what happened
    """The loss or a weight is not a number, or the loss jumped. The last saved state is from before."""


class TrainingInterrupted(Exception):  # noqa: N818 - a request was honoured, nothing is wrong
    """A stop was requested and the state has been saved."""


@dataclass(frozen=True)
class Schedule:
    """Factor on every learning rate: linear warm-up, flat, linear warm-down to `final_lr_fraction`."""

    steps: int
    """Steps of the run; with a wall-clock horizon a first guess, replaced as the speed becomes known."""
    warmup_fraction: float = 0.02
    warmdown_fraction: float = 0.65
    final_lr_fraction: float = 0.05
    warmup_done: int | None = None
    """Steps of a warm-up that is over: planning the rest anew must not begin it again."""

    def __post_init__(self) -> None:
        if self.steps < 1 or min(self.warmup_fraction, self.warmdown_fraction, self.final_lr_fraction) < 0:
            raise ValueError(f"schedule {self}: allowed: at least one step, fractions of at least 0")
        if self.warmup_fraction + self.warmdown_fraction > 1:
            raise ValueError(
                f"schedule: warmup_fraction={self.warmup_fraction} + warmdown_fraction={self.warmdown_fraction} "
                f"exceed 1; next: lower one"
            )

    @property
    def warmup_steps(self) -> int:
        return math.ceil(self.warmup_fraction * self.steps) if self.warmup_done is None else self.warmup_done

    @property
    def warmdown_steps(self) -> int:
        return max(0, min(math.ceil(self.warmdown_fraction * self.steps), self.steps - self.warmup_steps))

    def lr_factor(self, step: int) -> float:
        """Factor for step 0 .. steps - 1: 1 from the last warm-up step to the first of the warm-down, both included."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        left = self.steps - step
        if left > self.warmdown_steps:
            return 1.0
        share = left / self.warmdown_steps
        return share + (1 - share) * self.final_lr_fraction

    def decay_factor(self, step: int) -> float:
        """Factor on the weight decay: half a cosine from 1 to 0 over the run."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))

    def momentum(self, step: int, optimizer: OptimizerOptions) -> float:
        """Muon's momentum: up from its start over a quarter of the run, at most 400 steps; to its end in the warm-down.

        The fall follows the learning rate, so that both end together.
        """
        start, peak, end = optimizer.momentum_start, optimizer.momentum_peak, optimizer.momentum_end
        rising = start + (peak - start) * min(1.0, step / max(1, min(400, self.steps // 4)))
        left = self.steps - step
        if left > self.warmdown_steps or not self.warmdown_steps:
            return rising
        return rising + (end - peak) * (1 - left / self.warmdown_steps)

    def replanned(self, steps: int, step: int) -> "Schedule":
        """The same schedule over `steps` steps, seen from `step`: a warm-up that is over stays as long as it was."""
        over = self.warmup_steps if step >= self.warmup_steps else None
        return replace(self, steps=steps, warmup_done=self.warmup_done if over is None else over)


@dataclass(frozen=True)
class LoopOptions:
    """What a run needs besides model and batches. Learning rates are final: any scaling has been applied."""

    schedule: Schedule
    optimizer: OptimizerOptions
    guard: GuardOptions = field(default_factory=GuardOptions)
    seed: int = 0
    micro_batch_rows: int | None = 16
    """Most rows of this rank to compute at once; None: as many as are of use. Changes speed and memory, not the
    gradient. Halved when memory runs out."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates only at the end."""
    sample_every: int = 0
    """Steps between samples of what the model writes; 0: none."""
    log_every: int = 0
    """Steps between curve rows; 0 gives about two hundred rows."""
    horizon_seconds: float | None = None
    """Wall clock the run shall end at, evaluations included: the steps of the schedule follow the measured speed."""
    code_key: str = ""
    """Identity of the code; a state written under another one is used, and the change is reported."""
    checkpoint_seconds: float | None = None
    """Between states; None balances the measured cost of saving against `failure_seconds` (Young-Daly)."""
    failure_seconds: float = 86400.0
    """Mean time between failures."""
    keep_states: int = 2
    """Newest states to keep, besides the best."""
    evaluation_tokens: int = 0
    """Tokens of one evaluation: a wall-clock horizon keeps time for the last one."""
    limit_seconds: float | None = None
    """Wall clock of this session after which the state is saved and the run stops as interrupted."""
    compile: Literal["auto", "on", "off"] = "off"
    """torch.compile: auto (where it pays), on, off."""
    cache_folder: str | None = None
    """Where compiled code and measured choices are kept between runs."""
    flops_per_token: float = 0.0
    """Training FLOPs of one token, for MFU; 0: unknown."""
    peak_flops: float = 0.0
    """FLOP/s of all devices together, for MFU; 0: unknown."""

    @property
    def curve_interval(self) -> int:
        return self.log_every or max(1, self.schedule.steps // 200)


MAY_DIFFER_ON_RESUME = frozenset(
    {
        "micro_batch_rows",
        "log_every",
        "sample_every",
        "guard",
        "code_key",
        "checkpoint_seconds",
        "failure_seconds",
        "keep_states",
        "limit_seconds",
        "evaluation_tokens",
        "compile",
        "cache_folder",
        "flops_per_token",
        "peak_flops",
    }
)
"""Options that change when and how, not what is trained."""


TIMING_COLUMNS = frozenset({"tokens_per_second", "mfu", "eta_seconds", "data_wait_share", "memory_bytes"})
"""Columns of a curve row that depend on the machine and its mood, not on what is trained."""


class Batches(Protocol):
    """A source of batches: rows from disk, or rollouts generated on the spot. Its state must be plain JSON."""

    def next(self) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Reporter(Protocol):
    """Where a run tells how it goes.

    `curve` gets the rows that a saved state has made permanent; a resumed run gives all of them again, and one that
    was rolled back repeats steps: the later row of a step counts. `live` gets the newest figures about once a second.
    """

    def progress(self, step: int, steps: int, tokens: int, loss: float, lr: float) -> None: ...
    def live(self, values: dict[str, float]) -> None: ...
    def curve(self, rows: list[dict[str, float]]) -> None: ...
    def note(self, text: str) -> None: ...
    def figures(self, **values: float) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    steps: int
    tokens: int
    """Tokens computed, over all ranks, padding included."""
    final_loss: float
    seconds: float
    """Time in steps, over all sessions of the run; evaluation and saving are not in it."""
    tokens_per_second: float
    resumed_from: int | None
    """The step this session started from, None for a fresh run."""
    evaluation: dict[str, float]
    """What the evaluation at the end returned."""
    curve: list[dict[str, float]]
    skipped_steps: int = 0
    """Updates left out because the loss or a gradient was not finite or jumped."""
    rollbacks: int = 0
    """Times the run went back to an older state."""
    micro_batch_rows: int = 0
    """Rows computed at once in the end."""
    states_saved: int = 0
    """By all sessions of the run."""
    best: dict[str, float] = field(default_factory=dict)
    """Step and value of the best evaluation."""
    notes: dict[str, Any] = field(default_factory=dict)
    """How it was computed: compiled, attention path, precision."""
