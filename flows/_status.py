"""What is running now, from the files it leaves: no server, no orchestrator, no tensors, so that it answers at once.

A stage at work writes work/<stage>/<resume key>/live.json about once a second (tasks/_progress.py) with the number of
its process. Is that process gone and the run not complete, the stage has stopped, and the newest saved state says where
it will go on.
"""

import contextlib
import json
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows import ROOT
from tasks._progress import LIVE_FILE, duration, figures_in_words, size, work_in_words
from tasks.stages import Stage

WATCH_SECONDS = 2.0
_STATES, _STATE = "states", re.compile(r"step_(\d+)(_\d+)?")
_COMPLETE = "complete.json"
_SECONDS_UNKNOWN = 60.0
"""A stage of another machine, whose process cannot be looked up, is taken for stopped after as long without news."""
_INDENT = 15
_CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True)
class LiveStage:
    """A stage that is at work, or that was when its process ended."""

    stage: str
    running: bool
    age_seconds: float
    """Since it last wrote."""
    values: dict[str, Any]
    saved_step: int | None
    """Step of the newest training state, None for other work."""


def live_stages(root: Path = ROOT) -> list[LiveStage]:
    """The stages that are at work or have stopped before their end, in the order of the pipeline."""
    return [found for stage in Stage if (found := _of_stage(root / "work" / stage)) is not None]


def show_live(root: Path = ROOT) -> bool:
    """Print `live_stages`; False, and nothing printed, when there are none."""
    lines = [line for stage in live_stages(root) for line in describe(stage, _columns())]
    for line in lines:
        print(line)
    return bool(lines)


def watch(root: Path = ROOT, seconds: float = WATCH_SECONDS) -> None:
    """Print it again and again, until interrupted; in a terminal always in the same place."""
    while True:
        if sys.stdout.isatty():
            print(_CLEAR, end="")
        print(time.strftime("%H:%M:%S"))
        if not show_live(root):
            print("nothing is running")
        sys.stdout.flush()
        time.sleep(seconds)


def describe(found: LiveStage, columns: int) -> list[str]:
    """A stage in lines of at most `columns` characters: state, progress and age first, then its figures."""
    values = found.values
    if not found.running:
        return _wrap(f"{found.stage:<{_INDENT - 1}} ", _stopped(found), columns)
    share = _share(values)
    head = [f"running{'' if share is None else f' {share:.0%}'} ({duration(found.age_seconds)} ago)"]
    if "step" in values:
        head += figures_in_words(values)
        if values.get("peak_memory_bytes"):
            head[-1] += f" (peak {size(values['peak_memory_bytes'])})"
    elif "done" in values:
        rate = values.get("rate")
        head += [str(values.get("work", "")), *work_in_words(values["done"], values.get("total"), values["unit"], rate)]
    return _wrap(f"{found.stage:<{_INDENT - 1}} ", head, columns)


def _stopped(found: LiveStage) -> list[str]:
    values = found.values
    if "step" not in values:
        share = _share(values)
        return [f"stopped{f' at {share:.0%}' if share is not None else ''}", "finished units of work are kept"]
    words = [f"stopped at step {int(values['step']):,} of {int(values['steps']):,}, {duration(found.age_seconds)} ago"]
    if found.saved_step is None:
        return [*words, "no state was saved: starts again"]
    return [*words, f"resumes at step {found.saved_step:,} with the same data and parameters"]


def _share(values: dict[str, Any]) -> float | None:
    if values.get("steps"):
        return values["step"] / values["steps"]
    return values["done"] / values["total"] if values.get("total") else None


def _of_stage(folder: Path) -> LiveStage | None:
    """The newest live file of a stage, if what it tells of is not complete."""
    found = [(content["time"], path, content) for path in folder.glob(f"*/{LIVE_FILE}") if (content := _read(path))]
    if not found:
        return None
    written, path, content = max(found, key=lambda one: one[0])
    age = max(0.0, time.time() - written)
    running = _is_alive(content, age)
    if not running and (path.parent / _COMPLETE).exists():
        return None
    return LiveStage(folder.name, running, age, content["values"], newest_state(path.parent / _STATES))


def newest_state(folder: Path) -> int | None:
    """Step of the newest training state below `folder`, by the names of the states alone; None if there is none."""
    if not folder.is_dir():
        return None
    steps = [int(match[1]) for path in folder.iterdir() if (match := _STATE.fullmatch(path.name))]
    return max(steps, default=None)


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"time", "pid", "values"} <= content.keys():
            return content
    return None


def _is_alive(content: dict[str, Any], age_seconds: float) -> bool:
    """Whether the process that wrote it is there; its number may belong to a later one by now."""
    if content.get("host") != platform.node():
        return age_seconds < _SECONDS_UNKNOWN
    try:
        process = psutil.Process(content["pid"])
        # It began before it wrote; whatever took its number began later.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= content["time"]
    except psutil.NoSuchProcess:
        return False


def _wrap(head: str, words: list[str], columns: int) -> list[str]:
    """Words side by side, never broken, as many a line as fit."""
    lines = [head + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 3 + len(word) <= columns:
            lines[-1] += f"   {word}"
        else:
            lines.append(" " * _INDENT + word)
    return lines


def _columns() -> int:
    return shutil.get_terminal_size((100, 24)).columns
