"""Jobs that worker processes of tests run: functions importable by name, leaving a trace in a file."""

import os
import signal
import time
from pathlib import Path


def trace(path: str, value: object) -> None:
    """One more line in `path`; lines of several processes never mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{value}\n".encode())
    os.close(descriptor)


def traced(path: Path) -> list[str]:
    """All lines so far."""
    return path.read_text().splitlines() if path.exists() else []


def work(path: str, value: int, seconds: float) -> int:
    """Leaves `value` as a trace, takes its time, returns it."""
    trace(path, value)
    time.sleep(seconds)
    return value


def work_or_fail(path: str, value: int, seconds: float, failing: int) -> int:
    """As `work`, but a ValueError for one value."""
    if value == failing:
        raise ValueError(f"job {value} has failed")
    return work(path, value, seconds)


def kill_self(_: object) -> None:
    """What the kernel does to a worker that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill(out: Path, path: str, value: int, seconds: float, deadly: str | None = None) -> None:
    """A unit of two files; kills its worker halfway if the file `deadly` exists, which it removes."""
    trace(path, value)
    (out / "first.txt").write_text(str(value))
    if deadly and Path(deadly).exists():
        Path(deadly).unlink()
        kill_self(value)
    time.sleep(seconds)
    (out / "second.txt").write_text(str(value * value))
