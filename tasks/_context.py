"""What a stage is given: its parameters, its declared inputs, an empty output folder, a folder that survives a kill.

A stage sees nothing else. Everything it reports goes through an append-only event log, which the runner replays
into MLflow and metrics/<stage>.json; so a tracking server that is down can never stop a stage.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks._errors import Interrupted, StageError
from tasks._params import StageParams
from tasks._runtime import Runtime
from tasks.stages import Stage

if TYPE_CHECKING:
    from pipeline_math.forecast import Calibration
    from pipeline_math.hardware import Hardware


class EventLog:
    """Append-only JSON lines, one event each. Writing the same curve step twice is ignored, also after a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_curve_step = -1
        path.parent.mkdir(parents=True, exist_ok=True)
        for event in read_events(path):
            if event["event"] == "curve":
                self.last_curve_step = max(self.last_curve_step, event["step"])
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")
        self._file.flush()

    def curve(self, rows: Iterable[dict[str, float]]) -> None:
        for row in rows:
            step = int(row["step"])
            if step > self.last_curve_step:
                self.last_curve_step = step
                self.write("curve", step=step, values={k: float(v) for k, v in row.items() if k != "step"})


def read_events(path: Path) -> list[dict[str, Any]]:
    """All complete events of a log; a half-written last line (killed writer) is left out."""
    if not path.exists():
        return []
    events = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # the line a killed process was writing; its content is written again by the resumed one
    return events


class Progress:
    """A bar in a terminal, a line every `every_seconds` in a log file."""

    def __init__(self, description: str, total: float | None, unit: str, every_seconds: float) -> None:
        self.description, self.total, self.unit, self.every_seconds = description, total, unit, every_seconds
        self.done, self.started = 0.0, time.monotonic()
        self.printed = self.started
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, unit_scale=True, desc=description, leave=True, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.printed > self.started:  # short work stays silent in a log
            self._line({})

    def update(self, amount: float, **postfix: object) -> None:
        """Count `amount` more units; keyword arguments are shown beside the rate, such as loss=2.13."""
        self.done += amount
        if self.bar is not None:
            if postfix:
                self.bar.set_postfix(postfix, refresh=False)
            self.bar.update(amount)
        elif time.monotonic() - self.printed >= self.every_seconds:
            self.printed = time.monotonic()
            self._line(postfix)

    def _line(self, postfix: dict[str, object]) -> None:
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / seconds
        extra = "".join(f", {k} {v}" for k, v in postfix.items())
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        if self.total is None:  # work that is found while it is being done
            print(f"{self.description}: {self.done:,.0f} {self.unit}, {shown} {self.unit}/s{extra}", flush=True)
            return
        left = (self.total - self.done) / rate if rate else math.inf
        share = self.done / self.total if self.total else 1.0
        print(f"{self.description}: {share:.0%}, {shown} {self.unit}/s, {left:.0f} s left{extra}", flush=True)


@dataclass
class StageContext:
    """Everything a stage may touch."""

    stage: Stage
    params: StageParams
    """The validated section of params.yaml."""
    runtime: Runtime
    root: Path
    """The repository; stages use `input`, `out` and `resume` instead."""
    out: Path
    """Empty folder. Its content becomes artifacts/<stage>/ by one rename after `run` has returned."""
    resume: Path
    """work/<stage>/<resume key>/: survives kills; same data and parameters give the same folder."""
    events: EventLog
    key: str = ""
    """K = sha256(cmd, dependency md5s, params): joins DVC, MLflow, Prefect and the files."""
    code_key: str = ""
    """Hash of the stage's code dependencies; a resume across a change of it is allowed and reported."""
    declared: tuple[str, ...] | None = None
    """Dependencies declared in dvc.yaml; None (tests) allows every path."""
    stop_requested: Callable[[], bool] = lambda: False
    """True once SIGTERM or SIGINT arrived: save, then raise Interrupted."""
    champion: Callable[[], dict[str, Any] | None] = lambda: None
    """The registered champion as {"version", "scores", "key"}, or None."""
    measured_seconds: Callable[[], dict[str, float]] = dict
    """Stage -> seconds its last finished run took. About runs, not content: no dependency, like the champion."""
    machine: Callable[[], dict[str, Any]] = dict
    """What this machine was measured to do (tasks/_machine.py); empty where nothing may be probed."""
    calibration: "Callable[[Hardware], Calibration | None]" = lambda _: None
    """What finished runs on this machine taught about a device class, None before the first."""
    figures: dict[str, Any] = field(default_factory=dict)
    predicted: dict[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    amounts: dict[str, float] = field(default_factory=dict)

    def input(self, path: str) -> Path:
        """A declared input; StageError when dvc.yaml does not name it or it does not exist."""
        if self.declared is not None and not any(
            path == d or path.startswith(d.rstrip("/") + "/") for d in self.declared
        ):
            raise StageError(
                f"stage {self.stage} asks for '{path}', which dvc.yaml does not declare; declared: "
                f"{', '.join(self.declared)}; next: add it to stages.{self.stage}.deps"
            )
        target = self.root / path
        if not target.exists():
            raise StageError(f"stage {self.stage}: input '{path}' does not exist; next: `dvc repro {self.stage}`")
        return target

    def predict(self, name: str, value: float, low: float | None = None, high: float | None = None) -> None:
        """Record what pipeline_math expects of quantity `name` (unit in the name), with its 90 % interval."""
        self.predicted[name] = (float(value), low, high)
        self.events.write("predicted", name=name, value=float(value), low=low, high=high)

    def measure(self, name: str, value: float) -> None:
        """Record what was measured, under the same name as its prediction."""
        self.measured[name] = float(value)
        self.events.write("measured", name=name, value=float(value))

    def count(self, **amounts: float) -> None:
        """Record what the stage really processed (names: pipeline_math.stage_terms), to learn from its seconds."""
        self.amounts.update({name: float(value) for name, value in amounts.items()})
        self.events.write("amounts", values=self.amounts)

    def report(self, **figures: float | int | str) -> None:
        """Key figures of the stage: metrics/<stage>.json, MLflow and the Prefect artifact."""
        self.figures.update(figures)
        self.events.write("figures", values=figures)

    def log_curve(self, rows: Iterable[dict[str, float]]) -> None:
        """Points of a training curve; each row has "step". Publish rows when their checkpoint is on disk."""
        self.events.curve(rows)

    def progress(self, description: str, total: float | None, unit: str) -> Progress:
        """A progress display for long work, None where its end is not known; use as a context manager."""
        return Progress(description, total, unit, self.runtime.progress_seconds)

    def note(self, text: str) -> None:
        """One line for the log."""
        print(f"{self.stage}: {text}", flush=True)

    def check_stop(self) -> None:
        """Raise Interrupted when a stop was requested; call it between units of work that are safe to lose."""
        if self.stop_requested():
            raise Interrupted("stopped on request")

    @property
    def cache(self) -> Path:
        """work/<stage>/cache: units of work named by content (tasks/_units.py), shared by all parameter sets."""
        return self.resume.parent / "cache"

    @property
    def cores(self) -> int:
        """Cores this process may use (runtime.workers when set)."""
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.runtime.workers or available
