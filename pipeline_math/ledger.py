"""The ledger: what was predicted beside what was measured, one row per quantity of a finished stage.

Rows are plain data; `tasks/_ledger.py` keeps them in Parquet, the documents here are rendered from a CSV of them.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

RECORDED_RUNS = Path(__file__).parent / "recorded_runs.csv"
"""Committed rows of this project's own runs: the examples in the documents come from here."""


@dataclass(frozen=True)
class Row:
    """One quantity of one finished stage; the unit is in the quantity's name."""

    stage: str
    quantity: str
    predicted: float | None
    """Most likely value according to the plan; None when it was only measured."""
    low: float | None
    high: float | None
    """Bounds of the 90 % interval."""
    measured: float
    machine: str
    """What it ran on, in words."""
    key: str
    """K of the stage."""
    run: str
    """MLflow run, or the id of its event log when no server took it."""
    hardware: str
    """Device class the plan was made for."""
    profile: str
    git: str
    time: str
    """When the stage finished, ISO 8601."""
    amounts: Mapping[str, float] = field(default_factory=dict)
    """What the stage really processed."""

    @property
    def log_error(self) -> float | None:
        """ln(measured / predicted); None without a prediction, or where one of them is not positive."""
        if not self.predicted or self.predicted <= 0 or self.measured <= 0:
            return None
        return math.log(self.measured / self.predicted)

    @property
    def inside(self) -> bool | None:
        """Did the measurement fall into the interval? None without one."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.measured <= self.high


COLUMNS = tuple(column.name for column in fields(Row))
_NUMBERS = frozenset({"predicted", "low", "high", "measured"})


def coverage(rows: Iterable[Row]) -> float | None:
    """Share of the rows with an interval whose measurement lies in it; a good 90 % interval gives 0.9."""
    inside = [row.inside for row in rows if row.inside is not None]
    return sum(inside) / len(inside) if inside else None


def mean_absolute_log_error(rows: Iterable[Row]) -> float | None:
    """Mean |ln(measured / predicted)|: 0.10 is about 10 %."""
    errors = [abs(row.log_error) for row in rows if row.log_error is not None]
    return sum(errors) / len(errors) if errors else None


def row_of(values: Mapping[str, Any]) -> Row:
    """A row from a mapping of column to value, `amounts` as JSON text or mapping; empty text means None."""
    content: dict[str, Any] = {name: values.get(name) for name in COLUMNS}
    for name in _NUMBERS:
        content[name] = None if content[name] in (None, "") else float(content[name])
    amounts = content["amounts"] or {}
    content["amounts"] = json.loads(amounts) if isinstance(amounts, str) else dict(amounts)
    return Row(**content)


def as_mapping(row: Row) -> dict[str, Any]:
    """The row with `amounts` as JSON text: the form stored in Parquet and CSV."""
    return {**asdict(row), "amounts": json.dumps(dict(row.amounts), sort_keys=True)}


def read_csv(path: Path = RECORDED_RUNS) -> list[Row]:
    """Rows of a CSV file; ValueError when it lacks a column."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the columns {', '.join(missing)}; next: `python -m flows ledger --record`")
        return [row_of(values) for values in reader]


def write_csv(rows: Iterable[Row], path: Path = RECORDED_RUNS) -> None:
    """Write rows as CSV, numbers with the digits that read back the same."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(as_mapping(row) for row in rows)
