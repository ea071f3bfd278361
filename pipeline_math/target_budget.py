"""Step 0, target budget: hours and hardware -> depth, tokens, batch, precision, expected loss, cost.

The inverse problem: cost in, model out. Depth is a small integer, so every candidate is computed and the one whose
ratio of tokens to scaling parameters (blocks + head) is nearest the target wins. The architecture comes in as a
`Layout` of plain functions. Left out: an optimum over the ratio itself, gains from a smaller model at inference.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline_math.data_filtering import effective_tokens
from pipeline_math.hardware import Hardware
from pipeline_math.interval import Interval
from pipeline_math.layouts import DEFAULT, Layout
from pipeline_math.loss_law import BEST_RATIO, expected_bits_per_byte, off_ratio_penalty
from pipeline_math.machine_constants import constants_of
from pipeline_math.model_flops_vram import (
    DEVICE_CONTEXT_BYTES,
    HOST_PROCESS_BYTES,
    RESERVED_OVER_ALLOCATED,
    USABLE_MEMORY_SHARE,
    ModelShape,
    largest_micro_batch_rows,
    power_of_two_floor,
    training_memory_bytes,
)
from pipeline_math.pretrain_step import muon_step_flops, power_lines_batch_tokens, tokens_per_second

EVEN_DEPTHS = tuple(range(4, 39, 2))
"""Candidates of the solver; odd depths waste a rounded-up width."""


@dataclass(frozen=True)
class Goal:
    """What is given. None means: choose."""

    hours: float
    """Wall clock of the whole pipeline."""
    hardware: Hardware
    devices: int = 1
    optimizer_shards: int = 1
    """Devices the optimizer state is divided among; 1 because every rank of our loop keeps all of it."""
    tokens_per_row: int = 2048
    vocab_size: int = 32768
    ratio: float = BEST_RATIO
    """Wanted training tokens per scaling parameter."""
    depth: int | None = None
    pretrain_share: float = 1.0
    """Share of the hours that pretraining may use."""
    mfu: float | None = None
    """Share of peak that training reaches; None takes the prior of the hardware class."""
    unique_tokens: float | None = None
    """Distinct training tokens there are; None means enough."""
    batch_tokens: int | None = None
    micro_batch_rows: int | None = None
    minimum_steps: int = 300
    """Optimizer steps a run needs before a larger batch may be chosen: the batch rule does not hold downwards."""


@dataclass(frozen=True)
class Solution:
    """What the solver found for pretraining; all numbers are those the run will use."""

    goal: Goal
    shape: ModelShape
    total_parameters: int
    scaling_parameters: int
    train_flops_per_token: float
    mfu: float
    tokens_per_second: float
    train_tokens: int
    batch_tokens: int
    micro_batch_rows: int
    micro_batch_rows_limit: int
    """Most rows that fit the device, before rounding and the throughput cap."""
    steps: int
    epochs: float | None
    """Passes over the unique tokens, None if those are not known."""
    ratio: float
    memory_bytes: float
    """Reserved bytes on one device, the CUDA context included."""
    bits_per_byte: Interval

    @property
    def train_flops(self) -> float:
        """C = F D."""
        return self.train_flops_per_token * self.train_tokens


def solve(goal: Goal, layout: Layout = DEFAULT, depths: Iterable[int] = EVEN_DEPTHS) -> Solution:
    """The plan for a goal; ValueError with the reason when nothing fits."""
    _check(goal)
    candidates = [goal.depth] if goal.depth is not None else list(depths)
    solutions, reasons = [], []
    for depth in candidates:
        try:
            solutions.append(_solve_depth(goal, layout, depth))
        except ValueError as error:
            reasons.append(str(error))
    if not solutions:
        raise ValueError("; ".join(reasons[:3]))
    return min(solutions, key=lambda found: abs(math.log(_effective_ratio(found) / goal.ratio)))


def largest_rows(goal: Goal, layout: Layout, shape: ModelShape) -> int:
    """Most rows per micro-batch that fit one device under a layout, not rounded."""
    static = layout.static_memory_bytes(shape, goal.optimizer_shards) + layout.fixed_bytes(shape)
    return largest_micro_batch_rows(
        goal.hardware.memory_bytes,
        shape.n_layers,
        shape.d_model,
        shape.vocab_size,
        shape.tokens_per_row,
        static,
        layout.activation_bytes,
        layout.logit_bytes,
        context_bytes(goal.hardware),
    )


def step_overhead_seconds(hardware: Hardware, shape: ModelShape) -> float:
    """Seconds of one optimizer step that no token causes: bookkeeping and, where the MFU leaves it out, Muon."""
    machine = constants_of(hardware.kind)
    seconds = machine.step_overhead_seconds
    if machine.newton_schulz_peak_share is not None:
        flops = muon_step_flops(shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.mlp_width)
        seconds += flops / (machine.newton_schulz_peak_share * hardware.peak_flops())
    return seconds


def context_bytes(hardware: Hardware) -> float:
    """Memory a training process takes before the first tensor."""
    return DEVICE_CONTEXT_BYTES if hardware.kind == "gpu" else HOST_PROCESS_BYTES


def _solve_depth(goal: Goal, layout: Layout, depth: int) -> Solution:
    shape = layout.shape(depth, goal.vocab_size, goal.tokens_per_row)
    limit = largest_rows(goal, layout, shape)
    if limit < 1:
        raise ValueError(
            f"depth {depth} does not fit {goal.hardware.name} "
            f"({goal.hardware.memory_bytes / 1e9:.1f} GB) with rows of {goal.tokens_per_row} tokens"
        )
    flops = layout.train_flops_per_token(shape)
    mfu = goal.mfu or goal.hardware.mfu
    rate = tokens_per_second(mfu, flops, goal.devices, goal.hardware.peak_flops())
    seconds = goal.hours * 3600 * goal.pretrain_share
    overhead = step_overhead_seconds(goal.hardware, shape)
    batch = _batch_tokens(goal, max(1.0, rate * seconds))
    steps = max(1, round(seconds / (batch / rate + overhead)))
    rows = _micro_batch_rows(goal, limit, batch)
    tokens = steps * batch
    scaling = layout.scaling_parameters(shape)
    useful = effective_tokens(goal.unique_tokens, tokens) if goal.unique_tokens else float(tokens)
    return Solution(
        goal=goal,
        shape=shape,
        total_parameters=layout.total_parameters(shape),
        scaling_parameters=scaling,
        train_flops_per_token=flops,
        mfu=mfu,
        tokens_per_second=rate,
        train_tokens=tokens,
        batch_tokens=batch,
        micro_batch_rows=rows,
        micro_batch_rows_limit=limit,
        steps=steps,
        epochs=tokens / goal.unique_tokens if goal.unique_tokens else None,
        ratio=tokens / scaling,
        memory_bytes=_reserved_bytes(goal, layout, shape, rows),
        bits_per_byte=expected_bits_per_byte(flops * useful, off_ratio_penalty(scaling, useful)),
    )


def _effective_ratio(found: Solution) -> float:
    if not found.goal.unique_tokens:
        return found.ratio
    return effective_tokens(found.goal.unique_tokens, found.train_tokens) / found.scaling_parameters


def _batch_tokens(goal: Goal, train_tokens: float) -> int:
    """Tokens per step: the given number, or the batch rule kept small enough for `minimum_steps` steps."""
    one_row_each = goal.tokens_per_row * goal.devices
    if goal.batch_tokens is not None:
        if goal.batch_tokens % one_row_each:
            raise ValueError(
                f"batch_tokens={goal.batch_tokens} is no multiple of tokens_per_row * devices = {one_row_each}; "
                f"use {max(1, round(goal.batch_tokens / one_row_each)) * one_row_each}"
            )
        return goal.batch_tokens
    wanted = min(power_lines_batch_tokens(train_tokens), train_tokens / goal.minimum_steps)
    return max(1, power_of_two_floor(int(wanted // one_row_each))) * one_row_each


def _micro_batch_rows(goal: Goal, limit: int, batch_tokens: int) -> int:
    """Rows per device and pass: given, or the largest divisor of the batch that fits and still helps throughput."""
    rows_per_device = batch_tokens // (goal.tokens_per_row * goal.devices)
    if goal.micro_batch_rows is not None:
        rows = goal.micro_batch_rows
        if rows > limit or rows_per_device % rows:
            raise ValueError(
                f"micro_batch_rows={rows} must divide {rows_per_device} rows per device and step and be at most "
                f"{limit}, which fit {goal.hardware.name}"
            )
        return rows
    useful = max(1, constants_of(goal.hardware.kind).micro_batch_tokens // goal.tokens_per_row)
    most = min(limit, useful, rows_per_device)
    return next(rows for rows in range(most, 0, -1) if rows_per_device % rows == 0)


def _reserved_bytes(goal: Goal, layout: Layout, shape: ModelShape, rows: int) -> float:
    static = layout.static_memory_bytes(shape, goal.optimizer_shards) + layout.fixed_bytes(shape)
    growing = training_memory_bytes(
        shape.n_layers,
        shape.d_model,
        shape.vocab_size,
        shape.tokens_per_row,
        rows,
        0.0,
        layout.activation_bytes,
        layout.logit_bytes,
    )
    return RESERVED_OVER_ALLOCATED * growing + static + context_bytes(goal.hardware)


def memory_fits(found: Solution) -> bool:
    """True if the predicted memory stays within the share of the device a plan may fill."""
    return found.memory_bytes <= found.goal.hardware.memory_bytes * USABLE_MEMORY_SHARE


def _check(goal: Goal) -> None:
    positive = {
        "hours": goal.hours,
        "devices": goal.devices,
        "tokens_per_row": goal.tokens_per_row,
        "vocab_size": goal.vocab_size,
        "ratio": goal.ratio,
        "pretrain_share": goal.pretrain_share,
    }
    for name, value in positive.items():
        if value <= 0:
            raise ValueError(f"{name}={value}: allowed are positive numbers")
    if goal.pretrain_share > 1:
        raise ValueError(f"pretrain_share={goal.pretrain_share}: allowed are shares up to 1")
