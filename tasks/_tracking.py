"""MLflow: runs, metrics, the model registry. The only importer of mlflow.

A stage writes an append-only event log; `python -m tasks._tracking follow LOG` (tasks/_replaying.py) replays it into
MLflow while the stage works, from a process of its own. The log is the truth: when MLflow is down the events stay in
work/ and are sent later. Replaying is idempotent (the run is found again by the log's id, points carry their own time).
"""

import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from pipeline_math.ledger import COLUMNS, row_of
from tasks import _ledger
from tasks._context import EventReader
from tasks._files import write_json
from tasks.stages import Stage

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT, REGISTERED_MODEL = "zero2chat", "chat"
CANDIDATE, CHAMPION = "candidate", "champion"
_LOG_TAG, _INVOCATION_TAG = "zero2chat.event_log", "zero2chat.invocation"
_MAX_PARAM_CHARACTERS = 5000  # MLflow refuses longer values
_TABLE = "ledger.json"
_BATCH = 900  # MLflow takes at most 1000 metrics in one call
_READ_BYTES = 1 << 20
"""Of a log at once: what has been sent is remembered in between, and a long log needs no memory."""
_CURVE_GROUPS = ("lr", "grad_norm", "update_ratio")
"""Columns <group>_<parameters> become <group>/<parameters>: MLflow draws what is before the slash together."""
_MACHINE = {"tokens_per_second", "mfu", "eta_seconds", "data_wait_share", "memory_bytes", "skipped_steps"}
"""Columns about the machine, not the model. A figure of the whole run may have the same name: they must not mix."""

# A server that is gone is found out in seconds, not minutes; tasks/_replaying.py has its own patience.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the sqlite file of this repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{ROOT / 'mlflow.db'}"


def client() -> Any:
    """An MLflow client for `tracking_uri`."""
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())


def experiment_id(mlflow_client: Any) -> str:
    """Id of the project's experiment; made on first use with an artifact location that does not depend on the cwd."""
    from mlflow.exceptions import MlflowException

    found = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        location = None if "MLFLOW_TRACKING_URI" in os.environ else (ROOT / "mlartifacts").as_uri()
        try:
            return mlflow_client.create_experiment(EXPERIMENT, artifact_location=location)
        except MlflowException:  # another stage made it a moment ago
            found = mlflow_client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    return found.experiment_id


