"""Step 0, one candidate: the plan of a given depth and a given time for pretraining.

Depth fixes the shape; memory fixes the micro-batch; the time of a step and the seconds fix batch and tokens. The
architecture comes in as a `Layout` of plain functions. Which depth is best is decided in `target_budget`, whether it is
allowed at all in `feasibility`.
"""

import math

from pipeline_math import training_memory
from pipeline_math.constants import prior_of
from pipeline_math.data_filtering import effective_tokens
from pipeline_math.forecast import Calibration
from pipeline_math.goal import Goal, Solution, equivalent_mfu
from pipeline_math.interval import Interval
from pipeline_math.layouts import Layout
from pipeline_math.loss_law import (
    BEST_RATIO,
    CHINCHILLA_A,
    CHINCHILLA_ALPHA,
    CHINCHILLA_B,
    CHINCHILLA_BETA,
    CHINCHILLA_E,
    expected_bits_per_byte,
)
from pipeline_math.memory_constants import DEVICE_CONTEXT_BYTES, HOST_PROCESS_BYTES, USEFUL_MICRO_BATCH_TOKENS
from pipeline_math.model_flops_vram import ModelShape, power_of_two_floor
from pipeline_math.pretrain_step import BATCH_AT_REFERENCE, power_lines_batch_tokens
from pipeline_math.step_time import training_step_seconds, uses_explicit_attention
from pipeline_math.training_memory import MemoryBreakdown, MemoryOptions, StaticBytes

PARAMETER_HALF_LIFE = 5.309743
"""R*_N of Muennighoff 2023 (arXiv 2305.16264, appendix A): parameters in excess lose value faster than repeats."""


def candidate(
    goal: Goal, layout: Layout, depth: int, pretrain_seconds: float, calibration: Calibration | None = None
) -> Solution:
    """The plan of one depth that pretrains for about `pretrain_seconds`, at least one step.

    ValueError for a batch or micro-batch that does not divide. Whether it fits the memory is not asked here.
    """
    known = calibration or prior_of(goal.hardware)
    shape = layout.shape(depth, goal.vocab_size, goal.tokens_per_row)
    limit = largest_rows(goal, layout, shape)
    batch, rows = _batch(goal, layout, shape, limit, pretrain_seconds, known)
    step_seconds = _step_seconds(goal, layout, shape, batch, rows, known)
    steps = _steps(goal, batch, step_seconds, pretrain_seconds)
    scaling, flops = layout.scaling_parameters(shape), layout.train_flops_per_token(shape)
    return Solution(
        goal=goal,
        layout=layout,
        shape=shape,
        total_parameters=layout.total_parameters(shape),
        scaling_parameters=scaling,
        train_flops_per_token=flops,
        step_seconds=step_seconds,
        train_tokens=steps * batch,
        batch_tokens=batch,
        micro_batch_rows=rows,
        micro_batch_rows_limit=limit,
        steps=steps,
        memory=memory_breakdown(goal, layout, shape, rows),
        bits_per_byte=expected_loss(goal.unique_tokens, scaling, flops, steps * batch, BEST_RATIO),
        distance=expected_loss(goal.unique_tokens, scaling, flops, steps * batch, goal.ratio).value,
    )


def expected_loss(
    unique_tokens: float | None, scaling_parameters: float, flops_per_token: float, tokens: float, best_ratio: float
) -> Interval:
    """Bits per byte after `tokens`: the iso-FLOP law times `ratio_penalty`, both of what teaches.

    Repeated tokens count less than new ones, and so do parameters beyond those that the distinct text can fill, U_N.
    """
    useful_tokens, useful_parameters = tokens, scaling_parameters
    if unique_tokens:
        useful_tokens = effective_tokens(unique_tokens, tokens)
        useful_parameters = effective_parameters(unique_tokens, scaling_parameters, best_ratio)
    flops = flops_per_token * useful_parameters / scaling_parameters * useful_tokens
    return expected_bits_per_byte(flops, ratio_penalty(useful_parameters, useful_tokens, best_ratio))


def effective_parameters(unique_tokens: float, parameters: float, best_ratio: float) -> float:
    """U_N + U_N R* (1 - exp(-R/R*)), U_N = min(N, U / best ratio), R = N/U_N - 1 (arXiv 2305.16264, equation 6)."""
    filled = min(parameters, unique_tokens / best_ratio)
    excess = parameters / filled - 1.0
    return filled * (1.0 + PARAMETER_HALF_LIFE * (1.0 - math.exp(-excess / PARAMETER_HALF_LIFE)))


def ratio_penalty(scaling_parameters: float, tokens: float, best_ratio: float = BEST_RATIO) -> float:
    """Factor >= 1 on the loss of a model with too few or too many tokens, at equal N D; 1 at `best_ratio`.

    (E + R (b x^-a + a x^b) / (a + b)) / (E + R): x = N over the best N of the same N D, R the reducible loss there,
    a and b Chinchilla's exponents (arXiv 2404.10102). Weighted so that the least loss is at the ratio measured for this
    kind of model: Chinchilla's own optimum belongs to other text, and two optima would contradict each other.
    """
    best_parameters = math.sqrt(scaling_parameters * tokens / best_ratio)
    reducible = CHINCHILLA_A / best_parameters**CHINCHILLA_ALPHA
    reducible += CHINCHILLA_B / (best_ratio * best_parameters) ** CHINCHILLA_BETA
    x, exponents = scaling_parameters / best_parameters, CHINCHILLA_ALPHA + CHINCHILLA_BETA
    bend = (CHINCHILLA_BETA * x**-CHINCHILLA_ALPHA + CHINCHILLA_ALPHA * x**CHINCHILLA_BETA) / exponents
    return (CHINCHILLA_E + reducible * bend) / (CHINCHILLA_E + reducible)


