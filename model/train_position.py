"""Where a training run stands: everything about it that is neither a tensor nor the loader's position."""

from dataclasses import dataclass, field, fields
from typing import Any

from model.train_options import TrainResult


@dataclass
class Position:
    """Stored as JSON, which keeps float64 exactly; a state of an older version lacks fields and takes the defaults."""

    step: int = 0
    planned_steps: int = 0
    """Steps of the whole run; differs from the options' only with a wall-clock horizon. 0: not planned anew."""
    warmup_done: int | None = None
    """Length of the warm-up, once it is over and the rest has been planned anew."""
    tokens: int = 0
    seconds: float = 0.0
    """Time in steps, over all sessions; evaluation and saving are not in it."""
    wall_seconds: float = 0.0
    """Time of all sessions, evaluation and saving included; the time between sessions is not."""
    loss: float = 0.0
    states_saved: int = 0
    skipped_steps: int = 0
    rollbacks: int = 0
    micro_batch_rows: int = 0
    """Rows computed at once after memory ran out; 0: as the options say."""
    evaluated_step: int = 0
    """The last one that was evaluated."""
    evaluation_seconds: float = 0.0
    """What the last evaluation took."""
    curve: list[dict[str, float]] = field(default_factory=list)
    evaluation: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    """Step and value of the best evaluation so far."""
    compute: dict[str, Any] = field(default_factory=dict)
    """How products, attention and compilation were chosen: a resumed run computes the same way."""
    guard: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        """A position as stored; names this version does not know are dropped."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def result(self, resumed_from: int | None, micro_batch_rows: int) -> TrainResult:
        """What a run that has come this far tells."""
        return TrainResult(
            steps=self.step,
            tokens=self.tokens,
            final_loss=self.loss,
            seconds=self.seconds,
            tokens_per_second=self.tokens / self.seconds if self.seconds else 0.0,
            resumed_from=resumed_from,
            evaluation=self.evaluation,
            curve=self.curve,
            skipped_steps=self.skipped_steps,
            rollbacks=self.rollbacks,
            micro_batch_rows=micro_batch_rows,
            states_saved=self.states_saved,
            best=self.best,
            notes=self.compute,
        )