class Replay:
    """Sends one event log; remembers beside it how far it got.

    An event that was sent twice (killed, or refused, between sending and remembering) does no harm: runs are found
    again by the log's id, points carry their own time, and MLflow keeps one of two equal points.
    """

    def __init__(self, log: Path) -> None:
        self.log, self.state_path = log, log.with_suffix(".sent.json")
        self.state: dict[str, Any] = {"log_id": uuid.uuid4().hex, "sent": 0, "offset": 0, "ended": False}
        if self.state_path.exists():
            self.state |= json.loads(self.state_path.read_text())
            if not self.state["offset"]:  # as an earlier version wrote it: all again
                self.state["sent"] = 0
        else:
            write_json(self.state_path, self.state)
        self._reader = EventReader(log, self.state["offset"])
        self.client = client()

    def send_new(self) -> bool:
        """Send what has been written since the last call; True when the last event is the end of the run."""
        self._reader.offset = self.state["offset"]  # what a server refused is read again
        while events := self._reader.new(_READ_BYTES):
            self._send(events)
            ended = events[-1]["event"] == "end"
            self.state.update(sent=self.state["sent"] + len(events), offset=self._reader.offset, ended=ended)
            write_json(self.state_path, self.state)
        return self.state["ended"]

    def _send(self, events: list[dict[str, Any]]) -> None:
        curve = [e for e in events if e["event"] == "curve"]
        last = events[-1]["event"] == "end"  # nobody looks at a run that has ended before its points are there
        for event in events[:-1] if last else events:
            if event["event"] != "curve":
                getattr(self, f"_on_{event['event']}")(event)
        self._metrics([(curve_metric(name), v, e["time"], e["step"]) for e in curve for name, v in e["values"].items()])
        if last:
            self._on_end(events[-1])

    @property
    def sent(self) -> int:
        """Events that MLflow has."""
        return self.state["sent"]

    @property
    def run_id(self) -> str:
        return self.state["run_id"]

    def _on_start(self, event: dict[str, Any]) -> None:
        experiment = experiment_id(self.client)
        parent = self._parent(experiment, event)
        run = self._find(experiment, _LOG_TAG, self.state["log_id"])
        if run is None:
            tags = {**event["tags"], _LOG_TAG: self.state["log_id"], "mlflow.parentRunId": parent}
            run = self.client.create_run(
                experiment, start_time=int(event["time"] * 1000), run_name=event["run_name"], tags=tags
            )
            self._params(run.info.run_id, event["params"])
        self.state.update(run_id=run.info.run_id, parent_id=parent, K=event["tags"].get("K", ""), tags=event["tags"])

    def _params(self, run_id: str, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(k, v[:_MAX_PARAM_CHARACTERS]) for k, v in params.items()])

    def _parent(self, experiment: str, event: dict[str, Any]) -> str:
        found = self._find(experiment, _INVOCATION_TAG, event["invocation"])
        if found is None:
            name = time.strftime("pipeline %Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
            tags = {_INVOCATION_TAG: event["invocation"]}
            tags.update({k: v for k, v in event["tags"].items() if k.startswith(("git.", "prefect.flow"))})
            found = self.client.create_run(experiment, int(event["time"] * 1000), tags, run_name=name)
        self.client.update_run(found.info.run_id, status="RUNNING")
        return found.info.run_id

    def _find(self, experiment: str, tag: str, value: str) -> Any:
        runs = self.client.search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return runs[0] if runs else None

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self.client.update_run(self.run_id, status="RUNNING")
        self.client.update_run(self.state["parent_id"], status="RUNNING")
        self.client.set_tag(self.run_id, "resumed", "true")
        if event["code_changed"]:
            self.client.set_tag(self.run_id, "resumed_across_code_change", "true")

    def _on_predicted(self, event: dict[str, Any]) -> None:
        values = {"": event["value"], ".low": event["low"], ".high": event["high"]}
        self._metrics(
            [(f"predicted.{event['name']}{k}", v, event["time"], 0) for k, v in values.items() if v is not None]
        )

    def _on_measured(self, event: dict[str, Any]) -> None:
        self._metrics([(f"measured.{event['name']}", event["value"], event["time"], 0)])

    def _on_figures(self, event: dict[str, Any]) -> None:
        numbers = {k: v for k, v in event["values"].items() if isinstance(v, int | float)}
        self._metrics([(k, float(v), event["time"], 0) for k, v in numbers.items()])
        for name, value in event["values"].items():
            if name not in numbers:
                self.client.set_tag(self.run_id, name, str(value))

    def _metrics(self, points: list[tuple[str, float, float, int]]) -> None:
        from mlflow.entities import Metric

        for first in range(0, len(points), _BATCH):
            batch = [Metric(name, v, int(t * 1000), step) for name, v, t, step in points[first : first + _BATCH]]
            self.client.log_batch(self.run_id, metrics=batch)

    def _on_amounts(self, event: dict[str, Any]) -> None:
        self._metrics([(f"amount.{name}", value, event["time"], 0) for name, value in event["values"].items()])

    def _on_ledger(self, event: dict[str, Any]) -> None:
        """How far off each forecast was, as metrics to compare runs by, and all rows as a table."""
        points = []
        for row in (row_of(row) for row in event["rows"]):
            if row.log_error is not None:
                points.append((f"error.{row.quantity}", row.log_error, event["time"], 0))
            if row.inside is not None:
                points.append((f"inside.{row.quantity}", float(row.inside), event["time"], 0))
        self._metrics(points)
        columns = {name: [row[name] for row in event["rows"]] for name in COLUMNS}
        if event["rows"]:
            self.client.log_dict(
                self.run_id, {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}, _TABLE
            )

    def _on_register(self, event: dict[str, Any]) -> None:
        register(self.client, self.run_id, Path(event["folder"]), event["key"], self.state["tags"])

    def _on_end(self, event: dict[str, Any]) -> None:
        end = int(event["time"] * 1000)
        for artifact in REPORTS:
            path = ROOT / "artifacts" / self.state["tags"]["stage"] / artifact
            if event["status"] == "FINISHED" and path.exists():
                self.client.log_artifact(self.run_id, str(path))
        if event["status"] == "FINISHED":
            self._log_pictures(self.state["tags"]["stage"])
        self.client.set_terminated(self.run_id, event["status"], end)
        self.client.set_terminated(self.state["parent_id"], event["status"], end)

    def _log_pictures(self, stage: str) -> None:
        """Pictures of curves and forecasts, on the stage's run and, when the last stage ends, on the pipeline's."""
        from tasks import _run_plots

        if stage not in _run_plots.TRAINING | {Stage.BUDGET, Stage.CHAT}:  # drawing takes a second
            return

        folder = self.log.parent / "plots"
        for path in _run_plots.draw(stage, ROOT, folder):
            self.client.log_artifact(self.run_id, str(path), "plots")
        if stage == Stage.CHAT:  # the pipeline has ended
            _ledger.collect(ROOT)
            _ledger.calibrate(ROOT)
            for path in _run_plots.draw_pipeline(ROOT, folder):
                self.client.log_artifact(self.state["parent_id"], str(path), "plots")


REPORTS = (
    "report.md",
    "report.json",
    "plan.json",
    "plan.md",
    "forecast.json",
    "acceptance.json",
    "hardware.json",
    "verdict.json",
    "latency_and_stability.json",
    "curve.csv",
    "samples.jsonl",
    "conversation.md",
    "plots",
)


def register(mlflow_client: Any, run_id: str, folder: Path, key: str, tags: dict[str, str]) -> str:
    """Register an export as a version of `chat`, alias candidate; champion too while there is none. Idempotent by K."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    scores = folder / "scores.json"
    known = {v.tags.get("K"): v.version for v in versions(mlflow_client)}
    version = known.get(key)
    if version is None:
        model = mlflow.initialize_logged_model(
            name=REGISTERED_MODEL,
            source_run_id=run_id,
            experiment_id=experiment_id(mlflow_client),
            tags={"K": key, **{k: v for k, v in tags.items() if k.startswith("git.")}},
        )
        mlflow_client.log_model_artifacts(model.model_id, str(folder))
        mlflow.finalize_logged_model(model.model_id, "READY")
        version = mlflow.register_model(f"models:/{model.model_id}", REGISTERED_MODEL, tags={"K": key}).version
        mlflow_client.set_model_version_tag(REGISTERED_MODEL, version, "run_id", run_id)
        for name, value in tags.items():
            if name in ("git.sha", "dvc.lock.md5"):
                mlflow_client.set_model_version_tag(REGISTERED_MODEL, version, name, value)
        if scores.exists():
            mlflow_client.set_model_version_tag(REGISTERED_MODEL, version, "scores", scores.read_text())
    mlflow_client.set_registered_model_alias(REGISTERED_MODEL, CANDIDATE, version)
    message = f"registered {REGISTERED_MODEL} version {version} as {CANDIDATE}"
    if by_alias(mlflow_client, CHAMPION) is None:
        promote(mlflow_client, version, by="pipeline: first version whose gate passed")
        message += f" and {CHAMPION}"
    print(f"tracking: {message}", flush=True)
    return version


def versions(mlflow_client: Any) -> list[Any]:
    """All registered versions, tags included."""
    found = mlflow_client.search_model_versions(f"name = '{REGISTERED_MODEL}'")
    return [mlflow_client.get_model_version(REGISTERED_MODEL, v.version) for v in found]


def by_alias(mlflow_client: Any, alias: str) -> Any:
    """The version an alias points at, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return mlflow_client.get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException as missing:
        if missing.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def promote(mlflow_client: Any, version: str, by: str) -> None:
    """Point `champion` at a version. Aliases have no history, so the version says when, by whom and from which."""
    former = by_alias(mlflow_client, CHAMPION)
    mlflow_client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, version)
    history = {
        "promoted_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "promoted_by": by,
        "from_version": former.version if former else "",
    }
    for name, value in history.items():
        mlflow_client.set_model_version_tag(REGISTERED_MODEL, version, name, value)


