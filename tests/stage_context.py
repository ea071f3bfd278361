"""A StageContext without DVC, for tests: every input is allowed, files live under one temporary folder."""

from pathlib import Path
from typing import Any

from tasks._context import EventLog, StageContext
from tasks._params import StageParams
from tasks._runtime import Runtime
from tasks.stages import Stage


def make_context(root: Path, stage: Stage, params: StageParams, **overrides: Any) -> StageContext:
    """A context rooted at `root`: inputs are root/artifacts/..., outputs go to root/work/<stage>/out."""
    out, resume = root / "work" / stage / "out", root / "work" / stage / "resume"
    out.mkdir(parents=True, exist_ok=True)
    resume.mkdir(parents=True, exist_ok=True)
    runtime = overrides.pop("runtime", Runtime(device="cpu", threads=1, workers=1))
    return StageContext(stage, params, runtime, root, out, resume, EventLog(resume / "events.jsonl"), **overrides)


def publish(context: StageContext) -> Path:
    """What the runner does after `run`: the output folder becomes artifacts/<stage>/."""
    target = context.root / "artifacts" / context.stage
    target.parent.mkdir(parents=True, exist_ok=True)
    context.out.rename(target)
    return target
