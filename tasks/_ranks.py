"""Training in several processes: start them, forward what they report, end them. They cannot outlive this process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks._errors import StageError

if TYPE_CHECKING:
    from model.rank_launcher import Launch
    from model.train_options import Reporter
    from model.train_worker import TrainJob

_POLL_SECONDS = 0.2
_LOG_LINES_SHOWN = 15


def run_ranks(job: "TrainJob", launch: "Launch | int", report: "Reporter", stop_requested: Callable[[], bool]) -> bool:
    """Run the job in ranks until its resume folder holds the finished state (at once if it already does).

    -> whether this machine has that state: of several only number 0 has, unless they share the folder. An int is a
    number of processes here. Raises TrainingInterrupted when they stopped on request, ValueError with a rank's own
    message, StageError with what the first failed rank said and the end of the log when they failed in another way.
    """
    from model.checkpoint import load_state_info
    from model.rank_launcher import Launch
    from model.train_options import TrainingInterrupted
    from model.train_worker import REFUSED, REPORTS, STOP

    folder, launch = job.resume_folder, Launch(launch) if isinstance(launch, int) else launch
    launch.torchrun_arguments()  # refuses what cannot work before anything is started
    info = load_state_info(folder)
    if info is not None and info["position"]["finished"]:
        return True
    here = folder / f"machine_{launch.node_rank}" if launch.nodes > 1 else folder  # the folder may be shared
    here.mkdir(parents=True, exist_ok=True)
    for name in (REPORTS, STOP, REFUSED):
        (here / name).unlink(missing_ok=True)
    job.write(here / "job.json")
    ended: dict[str, Any] = {}
    failures: list[dict[str, Any]] = []
    with (here / "ranks.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "model.rank_launcher", str(here / "job.json"), json.dumps(asdict(launch))]
        # A session of its own: a Ctrl-C reaches this process alone, which then asks the ranks to save.
        launcher = subprocess.Popen(
            [*command, str(os.getpid())],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            for line in _reports(here / REPORTS, launcher):
                if stop_requested():
                    (here / STOP).touch()
                if line is not None and (kind := line.pop("kind")) in ("result", "interrupted"):
                    ended[kind] = line
                elif line is not None and kind == "failure":
                    failures.append(line)
                elif line is not None:
                    _forward(kind, line, report)
        finally:
            launcher.kill()  # nothing left to kill unless this process is unwinding from an error
            launcher.wait()
    if "interrupted" in ended:
        raise TrainingInterrupted(ended["interrupted"]["text"])
    if (here / REFUSED).exists():
        raise ValueError((here / REFUSED).read_text(encoding="utf-8"))
    if launcher.returncode or (launch.node_rank == 0 and "result" not in ended):
        raise StageError(_failure(launch, launcher.returncode, failures, here / "ranks.log"))
    return launch.node_rank == 0


def _failure(launch: "Launch", code: int, failures: list[dict[str, Any]], log: Path) -> str:
    """What to tell when there is no result; of the last attempt the first failure is the cause, as a rule."""
    last = [f for f in failures if f["attempt"] == failures[-1]["attempt"]]
    cause = f"rank {last[0]['rank']}: {last[0]['text']}" if last else f"no rank said why (code {code})"
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
    return (
        f"training in {launch.processes} processes x {launch.nodes} machines failed, after at most "
        f"{launch.max_restarts} restarts; {cause}; next: run the stage again, it continues from the newest state. "
        f"End of {log}:\n" + "\n".join(tail)
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
    elif kind == "live" and hasattr(report, "live"):
        report.live(values["values"])
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
        for line in complete.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # half a line of a rank that was killed
        yield None
        if running and not complete:
            time.sleep(_POLL_SECONDS)
