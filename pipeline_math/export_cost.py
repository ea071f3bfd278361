"""Step 8, export: file sizes and the time to write them."""

BYTES_PER_PARAMETER = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Stored bytes of one parameter by dtype name."""
SAFETENSORS_LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header."""


def tensor_bytes(parameters: int, dtype: str) -> int:
    """Bytes of all tensors; ValueError for a dtype that is not stored here."""
    if dtype not in BYTES_PER_PARAMETER:
        raise ValueError(f"dtype {dtype!r} is not stored; allowed: {', '.join(BYTES_PER_PARAMETER)}")
    return parameters * BYTES_PER_PARAMETER[dtype]


def safetensors_file_bytes(parameters: int, dtype: str, header_bytes: int) -> int:
    """Exact size of model.safetensors: 8 + header + tensors (the safetensors format)."""
    return SAFETENSORS_LENGTH_BYTES + header_bytes + tensor_bytes(parameters, dtype)


def write_seconds(file_bytes: float, disk_bytes_per_second: float) -> float:
    """Seconds to write a file, bytes / bandwidth. Left out: fsync latency."""
    return file_bytes / disk_bytes_per_second
