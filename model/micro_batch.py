"""How many rows of a step a device computes at once: forecast, confirmed by one probe, halved when memory runs out.

The loss of a step is a sum over its tokens divided by their global count, so rows may be computed in any portions:
what is found here decides speed and memory, never the gradient.

Covered: errors that say "out of memory" (CUDA, MPS, torch's CPU allocator, Python). Not covered: a CPU process that
the system kills, which raises nothing; there only the forecast from the memory that is free protects.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from model.attention import LONGEST_EXPLICIT_ROW, QUERY_BLOCK, SMALL_QUERY_BLOCK
from model.device_memory import allocated_bytes, free_bytes, free_unused_memory, peak_bytes, reset_peak
from model.gpt import GPT
from model.loss import softcap_cross_entropy
from model.ranks import rank_and_world_size
from model.shape_of_config import extras_of_config, shape_of_config
from model.sharding import is_sharded
from pipeline_math.memory_constants import USEFUL_MICRO_BATCH_TOKENS
from pipeline_math.model_flops_vram import ModelShape
from pipeline_math.static_memory import StaticBytes, default_static, gathered_bytes
from pipeline_math.training_memory import MemoryOptions, largest_rows, training_memory

Result = TypeVar("Result")
PROBE_SHARE_ON_CPU = 0.5
"""A CPU is probed only if the forecast takes more than this share of the free memory: short of that it cannot fail."""
_OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


@dataclass(frozen=True)
class MicroBatch:
    """What was chosen, and on what grounds."""

    rows: int
    """Rows of this rank computed at once."""
    rows_that_fit: int | None
    """Most rows that fit by forecast, divisor or not; None where the free memory is unknown."""
    free_bytes: int | None
    """Memory of the device that this rank could still take."""
    forecast_bytes: float
    """What the step takes beyond what is allocated now, gradients and optimizer state included."""
    measured_bytes: int | None
    """What the probe took, without optimizer state; on a CPU an upper bound. None where nothing was probed."""


def is_out_of_memory(error: BaseException) -> bool:
    """True if the error, or what caused it, is a lack of memory: a smaller micro-batch may help."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def divided_rows(step_rows: int, most: int) -> int:
    """Rows per micro-batch, at most `most`: the largest divisor of a step's rows, so that all shapes are equal.

    If that is less than half of what fits (7 rows where 6 fit), the most even uneven split (4 + 3). ValueError below 1.
    """
    if step_rows < 1 or most < 1:
        raise ValueError(f"micro-batch: {step_rows} rows per step, at most {most} at once; allowed: at least 1 of each")
    most = min(most, step_rows)
    even = next(rows for rows in range(most, 0, -1) if step_rows % rows == 0)
    if 2 * even >= most:
        return even
    passes = -(-step_rows // most)
    return -(-step_rows // passes)


def halved(rows: int, step_rows: int | None = None, tokens_per_row: int | None = None) -> int:
    """The next smaller micro-batch: at most half, dividing `step_rows` (None: `rows`). ValueError for a single row."""
    if rows < 1:
        raise ValueError(f"micro_batch_rows={rows}; allowed: 1 or more")
    if rows == 1:
        tokens = "" if tokens_per_row is None else f" of {tokens_per_row} tokens"
        raise ValueError(
            f"a single row{tokens} does not fit the memory of the device; "
            f"next: activation recomputation, shorter rows or a smaller model"
        )
    return divided_rows(step_rows or rows, rows // 2)


def run_with_smaller_batches(
    compute: Callable[[int], Result],
    rows: int,
    *,
    undo: Callable[[], None],
    step_rows: int | None = None,
    tokens_per_row: int | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Result, int]:
    """`compute(rows)`, again with half the rows whenever memory runs out; -> (its result, the rows that worked).

    `undo` removes what a failed try has done (gradients it added), before memory is freed. Other errors pass through.
    Must not be used around collective calls (a sharded model's passes are): another rank would wait for ever.
    """
    while True:
        failure = None
        try:
            return compute(rows), rows
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).partition("\n")[0]
        # Out of the except block: the traceback kept every tensor of the failed try alive.
        undo()
        free_unused_memory()
        smaller = halved(rows, step_rows, tokens_per_row)
        note(f"out of memory with {rows} rows at once ({failure}); going on with {smaller}, same batch and same loss")
        rows = smaller


def largest_micro_batch(
    model: GPT,
    step_rows: int,
    tokens_per_row: int,
    *,
    most_rows: int | None = None,
    compiled: bool = False,
    optimizer_bytes: float | None = None,
    ranks_on_device: int | None = None,
    probe: bool | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> MicroBatch:
    """The micro-batch for `step_rows` rows of this rank per step: as many rows as fit and are of use.

    Of use: up to `most_rows`, by default `USEFUL_MICRO_BATCH_TOKENS` of the kind of device: beyond, a GPU gains nothing
    and a CPU loses its cache. Fit: `training_memory` within the free memory, confirmed by one forward and backward pass
    over random ids (`probe` None: on a GPU always, on a CPU if it is close). `optimizer_bytes`: what the optimizer will
    still allocate; None takes its whole state, over the ranks. `ranks_on_device` None: on a CPU all of this machine,
    else one. Weights, gradients and random number generators stay as they were. A sharded model is not probed, because
    its ranks compute together: the caller takes the least of all ranks. ValueError where a single row does not fit.
    """
    kind = "cpu" if model.device.type == "cpu" else "gpu"
    shape, options = shape_of_config(model.config, tokens_per_row), memory_options(model, tokens_per_row, compiled)
    if ranks_on_device is None:
        ranks_on_device = _ranks_on_this_machine() if kind == "cpu" else 1
    free = free_bytes(model.device, ranks_on_device)
    static = _still_to_come(model, shape, optimizer_bytes)
    useful = most_rows or max(1, USEFUL_MICRO_BATCH_TOKENS[kind] // tokens_per_row)
    fitting = None if free is None else largest_rows(max(1, free), shape, static, options)
    if fitting == 0 and kind == "cpu":
        halved(1, tokens_per_row=tokens_per_row)  # raises: a try would end with the process being killed
    rows = divided_rows(step_rows, min(useful, step_rows, useful if fitting is None else max(1, fitting)))

    def forecast(rows: int) -> float:
        return training_memory(shape, rows, static, options).total_bytes

    if is_sharded(model):
        probe = False
    if probe is None:
        probe = kind == "gpu" or (free is not None and forecast(rows) > PROBE_SHARE_ON_CPU * free)
    if not probe:
        return MicroBatch(rows, fitting, free, forecast(rows), None)

    def tried(rows: int) -> int:
        taken = probe_step(model, rows, tokens_per_row)
        if free is not None and taken + static.optimizer_bytes > free:
            raise MemoryError(f"{taken:,} bytes and {static.optimizer_bytes:,.0f} of the optimizer exceed {free:,}")
        return taken

    taken, rows = run_with_smaller_batches(
        tried, rows, undo=lambda: None, step_rows=step_rows, tokens_per_row=tokens_per_row, note=note
    )
    return MicroBatch(rows, fitting, free, forecast(rows), taken)


def probe_step(model: GPT, rows: int, tokens_per_row: int) -> int:
    """Forward and backward pass over random ids, all supervised -> bytes it took at most beyond what was allocated.

    On a GPU torch's record of reserved memory (its peak is reset), elsewhere the resident memory's high-water mark,
    which an earlier peak of the process may have set. Gradients and generators are put back, whatever happens.
    """
    device, parameters = model.device, list(model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    generator = torch.Generator().manual_seed(0)  # its own: the caller's random numbers stay what they were
    ids_BT = torch.randint(model.config.vocab_size, (rows, tokens_per_row), generator=generator).to(device)
    weights_N = torch.full((ids_BT.numel(),), 1 / ids_BT.numel(), device=device)
    free_unused_memory()
    reset_peak(device)
    before = allocated_bytes(device)
    try:
        for parameter in parameters:
            parameter.grad = None
        with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            hidden_ND = model(ids_BT).flatten(0, 1)
            loss = softcap_cross_entropy(
                hidden_ND,
                model.lm_head.weight,
                ids_BT.flatten(),
                weights_N,
                model.config.logit_softcap,
                model.dtype_of_products,
            )
            loss.backward()
        return max(0, peak_bytes(device) - before)
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def memory_options(model: GPT, tokens_per_row: int, compiled: bool = False) -> MemoryOptions:
    """How this model computes a step, as far as memory depends on it, where in doubt the way that takes more.

    `auto` on a CPU becomes a path by measurement: short rows are taken to form their scores. A compiler is counted on
    a GPU only; on a CPU it compiles single layers and is ASSUMED to keep no more than they do without it.
    """
    dtype, on_cpu = model.dtype_of_products, model.device.type == "cpu"
    paths = (getattr(part, "path", None) for part in model.modules())
    path = next((path for path in paths if isinstance(path, str)), "sdpa")
    if path == "auto" and on_cpu:
        path = "explicit" if tokens_per_row <= LONGEST_EXPLICIT_ROW else "sdpa"
    compiled = compiled and not on_cpu
    return MemoryOptions(
        activation_bytes=2 if dtype == torch.bfloat16 else 4,
        kind="cpu" if on_cpu else "gpu",
        threads=torch.get_num_threads(),
        compiled=compiled,
        recompute=bool(getattr(model, "recompute", False)),
        explicit_attention=path in ("explicit", "blocked") and not compiled,
        query_block=SMALL_QUERY_BLOCK if path == "blocked" else QUERY_BLOCK,
        research=extras_of_config(model.config),
        context_bytes=0.0,  # it is there already
    )


def _still_to_come(model: GPT, shape: ModelShape, optimizer_bytes: float | None) -> StaticBytes:
    """Static memory that is not allocated yet: gradients, optimizer state, what a sharded model gathers."""
    ranks = rank_and_world_size()[1]
    gradients = sum(_local_bytes(weight) for weight in model.parameters() if weight.grad is None)
    if optimizer_bytes is None:
        extras = extras_of_config(model.config)
        static = default_static(shape, ranks) if extras is None else extras.static_bytes(shape, ranks)
        optimizer_bytes = static.optimizer_bytes
    return StaticBytes(gathered_bytes(shape, ranks) if is_sharded(model) else 0.0, float(gradients), optimizer_bytes)


def _ranks_on_this_machine() -> int:
    """torchrun says how many it started here; without it all ranks are taken to be here."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or rank_and_world_size()[1])


def _local_bytes(weight: Tensor) -> int:
    """Bytes on this device, of a sharded weight its part."""
    return int(getattr(weight, "_local_tensor", weight).nbytes)