def champion() -> dict[str, Any] | None:
    """{"version", "key", "scores"} of the champion, or None when nothing was ever promoted."""
    if "MLFLOW_TRACKING_URI" not in os.environ and not (ROOT / "mlflow.db").exists():
        return None
    found = by_alias(client(), CHAMPION)
    if found is None:
        return None
    return {
        "version": found.version,
        "key": found.tags.get("K", ""),
        "scores": json.loads(found.tags.get("scores", "{}")),
    }


def download(reference: str) -> Path:
    """Local folder of `models:/chat@champion` or `models:/chat/3`."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=reference))


def curve_metric(column: str) -> str:
    """The name in MLflow of a column of a training curve: loss, val_bpb, lr/matrices, grad_norm/head, machine/mfu."""
    for group in _CURVE_GROUPS:
        if column.startswith(f"{group}_"):
            return f"{group}/{column.removeprefix(f'{group}_')}"
    return f"machine/{column}" if column in _MACHINE else column


def main() -> int:
    """`follow LOG EVENTS_BEFORE`, `unsent` or `init` (create or upgrade the database)."""
    from tasks import _replaying

    action = sys.argv[1]
    if action == "follow":
        return _replaying.follow_stage(Path(sys.argv[2]), int(sys.argv[3]))
    if action == "unsent":
        print(f"{_replaying.send_unsent()} event log(s) sent to {tracking_uri()}")
    elif action == "init":
        experiment_id(client())
    else:
        print(f"unknown action {action!r}; allowed: follow, unsent, init", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
