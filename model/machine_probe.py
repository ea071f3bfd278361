"""What this machine does per second: matrix products by precision, memory copies, one file on disk.

Several short samples, spread over the time allowed, and the best of them counts: other work can only slow a sample
down. A copy lies between two products, so their inputs come from memory, as in training. The probe is marked noisy when
the samples of one rate differ much, or when its threads had to wait for a core (Linux counts that).
Disk: writes count until fsync has returned; reads after the file was dropped from the cache.
Limits: what a plan starts from, not what a training step reaches (that is the MFU's part); a virtual disk may answer
reads from its host's memory; the first CUDA device stands for all of them. The CUDA and MPS paths follow torch's
documentation and have not run yet.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.timed_products import Rate, Trial, make_trials, timed

NOISY_SPREAD = 1.5
"""Median duration / best duration from which other work must have been running."""
NOISY_WAITED_SHARE = 0.05
"""Share of the threads' time spent waiting for a core, likewise."""
_BURSTS, _ROUNDS_PER_BURST = 4, 4
"""Samples of every rate when the machine is quiet; more bursts, while there is time, when it is not."""
_PAUSE_SECONDS = 0.15
"""Between bursts: other work comes and goes. No pause within one: threads and clocks are then awake."""
_FILE_BYTES, _CHUNK_BYTES = 32 * 2**20, 4 * 2**20
_DISK_SHARE_OF_TIME = 0.12
"""Of the time limit, for writing and for reading each."""


@dataclass(frozen=True)
class ProbeResult:
    """What was measured, as plain numbers."""

    kind: str
    """"cpu" or "gpu"."""
    device_name: str
    """The GPU's name as its driver gives it; empty for a CPU."""
    devices: int
    """GPUs of the machine, 1 for a CPU."""
    threads: int
    """CPU threads of the products."""
    device_memory_bytes: float | None
    """Memory of one GPU; None for a CPU, whose main memory is not probed."""
    rates: dict[str, Rate]
    """By name, unit included: fp32_flops_per_second, copy_bytes_per_second, disk_write_bytes_per_second ..."""
    waited_share: float | None
    """Share of the threads' time in which they waited for a core; None where the system does not count it."""
    seconds: float
    """Duration of the probe, imports left out."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Rates that could not be measured, with the reason."""

    @property
    def noisy(self) -> bool:
        """Did other work disturb it? Disk rates do not count: a cache in front of a disk makes them jump."""
        return _disturbed((r for name, r in self.rates.items() if not name.startswith("disk")), self.waited_share)

    def values(self) -> dict[str, float | str | bool]:
        """Flat and ready for JSON, three digits, the form `pipeline_math.hardware.hardware_from_probe` reads."""
        flat: dict[str, float | str | bool] = {
            "kind": self.kind,
            "device_name": self.device_name,
            "devices": self.devices,
            "threads": self.threads,
            "noisy": self.noisy,
            "probe_seconds": round(self.seconds, 2),
        }
        if self.waited_share is not None:
            flat["waited_share"] = round(self.waited_share, 3)
        if self.device_memory_bytes is not None:
            flat["memory_bytes"] = self.device_memory_bytes
        for name, rate in self.rates.items():
            flat[name] = float(f"{rate.per_second:.3g}")
            flat[f"{name}_spread"] = round(rate.spread, 2)
        if self.left_out:
            flat["left_out"] = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
        return flat


def probe(
    disk_folder: Path, seconds_limit: float = 3.0, device: str | None = None, threads: int | None = None
) -> ProbeResult:
    """Measure this machine in at most about `seconds_limit` seconds; nothing stays behind in `disk_folder`.

    `device` is cpu, cuda or mps (None: cuda where there is one); `threads` counts CPU threads (None: every core this
    process may use). Number of threads and precision settings are put back. A very slow machine gets one sample of each
    rate, which may take longer than the limit.
    """
    if not seconds_limit > 0:
        raise ValueError(f"seconds_limit={seconds_limit}: allowed are seconds above 0")
    if not disk_folder.is_dir():
        raise ValueError(f"disk_folder={disk_folder}: allowed is an existing folder; next: create it")
    started = time.perf_counter()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    threads_before, precision_before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads or _usable_cores())
    left_out: dict[str, str] = {}
    try:
        with torch.inference_mode():
            trials = make_trials(device, left_out)
            waiting = _Waiting()
            disk = _sample(trials, waiting, device, disk_folder, started, seconds_limit, left_out)
            waited_share, used_threads = waiting.share(), torch.get_num_threads()
    finally:
        torch.set_num_threads(threads_before)
        torch.set_float32_matmul_precision(precision_before)
    on_cuda = device == "cuda"
    return ProbeResult(
        kind="cpu" if device == "cpu" else "gpu",
        device_name=torch.cuda.get_device_name(0) if on_cuda else "",
        devices=torch.cuda.device_count() if on_cuda else 1,
        threads=used_threads,
        device_memory_bytes=float(torch.cuda.get_device_properties(0).total_memory) if on_cuda else None,
        rates={trial.name: trial.rate() for trial in trials} | disk,
        waited_share=waited_share,
        seconds=time.perf_counter() - started,
        left_out=left_out,
    )


