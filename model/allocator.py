"""Keep freed memory in the process: on Linux, large temporaries otherwise cost a page fault per 4 KiB in every step.

glibc serves a large request with fresh pages from the kernel and gives them back when it is freed; the kernel clears
every page anew when it is first written. A training step on a CPU allocates and frees the same large tensors again and
again, and spends a third of its time on that. Peak memory does not change: what is kept is what the next step takes.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGEST = 2**31 - 1
"""mallopt takes an int: requests beyond 2 GiB still go to the kernel."""
_LARGEST_BEFORE_2_35 = 2**25
"""Older versions refuse a higher threshold on 64-bit machines."""


def keep_freed_memory() -> bool:
    """Tell malloc never to return freed memory to the kernel; -> True where that took effect, False where it cannot.

    Only glibc has the switch (mallopt(3)); elsewhere (musl, macOS, Windows) nothing happens. Calling again changes
    nothing. For processes that train: one that only answers would keep its largest moment for ever. Call before the
    first large tensor and before threads are started: a thread that already has a memory arena of its own keeps it,
    and arenas other than the first serve requests above 64 MiB with fresh pages whatever is set here.
    """
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
        library.gnu_get_libc_version  # noqa: B018 - raises where the library is not glibc
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mallopt(_M_ARENA_MAX, 1)  # large tensors of a thread come from the first arena, too
    threshold_set = mallopt(_M_MMAP_THRESHOLD, _LARGEST) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_BEFORE_2_35)
    return bool(threshold_set) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
