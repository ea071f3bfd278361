"""Numbers of 04_model_flops_vram.md."""

from dataclasses import replace

from pipeline_math.documents import examples
from pipeline_math.documents.examples import chosen, recorded_hardware, recorded_shape
from pipeline_math.documents.number import Number, compute, constant, minus, plus
from pipeline_math.documents.public_cases import MEMORY_CASES
from pipeline_math.documents.recorded import amount, ledger_values, measured
from pipeline_math.documents.table import Cell, Quoted, Shown, Table, levers
from pipeline_math.hardware import HARDWARE
from pipeline_math.layouts import mixed_static_bytes, sssl_windows, value_embedding_parameters
from pipeline_math.memory_constants import HOST_PROCESS_BYTES, training_memory_bytes
from pipeline_math.model_flops_vram import (
    FLOPS_CONVENTIONS,
    ModelShape,
    checkpoint_bytes,
    flops_by_convention,
    recomputed_flops_per_token,
    scaling_parameters,
    shape_block_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
    total_parameters,
    windowed_flops_per_token,
)
from pipeline_math.static_memory import default_static, static_memory_bytes
from pipeline_math.step_time import uses_explicit_attention
from pipeline_math.training_memory import MemoryOptions, largest_rows, training_memory

DEPTHS = (4, 8, 12, 20, 26, 32)
"""Models of the table of sizes."""
EXAMPLE_ROWS = 32
"""Rows of a micro-batch in the breakdown: a public d12 ran with as many in 34 GB."""
OPTIONS = {
    "chunked loss": MemoryOptions(),
    "all logits kept": MemoryOptions(chunked_loss=False),
    "layers recomputed": MemoryOptions(recompute=True),
    "compiled": MemoryOptions(compiled=True),
}
"""Ways to compute the same step, each a change of the first."""
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "attention_scores", "fragmentation", "context")
DEVICES = ("rtx4090", "a100-40gb", "h100", "h200")
"""Device classes of the table of micro-batches."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    wanted = ("architecture", "pretrain.peak_memory_bytes", "pretrain.checkpoint_bytes", "midtrain.peak_memory_bytes")
    return _sizes() | _memory() | _own() | {"targets": _targets()} | ledger_values(*wanted, "sft.peak_memory_bytes")


def _shape(depth: int, vocab_size: int = examples.VOCABULARY) -> ModelShape:
    return shape_of_depth(depth, vocab_size, examples.ROW)


def _sizes() -> dict[str, Number | Table]:
    lines: list[list[Cell]] = []
    for depth in DEPTHS:
        shape = _shape(depth)
        lines.append(
            [
                f"d{depth}",
                compute(model_width, depth, unit=""),
                compute(shape_block_parameters, shape, unit="parameters"),
                compute(scaling_parameters, shape, unit="parameters"),
                Shown(compute(total_parameters, shape, unit="parameters"), ".4g"),
                Shown(compute(shape_train_flops_per_token, shape, unit="FLOP/token"), ".4g"),
                compute(checkpoint_bytes, shape, unit="B"),
                compute(static_memory_bytes, shape, unit="B"),
            ]
        )
    header = ("model", "width", "blocks", "scaling (blocks + head)", "all", "F", "checkpoint, fp32", "static memory")
    d12 = examples.D12
    conventions: list[list[Cell]] = [
        [f"`{name}`", Quoted(formula), compute(flops_by_convention, d12, pick=name, unit="FLOP/token")]
        for name, formula in FLOPS_CONVENTIONS.items()
    ]
    windows = sssl_windows(d12.n_layers, d12.tokens_per_row)
    return {
        "sizes": Table(header, lines),
        "vocabulary": chosen("VOCABULARY", ""),
        "row": chosen("ROW", ""),
        "conventions": Table(("name", "F", "d12"), conventions, "llr"),
        "windowed": compute(windowed_flops_per_token, d12, windows, unit="FLOP/token"),
    }


def _memory() -> dict[str, Number | Table]:
    lines: list[list[Cell]] = []
    for part in (*PARTS, "total"):
        cells = [_part(option, part) for option in OPTIONS.values()]
        lines.append([part.replace("_", " "), *cells])
    fits: list[list[Cell]] = []
    for device in DEVICES:
        memory = HARDWARE[device].memory_bytes
        row: list[Cell] = [f"`{device}`", constant(f"hardware.HARDWARE.{device}.memory_bytes", "B")]
        for depth in (12, 20, 26):
            shape = _shape(depth)
            for option in ("chunked loss", "all logits kept"):
                row.append(compute(largest_rows, memory, shape, default_static(shape), OPTIONS[option], unit=""))
        fits.append(row)
    header = [f"{name}, {kind}" for name in ("d12", "d20", "d26") for kind in ("chunked", "all logits")]
    whole, chunked = (_part(OPTIONS[name], "total") for name in ("all logits kept", "chunked loss"))
    return {
        "rows": constant("documents.step_04.EXAMPLE_ROWS", "rows"),
        "chunk_saves": minus(whole, chunked),
        "breakdown": Table(("part", *OPTIONS), lines),
        "fits": Table(("device", "memory", *header), fits),
        "cases": Table(("case", "predicted", "device has", "so it", "reported", "source"), memory_cases(), "lrrlll"),
        "k": constant("memory_constants.COMPILED_ACTIVATION_BYTES", ""),
        "g": constant("memory_constants.FULL_LOGIT_BYTES", ""),
        "reserved": constant("memory_constants.RESERVED_OVER_ALLOCATED", ""),
        "usable": constant("memory_constants.USABLE_MEMORY_SHARE", "share"),
        "chunk_logit": constant("training_memory.CHUNK_LOGIT_BYTES", ""),
        "eager_logit": constant("training_memory.EAGER_LOGIT_BYTES", ""),
    }


def _part(options: MemoryOptions, part: str, shape: ModelShape = examples.D12, rows: int = EXAMPLE_ROWS) -> Number:
    return compute(training_memory, shape, rows, default_static(shape), options, pick=f"{part}_bytes", unit="B")


def memory_cases() -> list[list[Cell]]:
    """One row per published report: what is needed, what there is, the verdict, and what was reported."""
    lines: list[list[Cell]] = []
    for index, case in enumerate(MEMORY_CASES):
        shape = _shape(case.depth, case.vocab_size)
        extra = value_embedding_parameters(shape) if case.value_embeddings else 0
        static = compute(mixed_static_bytes, shape, case.optimizer_shards, extra, unit="B")
        size = (shape.n_layers, shape.d_model, shape.vocab_size, shape.tokens_per_row, case.rows)
        needed = compute(training_memory_bytes, *size, static, unit="B")
        has = constant(f"documents.public_cases.MEMORY_CASES.{index}.device_bytes", "B")
        lines.append(
            [
                Quoted(case.name),
                needed,
                has,
                "fits" if needed.value <= has.value else "runs out",
                "fits" if case.fits else "runs out",
                Quoted(case.citation),
            ]
        )
    return lines


def _own() -> dict[str, Number | Table]:
    shape, hardware = recorded_shape("pretrain"), recorded_hardware("pretrain")
    options = MemoryOptions(
        activation_bytes=2 if hardware.precision() == "bf16" else 4,
        kind=hardware.kind,
        explicit_attention=uses_explicit_attention(hardware, shape.tokens_per_row),
    )
    if hardware.kind == "cpu":  # no allocator of its own, no device context
        options = replace(options, reserved_over_allocated=1.0, context_bytes=HOST_PROCESS_BYTES)
    rows = amount("pretrain", "micro_batch_rows", "step_seconds")
    lines: list[list[Cell]] = [
        [part.replace("_", " "), _part(options, part, shape, int(rows.value))] for part in (*PARTS, "total")
    ]
    return {
        "own_parameters": measured("architecture", "parameters"),
        "own_flops": measured("architecture", "train_flops_per_token"),
        "own_checkpoint": measured("architecture", "checkpoint_bytes"),
        "own_rows": rows,
        "own_peak": measured("pretrain", "peak_memory_bytes"),
        "own_breakdown": Table(("part", "counted"), lines),
    }


def model_width(depth: int) -> int:
    """Channels of the default layout at a depth."""
    return _shape(depth).d_model


def _targets() -> Table:
    d12, d20 = examples.D12, _shape(20)
    chunked, whole, again, compiled = (OPTIONS[name] for name in OPTIONS)
    flops = compute(shape_train_flops_per_token, d12, unit="FLOP/token")
    again_flops = compute(recomputed_flops_per_token, d12, "full", unit="FLOP/token")
    wide = compute(shape_train_flops_per_token, _shape(12, examples.LARGE_VOCABULARY), unit="FLOP/token")
    memory = HARDWARE["rtx4090"].memory_bytes
    rows_whole, rows_chunked = (
        compute(largest_rows, memory, d12, default_static(d12), options, unit="rows") for options in (whole, chunked)
    )
    alone, shared = (compute(static_memory_bytes, d20, shards, unit="B") for shards in (1, 8))
    grouped = ModelShape(**(vars(d12) | {"n_kv_heads": 2}))
    fewer = compute(shape_train_flops_per_token, grouped, unit="FLOP/token")

    def activations(options: MemoryOptions) -> Number:
        return _part(options, "activations")

    return levers(
        (
            ("chunked cross-entropy, d12 (logits)", "memory", _part(whole, "logits"), _part(chunked, "logits")),
            ("the same: the whole step", "memory", _part(whole, "total"), _part(chunked, "total")),
            ("the same: micro-batch on an rtx4090", "memory", rows_whole, rows_chunked),
            ("recompute layers, d12 (activations)", "memory", activations(chunked), activations(again)),
            ("the same: FLOPs computed per token", "compute", flops, plus(flops, again_flops)),
            ("torch.compile, d12 (activations)", "memory", activations(chunked), activations(compiled)),
            ("shard the optimizer over eight devices, d20 (static)", "memory", alone, shared),
            ("a third of the key/value heads, d12 (F)", "compute", flops, fewer),
            ("double the vocabulary, d12 (F)", "compute", flops, wide),
        )
    )
