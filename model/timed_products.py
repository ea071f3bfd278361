"""Matrix products and memory copies that take long enough to time: what `machine_probe.py` measures a device with.

FLOP/s of a square product, 2 n^3 operations; bytes read plus bytes written for a copy. Inputs are random numbers:
products of zeros draw less power and run faster.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from model.precision import cpu_multiplies_bf16

Run = Callable[[], object]
_SMALLEST_PRODUCT, _LARGEST_PRODUCT = 1024, 8192
_SHORTEST_SAMPLE_SECONDS = 0.001
"""Products grow until one takes this long: below, starting it costs too much of the time."""
_COPY_BYTES = {"cpu": 128 * 2**20, "cuda": 512 * 2**20, "mps": 128 * 2**20}
"""More than the caches hold; the largest servers have larger ones, and their copy is then too fast."""


@dataclass(frozen=True)
class Rate:
    """What several samples say, per second."""

    per_second: float
    spread: float
    """Median duration / shortest duration; 1 means that every sample was equally fast."""
    samples: int


@dataclass
class Trial:
    """One thing to time: `run` does `work` operations or bytes."""

    name: str
    work: float
    run: Run
    seconds: list[float] = field(default_factory=list)

    def rate(self) -> Rate:
        """From the best sample: other work can only slow one down."""
        best = min(self.seconds)
        return Rate(self.work / best, statistics.median(self.seconds) / best, len(self.seconds))


def make_trials(device: str, left_out: dict[str, str]) -> list[Trial]:
    """One trial per precision the device has units for, and the copy; what torch refuses goes into `left_out`."""
    makers: dict[str, Callable[[str, int], Run]] = {"fp32": _float32_product("highest")}
    if device == "cuda":
        capability = torch.cuda.get_device_capability(0)
        makers["fp16"] = _product(torch.float16)
        if capability >= (8, 0):
            makers |= {"tf32": _float32_product("high"), "bf16": _product(torch.bfloat16)}
        if capability >= (8, 9):
            makers["fp8"] = _fp8_product
    elif device == "cpu" and cpu_multiplies_bf16():
        makers["bf16"] = _product(torch.bfloat16)  # never fp16: CPUs multiply it hundreds of times slower
    trials = []
    for precision, maker in makers.items():
        name = f"{precision}_flops_per_second"
        try:
            trials.append(_large_enough(name, maker, device))
        except (RuntimeError, AttributeError, TypeError) as error:
            if precision == "fp32":
                raise
            left_out[name] = str(error).splitlines()[0]
    return [*trials, _copy_trial(device)]


def timed(run: Run, device: str) -> float:
    """Seconds from an idle device to an idle device."""
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _large_enough(name: str, maker: Callable[[str, int], Run], device: str) -> Trial:
    size = _SMALLEST_PRODUCT
    while True:
        run = maker(device, size)
        timed(run, device)  # the first call picks and compiles a kernel
        shortest = min(timed(run, device) for _ in range(2))
        if shortest >= _SHORTEST_SAMPLE_SECONDS or size >= _LARGEST_PRODUCT:
            return Trial(name, 2.0 * size**3, run)
        size *= 2


def _product(dtype: torch.dtype) -> Callable[[str, int], Run]:
    def make(device: str, size: int) -> Run:
        left, right = _matrix(device, size).to(dtype), _matrix(device, size).to(dtype)
        out = torch.empty_like(left)
        return lambda: torch.mm(left, right, out=out)

    return make


def _float32_product(precision: str) -> Callable[[str, int], Run]:
    """fp32 at "highest", TF32 at "high". The setting is global: it is made before every run, the probe puts it back."""

    def make(device: str, size: int) -> Run:
        product = _product(torch.float32)(device, size)

        def run() -> object:
            torch.set_float32_matmul_precision(precision)
            return product()

        return run

    return make


def _fp8_product(device: str, size: int) -> Run:
    """e4m3 inputs, bf16 output, one scale per matrix: the only fp8 product torch offers, behind a private name."""
    left = _matrix(device, size).to(torch.float8_e4m3fn)
    right = _matrix(device, size).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _matrix(device: str, size: int) -> torch.Tensor:
    # A generator of its own: the caller's random numbers stay what they were.
    values = torch.randn(_SMALLEST_PRODUCT, _SMALLEST_PRODUCT, generator=torch.Generator().manual_seed(0))
    return values.to(device).repeat(size // _SMALLEST_PRODUCT, size // _SMALLEST_PRODUCT)


def _copy_trial(device: str) -> Trial:
    size = _COPY_BYTES[device]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    target.copy_(source)
    return Trial("copy_bytes_per_second", 2.0 * size, lambda: target.copy_(source))
