"""What this machine consists of: cores, memory, processor, GPUs; read from the system, without torch, in milliseconds.

Linux and macOS; where a file or command is missing, the next best source answers. Limits: GPUs are NVIDIA's; of
containers only control groups of version 2 are understood, as seen from inside.
"""

import ctypes
import math
import os
import platform
import re
import subprocess
from pathlib import Path

PROC, CONTROL_GROUP = Path("/proc"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores this process may use: its affinity, and its container's share of processor time, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(CONTROL_GROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
        cores = min(cores, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return cores


def memory_bytes() -> int | None:
    """Main memory this process may use: installed, or its container's limit; None where the system does not say."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _read(CONTROL_GROUP / "memory.max").strip()
    return min(memory, int(limit)) if limit.isdigit() else memory


def processor() -> tuple[str, set[str]]:
    """Name and instruction flags of the processor."""
    fields: dict[str, str] = {}
    for line in _read(PROC / "cpuinfo").split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name") or _apple_name() or platform.processor() or platform.machine() or "unknown CPU"
    name = re.sub(r"\((R|TM|tm)\)|\bCPU\b|@.*", "", name)
    return " ".join(name.split()), flags


def _apple_name() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=1, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def widest_features(flags: set[str]) -> list[str]:
    """The instructions that decide how fast products are: bf16 and tile units, else the widest vectors."""
    units = (("avx512_bf16", "avx512_bf16"), ("amx_bf16", "amx"), ("bf16", "bf16"))
    vectors: tuple[str, ...] = ("avx512f", "avx2", "sve", "asimd")
    found = [word for flag, word in units if flag in flags]
    return found or [flag for flag in vectors if flag in flags][:1]


def gpu_names() -> list[str]:
    """Names of the GPUs this process may use, from the driver's files, else from its library."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    files = sorted(PROC.glob("driver/nvidia/gpus/*/information"))
    models = [re.search(r"^Model:\s*(.+)$", _read(file), re.MULTILINE) for file in files]
    names = [model.group(1).strip() for model in models if model] or _names_from_driver()
    if visible is None:
        return names
    chosen = [word.strip() for word in visible.split(",") if word.strip()]
    numbers = [int(word) for word in chosen if word.isdigit()]
    if len(numbers) == len(chosen):
        return [names[number] for number in numbers if number < len(names)]
    return names[: len(chosen)]  # chosen by UUID: the machine's devices are taken to be alike


def _names_from_driver() -> list[str]:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if library.nvmlInit_v2() != 0:
        return []
    count, names = ctypes.c_uint(0), []
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for number in range(count.value):
        handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
        if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle)) == 0:
            library.nvmlDeviceGetName(handle, name, ctypes.c_uint(len(name)))
            names.append(name.value.decode(errors="replace"))
    library.nvmlShutdown()
    return names


def _read(path: Path) -> str:
    """A system file's text; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
