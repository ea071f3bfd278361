"""Training in several processes: start them, forward what they report, end them. They cannot outlive this process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks._errors import StageError

if TYPE_CHECKING:
    from model.train_options import Reporter
    from model.train_worker import TrainJob

_POLL_SECONDS = 0.2
_LOG_LINES_SHOWN = 15


def run_ranks(job: "TrainJob", processes: int, report: "Reporter", stop_requested: Callable[[], bool]) -> None:
    """Run the job in `processes` ranks until its resume folder holds the finished state (at once if it already does).

    Raises TrainingInterrupted when they stopped on request, ValueError with a rank's own message, StageError with the
    end of their log when they failed in another way.
    """
    from model.checkpoint import load_state_info
    from model.train_options import TrainingInterrupted
    from model.train_worker import REPORTS, STOP

    folder = job.resume_folder
    info = load_state_info(folder)
    if info is not None and info["position"]["finished"]:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in (REPORTS, STOP):
        (folder / name).unlink(missing_ok=True)
    job.write(folder / "job.json")
    ended: dict[str, Any] = {}
    with (folder / "ranks.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "model.train_worker", "launch", str(folder / "job.json"), str(processes)]
        # A session of its own: a Ctrl-C reaches this process alone, which then asks the ranks to save.
        launcher = subprocess.Popen(
            [*command, str(os.getpid())],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            for line in _reports(folder / REPORTS, launcher):
                if stop_requested():
                    (folder / STOP).touch()
                if line is not None and (kind := line.pop("kind")) in ("result", "interrupted", "error"):
                    ended[kind] = line
                elif line is not None:
                    _forward(kind, line, report)
        finally:
            launcher.kill()  # nothing left to kill unless this process is unwinding from an error
            launcher.wait()
    if "interrupted" in ended:
        raise TrainingInterrupted(ended["interrupted"]["text"])
    if "error" in ended:
        raise ValueError(ended["error"]["text"])
    if "result" not in ended:
        tail = (folder / "ranks.log").read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        raise StageError(
            f"training in {processes} processes ended with code {launcher.returncode} and no result; end of "
            f"{folder / 'ranks.log'}:\n" + "\n".join(tail)
        )


def _environment() -> dict[str, str]:
    """The ranks import from the repository whatever the working directory."""
    repository = str(Path(__file__).resolve().parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (repository, os.environ.get("PYTHONPATH"))))}


def _forward(kind: str, values: dict[str, Any], report: "Reporter") -> None:
    if kind == "progress":
        report.progress(**values)
    elif kind == "curve":
        report.curve(values["rows"])
    elif kind == "note":
        report.note(values["text"])
    elif kind == "figures":
        report.figures(**values["values"])


def _reports(path: Path, launcher: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any] | None]:
    """Each complete line once, None between polls, until the launcher has ended and everything is read."""
    position, running = 0, True
    while running:
        running = launcher.poll() is None  # asked before reading: what was written before the end is read after it
        content = b""
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        position += len(complete)
        yield from (json.loads(line) for line in complete.splitlines())
        yield None
        if running and not complete:
            time.sleep(_POLL_SECONDS)
