"""Child processes that never outlive their parent, and signals that ask a stage to stop."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import psutil

from tasks._errors import Interrupted

_PR_SET_PDEATHSIG = 1
_WATCH_SECONDS = 0.5
_GRACE_SECONDS = 60.0


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Linux: let the kernel signal this process when its parent dies. Safe as `preexec_fn`; elsewhere a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def watch_ancestor(is_owner: Callable[[psutil.Process], bool]) -> None:
    """Signal this process when the nearest ancestor accepted by `is_owner`, else the parent, is gone.

    A shell may stand between DVC and the stage, and a shell survives DVC: the parent-death signal alone would miss
    that. This is also the whole mechanism where the kernel has no such signal (macOS).
    """
    me = psutil.Process()
    owner = next((p for p in me.parents() if is_owner(p)), me.parent())
    if owner is None:
        return

    def watch() -> None:
        while owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    def watch_quietly() -> None:
        try:
            watch()
        except psutil.NoSuchProcess:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch_quietly, daemon=True, name="watch-ancestor").start()


def peak_memory_bytes() -> float:
    """Most main memory this process has held at once."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def is_dvc(process: psutil.Process) -> bool:
    """True for a `dvc ...` command or `python -m dvc ...`."""
    try:
        return any(os.path.basename(part) == "dvc" for part in process.cmdline()[:4])
    except (psutil.AccessDenied, psutil.ZombieProcess):
        return False


class StopRequest:
    """SIGTERM or SIGINT as a question a stage may ask.

    A stage that polls is left to save its state; one that never polled has nothing to save and is interrupted at
    once. A second signal, or `_GRACE_SECONDS`, ends the wait.
    """

    def __init__(self) -> None:
        self.requested = self.polled = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        signal.signal(signal.SIGALRM, self._interrupt)

    def __call__(self) -> bool:
        self.polled = True
        return self.requested

    def ignore(self) -> None:
        """From here on the work is done: publishing it is quick and must not be torn."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self.polled:
            self._interrupt(number, frame)
        self.requested = True
        signal.setitimer(signal.ITIMER_REAL, _GRACE_SECONDS)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        raise Interrupted(f"stopped by signal {number}")
