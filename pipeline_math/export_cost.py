"""Step 8, export: sizes to the byte, and the time to write, upload and load them.

Cost type: io. The safetensors format: 8 bytes with the length of the header, a JSON header, then all tensors without
gaps (huggingface/safetensors).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline_math.checks import checked, positive, whole

BYTES_PER_PARAMETER = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Stored bytes of one parameter by dtype name."""
SAFETENSORS_DTYPES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
"""What a header calls them."""
SAFETENSORS_LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header."""
HEADER_ALIGNMENT_BYTES = 8
"""The header is filled with spaces to a multiple of this, so that tensors are aligned."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        for length in self.shape:
            whole(0, **{f"shape of {self.name}": length})
        _known(self.dtype)

    @property
    def stored_bytes(self) -> int:
        """Elements times bytes each; a scalar has one element."""
        return math.prod(self.shape) * BYTES_PER_PARAMETER[self.dtype]


@checked
def tensor_bytes(parameters: int, dtype: str) -> int:
    """Bytes of all tensors; ValueError for a dtype that is not stored here."""
    _known(dtype)
    return parameters * BYTES_PER_PARAMETER[dtype]


@checked
def safetensors_file_bytes(parameters: int, dtype: str, header_bytes: int) -> int:
    """Exact size of model.safetensors: 8 + header + tensors."""
    return SAFETENSORS_LENGTH_BYTES + header_bytes + tensor_bytes(parameters, dtype)


def safetensors_header_bytes(tensors: Iterable[StoredTensor], metadata: Mapping[str, str] | None = None) -> int:
    """Exact length of the header: compact JSON, tensors by falling element size and then by name, filled to 8 bytes.

    `metadata` comes first; Hugging Face writes {"format": "pt"}. ValueError if two tensors share a name.
    """
    ordered = sorted(tensors, key=lambda tensor: (-BYTES_PER_PARAMETER[tensor.dtype], tensor.name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for tensor in ordered:
        if tensor.name in header:
            raise ValueError(f"tensor {tensor.name!r} occurs twice; names in a file are unique")
        end = offset + tensor.stored_bytes
        header[tensor.name] = {
            "dtype": SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return math.ceil(length / HEADER_ALIGNMENT_BYTES) * HEADER_ALIGNMENT_BYTES


def tensors_file_bytes(tensors: Iterable[StoredTensor], metadata: Mapping[str, str] | None = None) -> int:
    """Exact size of a safetensors file from names, shapes and dtypes alone: 8 + header + sum of tensor bytes."""
    tensors = list(tensors)
    header = safetensors_header_bytes(tensors, metadata)
    return SAFETENSORS_LENGTH_BYTES + header + sum(tensor.stored_bytes for tensor in tensors)


@checked
def write_seconds(file_bytes: float, disk_bytes_per_second: float) -> float:
    """Seconds to write a file, bytes / bandwidth. Left out: fsync latency, conversion to the stored dtype."""
    positive(disk_bytes_per_second=disk_bytes_per_second)
    return file_bytes / disk_bytes_per_second


@checked
def upload_seconds(file_bytes: float, network_bits_per_second: float, round_trip_seconds: float = 0.0) -> float:
    """Seconds to upload a file, 8 bytes / (bit/s) + one round trip. Networks are sold in bits, disks in bytes."""
    positive(network_bits_per_second=network_bits_per_second)
    return 8.0 * file_bytes / network_bits_per_second + round_trip_seconds


@checked
def load_seconds(file_bytes: float, disk_bytes_per_second: float, device_bytes_per_second: float) -> float:
    """Seconds to bring a file to a device: read from disk, then copy, one after the other.

    Left out: the page cache, which makes a second load skip the first term.
    """
    positive(disk_bytes_per_second=disk_bytes_per_second, device_bytes_per_second=device_bytes_per_second)
    return file_bytes / disk_bytes_per_second + file_bytes / device_bytes_per_second


def _known(dtype: str) -> None:
    if dtype not in BYTES_PER_PARAMETER:
        raise ValueError(f"dtype {dtype!r} is not stored; allowed: {', '.join(BYTES_PER_PARAMETER)}")
