"""The ledger: every finished stage's forecasts beside its measurements, and the calibration learnt from them.

A stage's rows travel in its event log like everything else it reports; `collect` copies those of finished logs into
ledger/ledger.parquet, once each: stage, key and time tell which are there. `calibrate` reads all rows of this machine
and writes ledger/calibration.json, which the next plan and the next stage's forecasts use. Nothing here is a dependency
of a stage.
"""

import fcntl
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline_math.calibrate import calibrate as posterior
from pipeline_math.constants import noise_of, prior_of
from pipeline_math.forecast import Calibration, Observation
from pipeline_math.hardware import HARDWARE, Hardware
from pipeline_math.ledger import COLUMNS, Row, as_mapping, row_of
from pipeline_math.stage_terms import terms_of
from tasks import _machine
from tasks._context import StageContext, read_events
from tasks._files import write_json
from tasks._forecast import CALIBRATION, ROOT, planned
from tasks._invocation import git_sha
from tasks.stages import Stage

FOLDER = "ledger"
PARQUET = Path(FOLDER) / "ledger.parquet"
TRACKING_READY = "events.ready"
"""Beside an event log: the child that replays it has imported MLflow and is connected."""
_OF_THE_LAST_PART = ("seconds", "peak_memory_bytes")
"""Measured of a process: of a resumed stage the part before the interruption is missing."""
_NEWEST = 600
"""Rows a calibration learns from: about forty runs of the pipeline."""


def rows_of(context: StageContext) -> list[dict[str, Any]]:
    """Rows of a stage that has finished, `run` still empty; without what only the last part of a resumed one came to.

    The shape of a plan's hardware is needed to learn from a row, so the class's name stands in it.
    """
    folder = context.out if context.stage == Stage.BUDGET else context.root / "artifacts" / Stage.BUDGET
    plan = planned(folder)
    resumed = any(event["event"] == "resumed" for event in read_events(context.events.path))
    shared = {
        "stage": str(context.stage),
        "machine": _machine.fingerprint(),
        "key": context.key,
        "run": "",
        "hardware": plan.hardware.name if plan else "",
        "profile": profile_name(context.root),
        "git": git_sha(context.root),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "amounts": json.dumps(context.amounts, sort_keys=True),
    }
    rows = []
    for quantity, measured in context.measured.items():
        if resumed and quantity in _OF_THE_LAST_PART:
            continue
        predicted, low, high = context.predicted.get(quantity, (None, None, None))
        rows.append(
            {**shared, "quantity": quantity, "predicted": predicted, "low": low, "high": high, "measured": measured}
        )
    return rows


def profile_name(root: Path = ROOT) -> str:
    """Name of the shipped profile that params.yaml equals, else "own"."""
    content = (root / "params.yaml").read_bytes() if (root / "params.yaml").exists() else b""
    return next((p.stem for p in sorted((root / "profiles").glob("*.yaml")) if p.read_bytes() == content), "own")


def measured_seconds(root: Path = ROOT) -> dict[str, float]:
    """Stage -> seconds of its last finished run, from metrics/<stage>.json."""
    found = {}
    for stage in Stage:
        path = root / "metrics" / f"{stage}.json"
        if path.exists():
            seconds = json.loads(path.read_text(encoding="utf-8")).get("measured", {}).get("seconds")
            if seconds is not None:
                found[str(stage)] = float(seconds)
    return found


def collect(root: Path = ROOT) -> set[str]:
    """Append the rows of finished event logs that the ledger lacks; the stages that came."""
    with _locked(root):
        known = rows(root)
        collected = {_origin(row) for row in known}
        fresh: list[Row] = []
        for log in sorted(root.glob("work/*/*/events.jsonl")):
            events = read_events(log)
            entries = [event for event in events if event["event"] == "ledger"]
            if not entries or events[-1]["event"] != "end" or events[-1]["status"] != "FINISHED":
                continue
            run = _run_id(log)
            own = (row_of({**row, "run": run}) for row in entries[-1]["rows"])
            fresh += [row for row in own if _origin(row) not in collected]
        if fresh:
            _write(root, sorted([*known, *fresh], key=lambda row: datetime.fromisoformat(row.time)))
    return {row.stage for row in fresh}


def rows(root: Path = ROOT) -> list[Row]:
    """All rows, oldest first; empty without a ledger."""
    path = root / PARQUET
    if not path.exists():
        return []
    import pyarrow.parquet as pq

    return [row_of(values) for values in pq.read_table(path, partitioning=None).to_pylist()]


def own_rows(root: Path = ROOT) -> list[Row]:
    """Rows of this machine: a ledger that was copied or is shared holds those of others, too."""
    machine = _machine.fingerprint()
    return [row for row in rows(root) if row.machine == machine]


def calibrate(root: Path = ROOT) -> dict[str, Calibration]:
    """Device class -> calibration from this machine's newest rows; also written to ledger/calibration.json."""
    machine, own = _machine.fingerprint(), own_rows(root)
    found = {}
    for name in sorted({row.hardware for row in own if row.hardware}):
        hardware = find_class(name, root)
        if hardware is None:
            continue
        known = observations([row for row in own if row.hardware == name][-_NEWEST:], hardware)
        if known:
            noises = {o.quantity: noise_of(o.quantity) for o in known}
            found[name] = posterior(prior_of(hardware), known, noises, machine)
    path = root / CALIBRATION
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, ValueError):
        content = {}
    content[machine] = {name: calibration.as_json() for name, calibration in found.items()}
    write_json(path, content)
    return found


def observations(own: Sequence[Row], hardware: Hardware) -> list[Observation]:
    """What can be learnt from rows: those whose quantity is a sum of terms and whose amounts were recorded."""
    found = []
    for row in own:
        try:
            terms = terms_of(row.stage, row.quantity, row.amounts, hardware)
        except (KeyError, ValueError):  # a row of another version, or of a stage that counted nothing
            continue
        if terms and math.isfinite(row.measured) and row.measured > 0:
            found.append(Observation(f"{row.stage}.{row.quantity}", terms, row.measured))
    return found


def find_class(name: str, root: Path = ROOT) -> Hardware | None:
    """The device class of that name, `auto` as the current plan knows it; None when nothing is known of it."""
    if name in HARDWARE:
        return HARDWARE[name]
    plan = planned(root / "artifacts" / Stage.BUDGET)
    return plan.hardware if plan and plan.hardware.name == name else None


def _origin(row: Row) -> tuple[str, str, str]:
    """The run of a stage that a row came from."""
    return row.stage, row.key, row.time


def _run_id(log: Path) -> str:
    try:
        state = json.loads(log.with_suffix(".sent.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return f"log-{log.parent.name}"
    return str(state.get("run_id") or state["log_id"])


def _write(root: Path, content: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / PARQUET
    table = pa.Table.from_pylist([as_mapping(row) for row in content], schema=_schema())
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def _schema() -> Any:
    import pyarrow as pa

    numbers = {"predicted", "low", "high", "measured"}
    return pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One writer at a time: stages of one pipeline may end together."""
    (root / FOLDER).mkdir(exist_ok=True)
    with (root / FOLDER / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
