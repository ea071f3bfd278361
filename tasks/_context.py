"""What a stage is given: its parameters, its declared inputs, an empty output folder, a folder that survives a kill.

A stage sees nothing else. Everything it reports goes through an append-only event log, which the runner replays
into MLflow and metrics/<stage>.json; so a tracking server that is down can never stop a stage.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks._errors import Interrupted, StageError
from tasks._params import StageParams
from tasks._progress import LIVE_FILE, LiveFile, Progress
from tasks._runtime import Runtime
from tasks.stages import Stage

if TYPE_CHECKING:
    from pipeline_math.forecast import Calibration
    from pipeline_math.hardware import Hardware


class EventLog:
    """Append-only JSON lines, one event each. Of a curve every step is written once, also after a restart.

    A step that comes again (a run that was taken up from an earlier state, a caller that gives all rows again) is
    dropped: MLflow cannot take a point back, and two of one step would be drawn as a zigzag.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_curve_step = -1
        path.parent.mkdir(parents=True, exist_ok=True)
        for event in read_events(path):
            if event["event"] == "curve":
                self.last_curve_step = max(self.last_curve_step, event["step"])
        self._file = path.open("a", encoding="utf-8")
        if _is_torn(path):  # the line a killed process was writing must not swallow the next event
            self._file.write("\n")

    def write(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")
        self._file.flush()

    def curve(self, rows: Iterable[dict[str, float]]) -> None:
        """Points of a curve, in the order of their steps; those already written are ignored."""
        for row in rows:
            step = int(row["step"])
            if step > self.last_curve_step:
                self.last_curve_step = step
                self.write("curve", step=step, values={k: float(v) for k, v in row.items() if k != "step"})


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 1))
        return file.read() not in (b"", b"\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """All complete events of a log; a half-written last line (killed writer) is left out."""
    return EventReader(path).new()


class EventReader:
    """Reads a growing event log: every event once, every byte once."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset
        """`offset`: bytes that have been read; it always stands at the beginning of a line."""

    def new(self, at_most_bytes: int | None = None) -> list[dict[str, Any]]:
        """The complete events after `offset`, which moves on; with `at_most_bytes` about so many, at least one.

        A line that is no JSON is passed over: what a killed process was writing, the resumed one writes again.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read() if at_most_bytes is None else file.read(at_most_bytes) + file.readline()
        complete = content[: content.rfind(b"\n") + 1]
        self.offset += len(complete)
        events = []
        for line in complete.splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events


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
    foresee: Callable[[Mapping[str, float]], None] = lambda _: None
    """Make this stage's forecasts again, for amounts (names: pipeline_math.stage_terms) other than the plan's."""
    figures: dict[str, Any] = field(default_factory=dict)
    predicted: dict[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    amounts: dict[str, float] = field(default_factory=dict)
    _live: LiveFile | None = None
    _progress: Progress | None = None
    """The newest display."""

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
        self._progress = Progress(description, total, unit, self.runtime.progress_seconds, self._live_file())
        return self._progress

    def live(self, values: Mapping[str, float]) -> None:
        """Figures of this moment (tasks/_progress.py names them) for the progress display and `flows status`.

        Cheap: at most once a second they are written to live.json in the resume folder, which says what they are about
        for as long as this process lives, and where the work stopped after that.
        """
        self._live_file().update(values)
        if self._progress is not None:
            self._progress.show(values)

    def _live_file(self) -> LiveFile:
        if self._live is None:
            self._live = LiveFile(self.resume / LIVE_FILE, str(self.stage))
        return self._live

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
