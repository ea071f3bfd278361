"""`python -m tasks.run <stage>`: the cmd of every DVC stage.

Order: die with the parent -> device -> keys -> parameters -> context -> resume state -> event log -> run -> publish
by rename.
Outputs exist in work/<stage>/out until `run` has returned; only then do they become artifacts/<stage>/.
Exit codes: 0 done, 1 failed, 2 wrong call, 143 stopped on request (state saved, the next call continues).
"""

import argparse
import contextlib
import errno
import fcntl
import functools
import importlib
import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks import _ledger, _machine, _process
from tasks._context import EventLog, StageContext, read_events
from tasks._errors import Interrupted, StageError
from tasks._files import publish_folder, remove, size_bytes, write_json
from tasks._forecast import current as current_forecasts
from tasks._forecast import read_calibration
from tasks._invocation import start_event
from tasks._keys import ROOT, StageKeys, current, recorded
from tasks._params import read_section, validate
from tasks._runtime import load_runtime
from tasks.stages import COMPUTE_BOUND, Stage

EXIT_FAILED, EXIT_CALL, EXIT_STOPPED = 1, 2, 143


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.run", description="Run one stage and publish its outputs.")
    parser.add_argument("stage", choices=[str(stage) for stage in Stage])
    stage = Stage(parser.parse_args(arguments).stage)
    _process.die_with_parent()
    _process.watch_ancestor(_process.is_dvc)
    try:
        with device(stage):
            return run_stage(stage)
    except KeyboardInterrupt:  # while it waited for the device: nothing has begun
        return EXIT_STOPPED


def run_stage(stage: Stage) -> int:
    """Keys, event log, the stage itself, its outputs; exit codes as above."""
    started = time.monotonic()
    stop = _process.StopRequest()
    replay = None
    try:
        remove(ROOT / "work" / stage / "failed.json")
        keys = current(stage, status=False)
        resume = resume_folder(stage, keys)
        replay = start_replay(resume / "events.jsonl")  # imports MLflow on the other core meanwhile
        context = build_context(stage, keys, resume, stop)
        with tracked(context, keys, replay) as finish:
            plan = ROOT / "artifacts" / Stage.BUDGET
            predict(context, plan)
            context.foresee = functools.partial(predict, context, plan)
            wait_until_tracking(stage, replay, resume / _ledger.TRACKING_READY)
            stage_module(stage).run(context)
            stop.ignore()
            publish(context, keys, time.monotonic() - started)
            finish("FINISHED")
    except Interrupted as stopped:
        print(f"\n{stage}: {stopped}; next: run it again, it continues where it stopped", file=sys.stderr)
        return EXIT_STOPPED
    except StageError as problem:
        return fail(stage, str(problem))
    except Exception as problem:
        if not disk_is_full(problem):
            raise
        return fail(
            stage,
            f"the disk is full ({problem}); nothing finished is lost; next: free space (`python -m flows gc` shows "
            f"what can go) and run again",
        )
    finally:
        if replay and replay.poll() is None:
            replay.kill()
    return 0


def disk_is_full(problem: Exception) -> bool:
    """True for ENOSPC, also when a library (polars, safetensors) hands on only its text."""
    if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
        return True
    return any(text in str(problem) for text in ("No space left on device", "os error 28"))


