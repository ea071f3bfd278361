"""One Prefect task around one DVC stage: fresh stages end as `Cached` with DVC's reason, stale ones run `dvc repro`."""

import json
import os
import subprocess
import sys
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.futures import PrefectFuture
from prefect.states import Completed

from flows import ROOT
from tasks import _keys
from tasks._invocation import FLOW_RUN_ID, FLOW_RUN_URL, TASK_RUN_ID
from tasks._process import die_with_parent
from tasks.stages import NUMBER, Stage

DVC_CHATTER = ("Updating lock file", "Generating lock file", "Use `dvc push`", "To track the changes", "To enable auto")


class StageFailed(Exception):  # noqa: N818 - reads as a state in the UI
    """A stage's child failed. `mendable` says that only its user can mend it: a retry would fail again."""

    def __init__(self, message: str, mendable: bool) -> None:
        super().__init__(message)
        self.mendable = mendable


def build(
    stage: Stage, *upstream: PrefectFuture, retries: int = 0, force: frozenset[str] = frozenset()
) -> PrefectFuture:
    """Submit a stage; it starts when every upstream stage has completed."""
    return run_stage.with_options(
        name=str(stage),
        task_run_name=f"{NUMBER[stage]} {stage}",
        retries=retries,
        retry_delay_seconds=[10 * 3**attempt for attempt in range(retries)],
        retry_condition_fn=_worth_a_retry,
    ).submit(stage, stage in force, return_state=False, wait_for=list(upstream))


@task(cache_policy=NO_CACHE)
def run_stage(stage: Stage, force: bool = False) -> State[Any] | None:
    """Ask DVC whether the stage is fresh; if not, run it as a child that dies with this process."""
    log = get_run_logger()
    keys = _keys.current(stage)
    if not keys.stale_because and not force:
        return Completed(name="Cached", message=f"DVC: up to date, K {keys.key[:16]}")
    log.info("stale because %s", _keys.explain(keys.stale_because) if keys.stale_because else "a run was forced")
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", str(stage)] + (["--force"] if force else [])
    # Progress bars go to stderr: in a terminal they stay live, in a log they become lines.
    stderr = None if sys.stderr.isatty() else subprocess.STDOUT
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=die_with_parent,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            text = line.rstrip()
            if text and not text.startswith(DVC_CHATTER):
                log.info(text)
    if child.returncode:
        failure = _failure(stage)
        raise StageFailed(
            failure.get("error")
            or f"{stage}: `dvc repro` ended with exit code {child.returncode}; its output is above",
            mendable=bool(failure),
        )
    create_markdown_artifact(
        markdown=describe(stage, keys.key), key=f"stage-{stage}", description=f"{stage}: key figures"
    )
    return None


def describe(stage: Stage, key: str) -> str:
    """Key figures of a stage's last run as Markdown."""
    path = ROOT / "metrics" / f"{stage}.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    predicted, measured = figures.pop("predicted", {}), figures.pop("measured", {})
    lines = [f"## {NUMBER[stage]} {stage}", "", f"K `{key[:16]}`, outputs `artifacts/{stage}/`", ""]
    lines += ["| figure | value |", "|---|---|", *(f"| {k} | {_short(v)} |" for k, v in figures.items()), ""]
    lines += ["| quantity | predicted | measured |", "|---|---|---|"]
    lines += [f"| {k} | {_short(predicted.get(k, ''))} | {_short(v)} |" for k, v in measured.items()]
    reports = [
        p for name in ("report.md", "report.html", "plan.md") if (p := ROOT / "artifacts" / stage / name).exists()
    ]
    lines += ["", *(f"Report: `{p.relative_to(ROOT)}`" for p in reports), "Runs: MLflow experiment `zero2chat`"]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _environment() -> dict[str, str]:
    run = get_run_context().task_run  # type: ignore[union-attr]
    scripts = os.path.dirname(sys.executable)
    base = os.environ.get("PREFECT_UI_URL", "http://127.0.0.1:4200")
    return {
        **os.environ,
        "PATH": scripts + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONUNBUFFERED": "1",
        FLOW_RUN_ID: str(run.flow_run_id),
        FLOW_RUN_URL: f"{base}/runs/flow-run/{run.flow_run_id}",
        TASK_RUN_ID: str(run.id),
    }


def _failure(stage: Stage) -> dict[str, Any]:
    path = ROOT / "work" / stage / "failed.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _worth_a_retry(_task: Any, _run: Any, state: State[Any]) -> bool:
    try:
        state.result()
    except StageFailed as failure:
        return not failure.mendable
    except Exception:
        return True
    return False
