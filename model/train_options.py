"""What a training run is told and what it tells: schedule, options, sources of batches, reporters, result."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from model.batches import Batch


class TrainingDiverged(ValueError):  # noqa: N818 - says what happened
    """The loss or a weight is not a number, or the loss jumped. The last saved state is from before."""


class TrainingInterrupted(Exception):  # noqa: N818 - a request was honoured, nothing is wrong
    """A stop was requested and the state has been saved."""


@dataclass(frozen=True)
class Schedule:
    """Factor on every learning rate: linear warm-up, flat, linear warm-down to `final_lr_fraction`."""

    steps: int
    warmup_fraction: float = 0.02
    warmdown_fraction: float = 0.65
    final_lr_fraction: float = 0.05

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
        return math.ceil(self.warmup_fraction * self.steps)

    @property
    def warmdown_steps(self) -> int:
        return min(math.ceil(self.warmdown_fraction * self.steps), self.steps - self.warmup_steps)

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
        return 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def momentum_progress(self, step: int) -> float:
        """How far Muon's momentum is through its warm-up: a quarter of the run, at most 400 steps."""
        return step / max(1, min(400, self.steps // 4))


@dataclass(frozen=True)
class LoopOptions:
    """What a run needs besides model and batches. Learning rates are final: any scaling has been applied."""

    schedule: Schedule
    matrix_lr: float
    embedding_lr: float
    head_lr: float
    weight_decay: float = 0.0
    """Of the layers' matrices."""
    seed: int = 0
    micro_batch_rows: int = 16
    """Rows of this rank computed at once; changes speed and memory, not the gradient."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates only at the end."""
    log_every: int = 0
    """Steps between curve rows; 0 gives about two hundred rows."""
    checkpoint_seconds: float = 60.0
    spike_nats: float | None = 3.0
    """The run stops if several losses in a row exceed their running mean by this much; None (signed losses): never."""
    code_key: str = ""
    """Identity of the code; a state written under another one is used, and the change is reported."""

    @property
    def curve_interval(self) -> int:
        return self.log_every or max(1, self.schedule.steps // 200)


class Batches(Protocol):
    """A source of batches: rows from disk, or rollouts generated on the spot. Its state must be plain JSON."""

    def next(self) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Reporter(Protocol):
    """Where a run tells how it goes. `curve` gets all rows again after every saved state; steps repeat."""

    def progress(self, step: int, steps: int, tokens: int, loss: float, lr: float) -> None: ...
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
