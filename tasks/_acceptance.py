"""Acceptance thresholds as parameters: declared in `budget.acceptance`, carried by the plan, enforced by the gate."""

import json
from pathlib import Path

from pydantic import ValidationError, model_validator

from pipeline_math.acceptance import SELECTED, Threshold
from tasks._errors import StageError
from tasks._params import StageParams


class AcceptanceThreshold(StageParams):
    """A bound on one metric of the finished run; both bounds may be set. Metrics: pipeline_math/acceptance.py."""

    metric: str
    """Name of the metric, such as arithmetic, bits_per_byte or wall_clock_hours."""
    at_least: float | None = None
    """Lower bound in the metric's unit."""
    at_most: float | None = None
    """Upper bound in the metric's unit."""
    checkpoint: str = SELECTED
    """pretrain, midtrain, sft or rl; selected: the one of gate.selected."""

    @model_validator(mode="after")
    def could_be_meant(self) -> "AcceptanceThreshold":
        self.threshold()
        return self

    def threshold(self) -> Threshold:
        """The same for pipeline_math; ValueError for one that could not be meant."""
        return Threshold(self.metric, self.at_least, self.at_most, self.checkpoint)


def read_thresholds(path: Path) -> list[Threshold]:
    """The thresholds of artifacts/budget/acceptance.json; StageError when it does not hold any list of them."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["thresholds"]
        return [AcceptanceThreshold.model_validate(entry).threshold() for entry in listed]
    except (ValueError, KeyError, TypeError) as problem:
        found = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else repr(problem)
        raise StageError(f"{path} holds no thresholds: {found}; next: `dvc repro --force budget`") from None
