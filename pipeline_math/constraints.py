"""Step 0, what holds a plan back, and what a little more of each limit would buy: the same problem solved again."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline_math.forecast import Calibration
from pipeline_math.hardware_table import GIB
from pipeline_math.stage_seconds import Workload
from pipeline_math.target_budget import Goal, Solution, WorkOf, solve

LEAST_GAIN = 1.0e-4
"""Relative change of the expected bits per byte below which a limit is not said to bind: rounding to whole steps."""
NO_LIMIT_BYTES = 1.0e15
"""More memory than any candidate needs."""
STEP_SHARE = 0.10
"""How much of a limit without a natural unit is added."""


@dataclass(frozen=True)
class Gain:
    """What another goal would buy: its plan, and the differences from the present one."""

    change: str
    depth: int
    depth_change: int
    train_tokens: int
    train_tokens_change: int
    bits_per_byte: float
    bits_per_byte_change: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)


def what_binds(found: Solution, work: Workload | WorkOf, calibration: Calibration | None = None) -> list[Gain]:
    """Limits without which the plan would be another, with what that would be; the largest gain first.

    Empty: only the hours bind, for the depth they favour is allowed by everything else.
    """
    goal = found.goal
    without: dict[str, dict[str, Any]] = {"memory": {"memory_bytes": NO_LIMIT_BYTES}}
    optional = {"depth": "depth", "text": "unique_tokens", "ttft": "ttft_seconds", "tpot": "tpot_seconds"}
    without |= {name: {field: None} for name, field in optional.items() if getattr(goal, field) is not None}
    gains = [_gain(name, found, change, work, calibration) for name, change in without.items()]
    binding = [gain for gain in gains if gain.bits_per_byte_change < -LEAST_GAIN * found.bits_per_byte.value]
    return sorted(binding, key=lambda gain: gain.bits_per_byte_change)


def what_more_buys(found: Solution, work: Workload | WorkOf, calibration: Calibration | None = None) -> list[Gain]:
    """One hour more, one GiB more per device, and a tenth more of every other limit that was given."""
    goal = found.goal
    changes: dict[str, dict[str, Any]] = {
        "one more hour": {"hours": goal.hours + 1.0},
        "one more GiB per device": {"memory_bytes": goal.device_memory_bytes + GIB},
    }
    others = {"more text": "unique_tokens", "longer ttft": "ttft_seconds", "longer tpot": "tpot_seconds"}
    for words, field in others.items():
        if getattr(goal, field) is not None:
            changes[f"{STEP_SHARE:.0%} {words}"] = {field: getattr(goal, field) * (1.0 + STEP_SHARE)}
    return [_gain(words, found, change, work, calibration) for words, change in changes.items()]


def _gain(
    words: str, found: Solution, change: dict[str, Any], work: Workload | WorkOf, calibration: Calibration | None
) -> Gain:
    goal: Goal = dataclasses.replace(found.goal, **change)
    other = solve(goal, found.layout, work=work, calibration=calibration)
    return Gain(
        words,
        other.shape.n_layers,
        other.shape.n_layers - found.shape.n_layers,
        other.train_tokens,
        other.train_tokens - found.train_tokens,
        other.bits_per_byte.value,
        other.bits_per_byte.value - found.bits_per_byte.value,
    )
