"""Numbers of 08_export_cost.md."""

from dataclasses import replace

from pipeline_math.documents.examples import D12, recorded_shape
from pipeline_math.documents.levers import D20, TARGET_ALIGN, TARGET_HEADER, stage_parts, target
from pipeline_math.documents.number import Number, compute, constant, minus, over
from pipeline_math.documents.recorded import amount, ledger_values, measured
from pipeline_math.documents.table import Cell, Table
from pipeline_math.evaluation_cost import forward_flops
from pipeline_math.export_cost import (
    StoredTensor,
    load_seconds,
    tensor_bytes,
    tensors_file_bytes,
    upload_seconds,
    write_seconds,
)
from pipeline_math.layouts import research_total_parameters
from pipeline_math.model_flops_vram import ModelShape, scaling_parameters, total_parameters
from pipeline_math.serving_memory import serving_memory

DISK_BYTES_PER_SECOND = 5e8
"""Chosen: a SATA solid-state disk; a network volume has a tenth, an NVMe disk ten times as much."""
NETWORK_MEGABITS_PER_SECOND = 100.0
"""Chosen: an office's upload."""
NETWORK_BITS_PER_SECOND = 1e6 * NETWORK_MEGABITS_PER_SECOND
COMPARED_TOKENS = 512
"""Chosen: tokens on which two implementations are compared."""
KV_GROUPS = 5
"""Chosen: query heads that share one key-value head."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    tables = {"sizes": _sizes(), "parts": stage_parts("export"), "targets": _targets()}
    return _own() | _public() | tables | ledger_values("export")


def exported_tensors(shape: ModelShape, dtype: str) -> list[StoredTensor]:
    """Names and shapes of the weights of NanoChatForCausalLM: six matrices per layer, embedding, head."""
    keys, width, inner = shape.n_kv_heads * shape.head_dim, shape.d_model, shape.mlp_width
    blocks = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
    }
    tables = [
        StoredTensor(name, (shape.vocab_size, width), dtype) for name in ("lm_head.weight", "model.embed_tokens.weight")
    ]
    return tables + [
        StoredTensor(f"model.layers.{layer}.{name}.weight", size, dtype)
        for layer in range(shape.n_layers)
        for name, size in blocks.items()
    ]


def exported_file_bytes(shape: ModelShape, dtype: str) -> int:
    """Bytes of model.safetensors from the shape alone."""
    return tensors_file_bytes(exported_tensors(shape, dtype), {"format": "pt"})


def grouped(shape: ModelShape, groups: int) -> ModelShape:
    """The shape with `groups` query heads per key-value head."""
    return replace(shape, n_kv_heads=shape.n_heads // groups)


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_08.{name}", unit)


def _file(shape: ModelShape, dtype: str) -> Number:
    return compute(exported_file_bytes, shape, dtype, unit="B")


def _own() -> dict[str, Number | Table]:
    shape = recorded_shape("sft")
    stored, seconds = measured("export", "export_bytes"), measured("export", "seconds")
    floor = compute(write_seconds, stored, DISK_BYTES_PER_SECOND, unit="s")
    return {
        "own_parameters": amount("export", "parameters"),
        "own_bytes": stored,
        "own_from_shape": _file(shape, "fp32"),
        "own_write": floor,
        "own_seconds": seconds,
        "own_write_share": over(floor, seconds, "share"),
    }


def _public() -> dict[str, Number | Table]:
    plain = compute(total_parameters, D12, unit="parameters")
    research = compute(research_total_parameters, D12, unit="parameters")
    stored = _file(D12, "bf16")
    tensors = compute(tensor_bytes, int(plain.value), "bf16", unit="B")
    return {
        "d12_parameters": plain,
        "d12_tensors": tensors,
        "d12_header": minus(stored, tensors),
        "research_parameters": research,
        "research_bytes": compute(tensor_bytes, int(research.value), "bf16", unit="B"),
        "compared_tokens": _chosen("COMPARED_TOKENS", "tokens"),
        "compared_flops": compute(forward_flops, scaling_parameters(D12), COMPARED_TOKENS, unit="FLOP"),
        "disk": _chosen("DISK_BYTES_PER_SECOND", "B/s"),
        "network": _chosen("NETWORK_MEGABITS_PER_SECOND", "Mbit/s"),
    }


def _sizes() -> Table:
    link = constant("hardware_table.PCIE4_X16", "B/s")
    lines: list[list[Cell]] = []
    for name, shape in (("this project's", recorded_shape("sft")), ("d12", D12), ("d20", D20)):
        half = _file(shape, "bf16")
        lines.append(
            [
                name,
                compute(total_parameters, shape, unit="parameters"),
                _file(shape, "fp32"),
                half,
                compute(write_seconds, half, DISK_BYTES_PER_SECOND, unit="s"),
                compute(upload_seconds, half, NETWORK_BITS_PER_SECOND, unit="s"),
                compute(load_seconds, half, DISK_BYTES_PER_SECOND, link, unit="s"),
                compute(serving_memory, shape, 1, shape.tokens_per_row, unit="B", pick="total_bytes"),
            ]
        )
    header = ("model", "parameters", "fp32", "bf16", "write", "upload", "load", "serve one")
    return Table(header, lines)


def _targets() -> Table:
    own, link = recorded_shape("sft"), constant("hardware_table.PCIE4_X16", "B/s")
    file = _file(D20, "bf16")
    lines = [
        target("bf16 instead of fp32 (this project's file)", "io", _file(own, "fp32"), _file(own, "bf16")),
        target(
            "bf16 instead of fp32 (upload of a d12)",
            "io",
            compute(upload_seconds, _file(D12, "fp32"), NETWORK_BITS_PER_SECOND, unit="s"),
            compute(upload_seconds, _file(D12, "bf16"), NETWORK_BITS_PER_SECOND, unit="s"),
        ),
        target(
            "one table for embedding and head (this project's; another architecture)",
            "memory",
            compute(total_parameters, own, unit="parameters"),
            compute(scaling_parameters, own, unit="parameters"),
        ),
        target(
            "five query heads per key-value head (d20; train it so)",
            "memory",
            compute(total_parameters, D20, unit="parameters"),
            compute(total_parameters, grouped(D20, KV_GROUPS), unit="parameters"),
        ),
        target(
            "second load, the file still in the page cache (d20, bf16)",
            "io",
            compute(load_seconds, file, DISK_BYTES_PER_SECOND, link, unit="s"),
            compute(write_seconds, file, link, unit="s"),
        ),
    ]
    return Table(TARGET_HEADER, lines, TARGET_ALIGN)
