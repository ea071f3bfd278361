"""Export: published sizes, and sizes predicted to the byte against files that were written."""

import pytest
import torch
from safetensors.torch import save

from pipeline_math.export_cost import (
    StoredTensor,
    load_seconds,
    safetensors_file_bytes,
    safetensors_header_bytes,
    tensor_bytes,
    tensors_file_bytes,
    upload_seconds,
    write_seconds,
)
from pipeline_math.layouts import RESEARCH
from pipeline_math.model_flops_vram import shape_of_depth, total_parameters

TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def test_published_file_sizes():
    d12 = shape_of_depth(12, 32768, 2048)
    assert tensor_bytes(RESEARCH.total_parameters(d12), "bf16") / 1e6 == pytest.approx(573, abs=0.5)
    assert tensor_bytes(total_parameters(d12), "bf16") / 1e6 == pytest.approx(270.5, abs=0.05)
    assert safetensors_file_bytes(total_parameters(d12), "bf16", 1000) == 8 + 1000 + 270_532_608


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
@pytest.mark.parametrize(
    "shapes",
    [
        {"w": ((3, 5), "fp32")},
        {"b": ((3,), "bf16"), "a": ((2, 3), "fp32"), "scalar": ((), "fp32"), "h": ((7,), "fp16"), "ü": ((1,), "bf16")},
        {f"model.layers.{i}.mlp.{name}.weight": ((4 + i, 8), "bf16") for i in range(12) for name in ("fc1", "fc2")},
    ],
)
def test_sizes_equal_files_written_by_safetensors(shapes, metadata):
    written = save({name: torch.zeros(shape, dtype=TORCH[dtype]) for name, (shape, dtype) in shapes.items()}, metadata)
    tensors = [StoredTensor(name, shape, dtype) for name, (shape, dtype) in shapes.items()]
    assert safetensors_header_bytes(tensors, metadata) == int.from_bytes(written[:8], "little")
    assert tensors_file_bytes(tensors, metadata) == len(written)


def test_bad_tensors_are_refused():
    with pytest.raises(ValueError, match="int4"):
        tensor_bytes(1, "int4")
    with pytest.raises(ValueError, match="int4"):
        StoredTensor("w", (1,), "int4")
    with pytest.raises(ValueError, match="shape of w"):
        StoredTensor("w", (2, -1), "fp32")
    with pytest.raises(ValueError, match="twice"):
        tensors_file_bytes([StoredTensor("w", (1,), "fp32")] * 2)


def test_seconds_to_write_upload_and_load():
    assert write_seconds(1e9, 5e8) == 2
    assert upload_seconds(1e9, 1e9) == 8  # a gigabyte over a gigabit line
    assert upload_seconds(1e9, 1e9, round_trip_seconds=0.1) == pytest.approx(8.1)
    assert load_seconds(1e9, 5e8, 1e10) == pytest.approx(2.1)
