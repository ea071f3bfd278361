"""Step 0, what a plan may not exceed: memory, latency, text and time, and by how much a depth exceeds it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from pipeline_math.candidate import memory_breakdown
from pipeline_math.constants import noise_of
from pipeline_math.forecast import Calibration, forecast
from pipeline_math.goal import Goal, Solution
from pipeline_math.hardware_table import GIB
from pipeline_math.inference_prefill_decode import (
    decode_seconds_per_token_floor,
    kv_bytes_per_token,
    prefill_flops,
    prefill_seconds_floor,
)
from pipeline_math.layouts import Layout
from pipeline_math.memory_constants import USABLE_MEMORY_SHARE
from pipeline_math.model_flops_vram import ModelShape
from pipeline_math.stage_terms import shape_amounts, terms_of

DIGITS = 4
"""Digits of a proposed limit, which is rounded up, so that what is printed works when it is typed in."""
UNITS = {
    "hours": (1.0, "h"),
    "memory_bytes": (float(GIB), "GiB per device"),
    "unique_tokens": (1.0, "distinct tokens"),
    "ttft_seconds": (1.0e-3, "ms to the first token"),
    "tpot_seconds": (1.0e-3, "ms per token"),
}
"""Field of Goal -> size and name of the unit people give it in."""


@dataclass(frozen=True)
class Shortfall:
    """A limit of the goal that one depth exceeds."""

    depth: int
    name: str
    """"hours", "memory", "text", "ttft" or "tpot"."""
    field: str
    """The field of Goal that sets the limit."""
    needed: float
    """The least value of that field that would do."""
    given: float
    words: str
    """What is needed, what there is, and the difference, with units."""

    @property
    def excess(self) -> float:
        """Needed over given."""
        return self.needed / self.given if self.given else float("inf")

    @property
    def proposed(self) -> float:
        """The least value that would do, rounded up, in the unit of `UNITS`."""
        return rounded_up(self.needed / UNITS[self.field][0], DIGITS)

    def relaxed(self, goal: Goal) -> Goal:
        """The goal with just as much of this as is needed."""
        changes: dict[str, Any] = {self.field: self.proposed * UNITS[self.field][0]}
        return dataclasses.replace(goal, **changes)

    def remedy(self) -> str:
        """The proposal in words."""
        return f"{self.proposed:.{DIGITS}g} {UNITS[self.field][1]}"


def shortfalls(goal: Goal, layout: Layout, depth: int, known: Calibration) -> list[Shortfall]:
    """Limits other than the hours that a depth exceeds; empty if it is allowed."""
    shape = layout.shape(depth, goal.vocab_size, goal.tokens_per_row)
    found = [_memory(goal, layout, shape), _text(goal, shape)]
    if goal.ttft_seconds is not None:
        what = f"depth {depth} reads {goal.prompt_tokens} tokens in"
        found.append(_latency(depth, "ttft", what, ttft_seconds(goal, layout, shape, known), goal.ttft_seconds))
    if goal.tpot_seconds is not None:
        what = f"depth {depth} writes a token in"
        found.append(_latency(depth, "tpot", what, tpot_seconds(goal, layout, shape, known), goal.tpot_seconds))
    return [shortfall for shortfall in found if shortfall is not None]


def hours_shortfall(goal: Goal, shortest: Solution, needed_hours: float) -> Shortfall:
    """The stages take longer than the hours there are, however short pretraining is."""
    depth, steps = shortest.shape.n_layers, shortest.steps
    what = "pretraining" if goal.pretrain_share is not None else "all stages together"
    words = (
        f"hours: {what} with {steps} step{'s' if steps > 1 else ''} of depth {depth}: {needed_hours:.4g} h, "
        f"{goal.hours:.4g} h are given: {needed_hours - goal.hours:.4g} h short"
    )
    return Shortfall(depth, "hours", "hours", needed_hours, goal.hours, words)


def ttft_seconds(goal: Goal, layout: Layout, shape: ModelShape, known: Calibration) -> float:
    """Expected seconds to the first token of one request: the forecast of the inference stage, no less than the floor.

    The floor is the prefill's FLOPs at the MFU of training. Left out: queue, tokenizer, network.
    """
    flops = prefill_flops(layout.scaling_parameters(shape), shape.n_layers, shape.d_model, goal.prompt_tokens)
    floor = prefill_seconds_floor(flops, goal.hardware.peak_flops(), goal.mfu or goal.hardware.mfu)
    return max(floor, _forecast("ttft_seconds", goal, shape, known))


def tpot_seconds(goal: Goal, layout: Layout, shape: ModelShape, known: Calibration) -> float:
    """Expected seconds per token of one request after its prompt: likewise, the floor being reads of weights and cache.

    The forecast knows what our engine's launches cost, the floor what a long prompt adds.
    """
    element = 2 if goal.hardware.precision() == "bf16" else 4
    weights = element * layout.scaling_parameters(shape)
    cache = goal.prompt_tokens * kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, element)
    floor = decode_seconds_per_token_floor(weights, cache, goal.hardware.bandwidth_bytes_per_second)
    return max(floor, _forecast("seconds_per_output_token", goal, shape, known))


def _forecast(quantity: str, goal: Goal, shape: ModelShape, known: Calibration) -> float:
    amounts = {**shape_amounts(shape), "prompt_tokens": float(goal.prompt_tokens)}
    terms = terms_of("inference", quantity, amounts, goal.hardware)
    assert terms is not None
    return forecast(f"inference.{quantity}", terms, known, noise_of(quantity)).value


def _memory(goal: Goal, layout: Layout, shape: ModelShape) -> Shortfall | None:
    rows = goal.micro_batch_rows or 1
    needed = memory_breakdown(goal, layout, shape, rows).total_bytes
    usable = goal.usable_memory_bytes
    if needed <= usable:
        return None
    what = f"depth {shape.n_layers} with micro-batches of {rows} x {goal.tokens_per_row} tokens needs"
    words = (
        f"memory: {what} {needed / GIB:.2f} GiB per device, {usable / GIB:.2f} GiB are usable "
        f"({USABLE_MEMORY_SHARE:.0%} of {goal.device_memory_bytes / GIB:.2f}): {(needed - usable) / GIB:.2f} GiB short"
    )
    device = needed / USABLE_MEMORY_SHARE
    return Shortfall(shape.n_layers, "memory", "memory_bytes", device, goal.device_memory_bytes, words)


def _text(goal: Goal, shape: ModelShape) -> Shortfall | None:
    least = goal.row_tokens_of_all_devices
    if goal.unique_tokens is None or goal.unique_tokens >= least:
        return None
    words = (
        f"text: no data; unique_tokens={goal.unique_tokens:,.0f}, the smallest batch has {least:,}: "
        f"{least - goal.unique_tokens:,.0f} tokens short"
    )
    return Shortfall(shape.n_layers, "text", "unique_tokens", least, goal.unique_tokens, words)


def _latency(depth: int, name: str, what: str, needed: float, allowed: float) -> Shortfall | None:
    if needed <= allowed:
        return None
    words = f"{name}: {what} {_milliseconds(needed)}, {_milliseconds(allowed)} are allowed: "
    words += f"{_milliseconds(needed - allowed)} too long"
    return Shortfall(depth, name, f"{name}_seconds", needed, allowed, words)


def rounded_up(value: float, digits: int) -> float:
    """The least number of so many digits that is not below a positive value."""
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return math.ceil(value / step) * step


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
