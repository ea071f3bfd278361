"""What memory a device has left and how much of it this process has taken, in bytes.

CUDA answers for itself. On a CPU Linux does: what is available, within the limit of the container, and the process's
resident memory. Elsewhere the answer is None or 0, never a guess.
"""

import gc
from pathlib import Path

import torch

PROC, CONTROL_GROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_bytes(device: torch.device, ranks: int = 1) -> int | None:
    """What this process may still take, a fair part of it where `ranks` processes share the device; None: unknown.

    On a GPU what the driver has left and what torch's cache holds unused.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // ranks
    if device.type != "cpu":
        return None
    available = _kibibytes(PROC / "meminfo", "MemAvailable")
    limit, used = (_read(CONTROL_GROUP / name).strip() for name in ("memory.max", "memory.current"))
    if available is not None and limit.isdigit() and used.isdigit():
        available = min(available, max(0, int(limit) - int(used)))
    return None if available is None else available // ranks


def allocated_bytes(device: torch.device) -> int:
    """Held by tensors on a GPU; on a CPU the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _kibibytes(PROC / "self" / "status", "VmRSS") or 0


def reset_peak(device: torch.device) -> None:
    """Begin a new record of a GPU's peak. A CPU process has one record for its whole life, which others read."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most taken at once: on a GPU reserved since `reset_peak`, on a CPU resident since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _kibibytes(PROC / "self" / "status", "VmHWM") or 0


def free_unused_memory() -> None:
    """Give back what no tensor uses any more: reference cycles, the accelerator's cache."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _kibibytes(path: Path, name: str) -> int | None:
    """The value of a line "name:   123 kB" in bytes; None if it is not there."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
