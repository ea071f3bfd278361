"""Which number format the matrix products of this machine should use."""

import functools
import platform
import time
from pathlib import Path

import torch

_NAMES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
REQUESTS = ("auto", *_NAMES)
LARGEST_PRODUCT_ERROR = 1e-5
"""Relative error (2-norm) up to which a float32 product may be computed in a reduced format."""
_PROBE_SIZE = 384


def compute_dtype(device: torch.device | str, requested: str = "auto") -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, otherwise float32; `requested` may fix either.

    Weights stay float32 everywhere; this is the format they are cast to inside a product.
    ValueError for float16: without a scaled loss it overflows, and CPUs multiply it hundreds of times slower.
    """
    device = torch.device(device)
    if requested == "auto":
        return torch.bfloat16 if _multiplies_bf16(device) else torch.float32
    if requested not in _NAMES:
        raise ValueError(
            f"compute format {requested!r} on {device.type} is not supported; allowed: auto, {', '.join(_NAMES)}; "
            f"next: use auto, which takes bfloat16 where the hardware has it"
        )
    return _NAMES[requested]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_multiplies_bf16()


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """True when this CPU has bfloat16 product instructions that torch's library uses (AVX512_BF16, AMX, Arm BF16).

    macOS answers False although its chips have the instruction: torch's products go through a library there that
    converts bfloat16 first and is slower than float32.
    """
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    if any(probe is not None and probe() for probe in probes):
        return True
    return platform.system() == "Linux" and _flags_name_bf16(_read_cpu_description())


def _read_cpu_description() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _flags_name_bf16(description: str) -> bool:
    """True when the flags in a text like /proc/cpuinfo name a bfloat16 product (x86: flags, Arm: Features)."""
    for line in description.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(value.split())
    return False


@functools.cache
def matmul_precision(device: torch.device, dtype: torch.dtype) -> str:
    """The value for torch.set_float32_matmul_precision when products are computed in `dtype`; measured in a moment.

    Where float32 is the format of the model, a reduced one ("high": TF32 or two bfloat16 parts, "medium": bfloat16) is
    taken only if its error on this machine stays below LARGEST_PRODUCT_ERROR and it is faster: who wanted bfloat16
    would have asked for it. With bfloat16 products on CUDA what is left in float32 is the optimizer's: "high".
    """
    if dtype != torch.float32:
        return "high" if device.type == "cuda" else "highest"
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_PROBE_SIZE, _PROBE_SIZE, generator=generator).to(device) for _ in range(2))
    exact = (a.double() @ b.double()).cpu()
    before = torch.get_float32_matmul_precision()
    best, best_seconds = "highest", float("inf")
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            error = float(((a @ b).cpu().double() - exact).norm() / exact.norm())
            seconds = min(_seconds_of_product(a, b) for _ in range(5))
            if error <= LARGEST_PRODUCT_ERROR and seconds < 0.9 * best_seconds:
                best, best_seconds = precision, seconds
    finally:
        torch.set_float32_matmul_precision(before)
    return best


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    (a @ b).sum().item()  # reading a number waits for the device
    return time.perf_counter() - started