def fail(stage: Stage, message: str) -> int:
    """Tell the user, and leave the message where the flow finds it."""
    print(f"\n{stage} failed: {message}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # a full disk must not hide the message
        write_json(ROOT / "work" / stage / "failed.json", {"error": f"{stage}: {message}"})
    return EXIT_FAILED


def stage_module(stage: Stage) -> ModuleType:
    """tasks/<stage>.py, or tasks/<stage>/stage.py when the stage is a package."""
    package = (ROOT / "tasks" / stage / "stage.py").exists()
    return importlib.import_module(f"tasks.{stage}.stage" if package else f"tasks.{stage}")


def resume_folder(stage: Stage, keys: StageKeys) -> Path:
    """work/<stage>/<resume key>/, emptied when it belongs to a run that is over."""
    resume = ROOT / "work" / stage / keys.resume_key[:16]
    if finished_before(resume, keys, stage):
        remove(resume)
    resume.mkdir(parents=True, exist_ok=True)
    return resume


def build_context(stage: Stage, keys: StageKeys, resume: Path, stop: _process.StopRequest) -> StageContext:
    """Validated parameters, declared inputs and an empty output folder."""
    params_file = ROOT / "params.yaml"
    section = read_section(params_file, stage)
    params = validate(stage_module(stage).Params, section, f"{params_file.name}: {stage}")
    out = ROOT / "work" / stage / "out"
    remove(out)
    out.mkdir(parents=True)
    return StageContext(
        stage=stage,
        params=params,
        runtime=load_runtime(ROOT / "runtime.yaml"),
        root=ROOT,
        out=out,
        resume=resume,
        events=EventLog(resume / "events.jsonl"),
        key=keys.key,
        code_key=keys.code_key,
        declared=keys.declared,
        stop_requested=stop,
        champion=_champion,
        measured_seconds=_ledger.measured_seconds,
        machine=lambda: _machine.probed(ROOT / _ledger.FOLDER / "hardware.json"),
        calibration=lambda hardware: read_calibration(hardware, _machine.fingerprint(), ROOT),
    )


def finished_before(resume: Path, keys: StageKeys, stage: Stage) -> bool:
    """True when the resume folder belongs to a run that is over and must not be taken up again.

    A finished run is taken up only if it died between publishing and DVC's lock entry: same K, and the lock does not
    know it. With another K the code has changed; with the same K in the lock the user has forced a new run.
    """
    marker = resume / "complete.json"
    if not marker.exists():
        return False
    return json.loads(marker.read_text())["key"] != keys.key or recorded(stage) == keys.key


def start_replay(log: Path) -> subprocess.Popen[bytes]:
    """A child that replays the event log into MLflow while the stage works; it dies with this process."""
    log.with_name(_ledger.TRACKING_READY).unlink(missing_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tasks._tracking", "follow", str(log), str(len(read_events(log)))],
        cwd=ROOT,
        preexec_fn=lambda: _process.die_with_parent(signal.SIGKILL),
    )


def wait_until_tracking(stage: Stage, replay: subprocess.Popen[bytes], ready: Path, seconds: float = 6.0) -> None:
    """Compute alone: importing MLflow takes a core for two seconds, and two threads that wait for each other at every
    product are several times slower while they share theirs. Meanwhile torch is imported, which takes as long."""
    if stage not in COMPUTE_BOUND:
        return
    if stage != Stage.CHAT:  # its server is a process of its own
        importlib.import_module("torch")
    until = time.monotonic() + seconds
    while not ready.exists() and replay.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


@contextlib.contextmanager
def tracked(context: StageContext, keys: StageKeys, replay: subprocess.Popen[bytes]) -> Iterator[Callable[[str], None]]:
    """Open the event log of the stage's MLflow run and close it whatever happens."""
    past = read_events(context.events.path)
    if any(event["event"] == "start" for event in past):
        context.events.write("resumed", code_changed=any(e.get("code_key") not in (None, keys.code_key) for e in past))
    else:
        context.events.write("start", **start_event(context, keys.code_key))

    def finish(status: str) -> None:
        context.events.write("end", status=status)
        _wait_for(replay)

    try:
        yield finish
    except Interrupted:
        finish("KILLED")
        raise
    except (StageError, OSError) as problem:
        context.events.write("figures", values={"error": str(problem)[:400]})
        finish("FAILED")
        raise
    except BaseException:
        context.events.write("figures", values={"error": traceback.format_exc()[-400:]})
        finish("FAILED")
        raise


def _wait_for(replay: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    try:
        replay.wait(seconds)
    except subprocess.TimeoutExpired:
        replay.kill()
    if replay.returncode:
        print(
            "tracking: MLflow did not take every event; they stay in work/ and are sent by the next stage", flush=True
        )


@contextlib.contextmanager
def device(stage: Stage) -> Iterator[None]:
    """Hold the machine's compute device: stages that compute take turns, so that their times mean something.

    Taken before anything else: a waiting stage must not import and hash beside one that measures.
    """
    if stage not in COMPUTE_BOUND:
        yield
        return
    path = ROOT / "work" / "device.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{stage}: waiting for another stage to release the compute device", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(context: StageContext, keys: StageKeys, seconds: float) -> None:
    """Metrics, then the output folder by rename, then the mark that this run is over."""
    stage, target = context.stage, ROOT / "artifacts" / context.stage
    if not any(context.out.iterdir()):
        raise StageError(f"stage {stage} wrote nothing into {context.out}; this is a defect of tasks/{stage}")
    if "seconds" not in context.predicted:  # there was no plan when the stage started: it makes it, or ran beside it
        predict(context, context.out if stage == Stage.BUDGET else ROOT / "artifacts" / Stage.BUDGET)
    context.measure("seconds", seconds)
    context.measure("output_bytes", size_bytes(context.out))
    if "peak_memory_bytes" not in context.measured:  # a training stage on a GPU has measured that of the device
        context.measure("peak_memory_bytes", _process.peak_memory_bytes())
    context.events.write("ledger", rows=_ledger.rows_of(context))
    write_json(
        ROOT / "metrics" / f"{stage}.json",
        {
            **context.figures,
            "predicted": {name: value[0] for name, value in context.predicted.items()},
            "measured": context.measured,
        },
    )
    publish_folder(context.out, target)
    write_json(context.resume / "complete.json", {"key": keys.key})
    if stage == Stage.EXPORT:
        context.events.write("register", folder=str(target), key=keys.key)


def predict(context: StageContext, budget: Path, amounts: Mapping[str, float] | None = None) -> None:
    """The plan's forecasts for this stage, `amounts` instead of its own where they are given.

    No result depends on them, so they are not a dependency.
    """
    found = current_forecasts(_machine.fingerprint(), ROOT, budget, {context.stage: amounts or {}})
    for name, interval in found.get(context.stage, {}).items():
        context.predict(name, interval.value, interval.low, interval.high)


def _champion() -> dict[str, Any] | None:
    from tasks._tracking import champion

    return champion()


if __name__ == "__main__":
    sys.exit(main())
