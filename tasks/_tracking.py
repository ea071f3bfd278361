"""MLflow: runs, metrics, the model registry. The only importer of mlflow.

A stage writes an append-only event log; `python -m tasks._tracking follow LOG` replays it into MLflow while the stage
works, from a process of its own. The log is the truth: when MLflow is down the events stay in work/ and the next
stage sends them. Replaying is idempotent (the run is found again by the log's id, points carry their own time).
"""

import contextlib
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from pipeline_math.ledger import COLUMNS, row_of
from tasks import _ledger
from tasks._context import read_events
from tasks._files import write_json
from tasks.stages import Stage

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT, REGISTERED_MODEL = "zero2chat", "chat"
CANDIDATE, CHAMPION = "candidate", "champion"
_LOG_TAG, _INVOCATION_TAG = "zero2chat.event_log", "zero2chat.invocation"
_POLL_SECONDS = 0.2
_MAX_PARAM_CHARACTERS = 5000  # MLflow refuses longer values
_TABLE = "ledger.json"
_BATCH = 900  # MLflow takes at most 1000 metrics in one call

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
    """Sends one event log; remembers beside it how far it got."""

    def __init__(self, log: Path) -> None:
        self.log, self.state_path = log, log.with_suffix(".sent.json")
        self.state: dict[str, Any] = {"log_id": uuid.uuid4().hex, "sent": 0}
        if self.state_path.exists():
            self.state = json.loads(self.state_path.read_text())
        else:
            write_json(self.state_path, self.state)
        self.client = client()

    def send_new(self) -> bool:
        """Send what has been written since the last call; True when the last event is the end of the run."""
        events = read_events(self.log)
        pending = events[self.state["sent"] :]
        curve = [e for e in pending if e["event"] == "curve"]
        for event in pending:
            if event["event"] != "curve":
                getattr(self, f"_on_{event['event']}")(event)
        self._metrics([(name, v, e["time"], e["step"]) for e in curve for name, v in e["values"].items()])
        if pending:
            self.state["sent"] = len(events)
            write_json(self.state_path, self.state)
        return bool(events) and events[-1]["event"] == "end"

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
        """Pictures of forecasts, on the stage's run and, when the last stage ends, on the pipeline's."""
        if stage not in (Stage.BUDGET, Stage.PRETRAIN, Stage.CHAT):
            return
        from tasks import _run_plots  # matplotlib: a second that other stages need not wait

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


def follow(log: Path, events_before: int) -> None:
    """Replay `log` until its end event or the death of the process that writes it, then older unsent logs.

    `events_before` is the length of the log before this run: that of a resumed stage holds the end of an earlier one.
    """
    parent = os.getppid()
    replay = Replay(log)
    while not (replay.send_new() and replay.sent > events_before):
        log.with_name(_ledger.TRACKING_READY).touch()  # MLflow is imported and connected: the rest costs little
        if os.getppid() != parent:
            return
        time.sleep(_POLL_SECONDS)
    send_unsent()


def send_unsent() -> int:
    """Send the finished logs below work/ that MLflow has not taken completely; how many there were."""
    sent = 0
    for log in sorted(ROOT.glob("work/*/*/events.jsonl")):
        events = read_events(log)
        state = log.with_suffix(".sent.json")
        known = json.loads(state.read_text())["sent"] if state.exists() else 0
        if events and events[-1]["event"] == "end" and known < len(events):
            Replay(log).send_new()
            sent += 1
    return sent


def main() -> int:
    """`follow LOG EVENTS_BEFORE`, `unsent` or `init` (create or upgrade the database)."""
    action = sys.argv[1]
    if action == "follow":
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage; the log's end event ends this process
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            follow(Path(sys.argv[2]), int(sys.argv[3]))
        except Exception as problem:  # whatever MLflow or the disk refuses: the stage goes on, the log keeps the events
            print(f"tracking: {type(problem).__name__}: {str(problem).splitlines()[0][:200]}", file=sys.stderr)
            return 1
        finally:
            with contextlib.suppress(OSError):  # a full disk: the next stage collects
                if Stage.CHAT in _ledger.collect():  # MLflow failed before it came to that
                    _ledger.calibrate()
    elif action == "unsent":
        print(f"{send_unsent()} event log(s) sent to {tracking_uri()}")
    elif action == "init":
        experiment_id(client())
    else:
        print(f"unknown action {action!r}; allowed: follow, unsent, init", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