class _Waiting:
    """Share of the threads' time, from now on, in which they wait for a core; None where nobody counts it."""

    def __init__(self) -> None:
        self.before, self.started = _waited_seconds(), time.perf_counter()

    def share(self) -> float | None:
        now, seconds = _waited_seconds(), time.perf_counter() - self.started
        if now is None or self.before is None:
            return None
        return max(0.0, now - self.before) / (seconds * torch.get_num_threads())


def _sample(
    trials: list[Trial],
    waiting: _Waiting,
    device: str,
    folder: Path,
    started: float,
    seconds_limit: float,
    left_out: dict[str, str],
) -> dict[str, Rate]:
    """Fill the trials with samples, in bursts; the disk takes its turn in between and is returned."""
    disk: dict[str, Rate] = {}
    disk_seconds = seconds_limit * _DISK_SHARE_OF_TIME
    last_start = started + 0.85 * seconds_limit  # a sample begun now still ends in time
    bursts = 0
    while True:
        for trial in trials * _ROUNDS_PER_BURST:
            if not trial.seconds or time.perf_counter() < last_start:
                trial.seconds.append(timed(trial.run, device))
        bursts += 1
        if bursts == _BURSTS // 2:
            disk = _disk_rates(folder, disk_seconds, left_out)
        quiet = not _disturbed((trial.rate() for trial in trials), waiting.share())
        if (bursts >= _BURSTS and quiet) or time.perf_counter() >= last_start:
            return disk or _disk_rates(folder, disk_seconds, left_out)
        time.sleep(_PAUSE_SECONDS)


def _disturbed(rates: Iterable[Rate], waited_share: float | None) -> bool:
    return max(rate.spread for rate in rates) > NOISY_SPREAD or (waited_share or 0.0) > NOISY_WAITED_SHARE


def _disk_rates(folder: Path, seconds: float, left_out: dict[str, str]) -> dict[str, Rate]:
    """Write and read one nameless file in pieces, each at most `seconds` long and _FILE_BYTES large."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            number, chunk = file.fileno(), os.urandom(_CHUNK_BYTES)  # random: some file systems compress

            def write() -> None:
                os.write(number, chunk)
                os.fsync(number)

            written = _pieces(write, _FILE_BYTES // _CHUNK_BYTES, seconds)
            os.lseek(number, 0, os.SEEK_SET)
            rates = {"disk_write_bytes_per_second": _disk_rate(written)}
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
                read = _pieces(lambda: os.read(number, _CHUNK_BYTES), len(written), seconds)
                rates["disk_read_bytes_per_second"] = _disk_rate(read)
            else:
                left_out["disk_read_bytes_per_second"] = "this system cannot drop a file from its cache"
    except OSError as error:
        left_out["disk"] = str(error)
        return {}
    return rates


def _pieces(work: Callable[[], object], most: int, seconds: float) -> list[float]:
    durations: list[float] = []
    while len(durations) < most and sum(durations) < seconds:
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return durations


def _disk_rate(durations: list[float]) -> Rate:
    """All pieces together: a disk is judged by its pace, not by its fastest moment."""
    total = len(durations) * _CHUNK_BYTES / sum(durations)
    return Rate(total, statistics.median(durations) / min(durations), len(durations))


def _waited_seconds() -> float | None:
    """Seconds that the threads of this process were ready to run and had no core; None where nobody counts it."""
    waited = 0
    try:
        for thread in Path("/proc/self/task").iterdir():
            waited += int((thread / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return waited * 1e-9


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