def largest_rows(goal: Goal, layout: Layout, shape: ModelShape) -> int:
    """Most rows per micro-batch that fit one device under a layout, not rounded; 0 when not even one does."""
    if goal.device_memory_bytes == 0:
        return 0
    static, options = _memory_options(goal, layout, shape)
    return training_memory.largest_rows(goal.device_memory_bytes, shape, static, options)


def memory_breakdown(goal: Goal, layout: Layout, shape: ModelShape, rows: int) -> MemoryBreakdown:
    """What training with micro-batches of `rows` holds on one device, by part."""
    static, options = _memory_options(goal, layout, shape)
    return training_memory.training_memory(shape, rows, static, options)


def _memory_options(goal: Goal, layout: Layout, shape: ModelShape) -> tuple[StaticBytes, MemoryOptions]:
    hardware = goal.hardware
    options = MemoryOptions(
        activation_bytes=2 if hardware.precision() == "bf16" else 4,
        kind=hardware.kind,
        compiled=layout.compiled,
        chunked_loss=not layout.compiled,
        explicit_attention=not layout.compiled and uses_explicit_attention(hardware, goal.tokens_per_row),
        context_bytes=DEVICE_CONTEXT_BYTES if hardware.kind == "gpu" else HOST_PROCESS_BYTES,
    )
    return layout.static_bytes(shape, goal.optimizer_shards), options


def _step_seconds(
    goal: Goal, layout: Layout, shape: ModelShape, batch_tokens: int, rows: int, known: Calibration
) -> float:
    share_of_peak = equivalent_mfu(goal, layout, shape)
    return training_step_seconds(goal.hardware, shape, batch_tokens, rows, goal.devices, share_of_peak, known)


def _batch(
    goal: Goal, layout: Layout, shape: ModelShape, limit: int, seconds: float, known: Calibration
) -> tuple[int, int]:
    """(tokens per step, rows per micro-batch): given, or the batch rule, halved until there are `minimum_steps` steps.

    No further than one row per device, or one micro-batch where its rows are given.
    """
    useful = max(1, USEFUL_MICRO_BATCH_TOKENS[goal.hardware.kind] // goal.tokens_per_row)
    most = goal.micro_batch_rows or max(1, min(limit, useful))
    row_tokens = goal.row_tokens_of_all_devices
    if goal.batch_tokens is not None:
        return goal.batch_tokens, _micro_batch_rows(goal, most)
    least = row_tokens * (goal.micro_batch_rows or 1)
    large = max(1, power_of_two_floor(BATCH_AT_REFERENCE // least)) * least
    expected = float(goal.train_tokens or seconds * large / _step_seconds(goal, layout, shape, large, most, known))
    expected = max(1.0, expected)
    wanted = min(power_lines_batch_tokens(expected), expected / goal.minimum_steps)
    batch = max(1, power_of_two_floor(int(wanted // least))) * least
    while True:
        rows = goal.micro_batch_rows or _largest_divisor(batch // row_tokens, most)
        # `expected` was timed with a large batch, whose tokens are cheaper: only its own step tells how many there are.
        step_seconds = _step_seconds(goal, layout, shape, batch, rows, known)
        if batch == least or _steps(goal, batch, step_seconds, seconds) >= goal.minimum_steps:
            return batch, rows
        batch //= 2


def _steps(goal: Goal, batch_tokens: int, step_seconds: float, seconds: float) -> int:
    """Steps for the given tokens, else as many as the seconds allow; at least one."""
    if goal.train_tokens is not None:
        return math.ceil(goal.train_tokens / batch_tokens)
    return max(1, round(seconds / step_seconds))


def _micro_batch_rows(goal: Goal, most: int) -> int:
    """Rows per device and pass for a given batch: given too, or the largest divisor up to `most`."""
    assert goal.batch_tokens is not None
    rows, spare = divmod(goal.batch_tokens, goal.row_tokens_of_all_devices)
    if spare or not rows:
        raise ValueError(
            f"batch_tokens={goal.batch_tokens} is no multiple of tokens_per_row * devices = "
            f"{goal.row_tokens_of_all_devices}; use {max(1, round(rows)) * goal.row_tokens_of_all_devices}"
        )
    if goal.micro_batch_rows is None:
        return _largest_divisor(rows, most)
    if rows % goal.micro_batch_rows:
        raise ValueError(f"micro_batch_rows={goal.micro_batch_rows} must divide {rows} rows per device and step")
    return goal.micro_batch_rows


def _largest_divisor(count: int, most: int) -> int:
    return next(rows for rows in range(min(most, count), 0, -1) if count % rows == 0)
