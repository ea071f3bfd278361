"""The plan's forecasts with what has been learnt since: amounts from the plan, constants from this machine's runs.

Plan files hold what was forecast when the plan was made. The stages' own forecasts are made again when they start, so
that a run after a calibrated one profits without any stage becoming stale.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_math.constants import knows_all
from pipeline_math.forecast import Calibration
from pipeline_math.hardware import Hardware
from pipeline_math.interval import Interval
from pipeline_math.stage_seconds import forecasts

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION = Path("ledger") / "calibration.json"
"""Calibrations of this repository, by machine and device class."""


@dataclass(frozen=True)
class Planned:
    """What artifacts/budget says about the run to come."""

    hardware: Hardware
    amounts: Mapping[str, Mapping[str, float]]
    """Stage -> what it is expected to process."""
    forecast: Mapping[str, Any]
    """forecast.json as it was written."""


def planned(folder: Path) -> Planned | None:
    """The plan in a budget's output folder, None when there is none (or one of another version)."""
    try:
        forecast = json.loads((folder / "forecast.json").read_text(encoding="utf-8"))
        hardware = json.loads((folder / "hardware.json").read_text(encoding="utf-8"))
        return Planned(Hardware(**hardware["device"]), forecast["amounts"], forecast)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def read_calibration(hardware: Hardware, machine: str, root: Path = ROOT) -> Calibration | None:
    """What runs on this machine taught about the class; None before the first, and when the file is of no use.

    It is of no use when it is damaged, or was learnt by another version of the formulas, with other constants.
    """
    try:
        content = json.loads((root / CALIBRATION).read_text(encoding="utf-8"))
        found = Calibration.from_json(content[machine][hardware.name])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None
    if knows_all(found, hardware):
        return found
    _tell_once(
        f"{CALIBRATION} holds other constants than this version and is left out; the next finished pipeline "
        "writes a new one"
    )
    return None


@cache
def _tell_once(message: str) -> None:
    """Print a line once per process, however often it is the answer."""
    print(message, file=sys.stderr, flush=True)


def current(
    machine: str,
    root: Path = ROOT,
    folder: Path | None = None,
    instead: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, dict[str, Interval]]:
    """Stage -> quantity -> forecast for the plan in `folder` (default artifacts/budget); empty without a plan.

    `instead`: stage -> amounts that replace the plan's of the same name.
    """
    plan = planned(folder or root / "artifacts" / "budget")
    if plan is None:
        return {}
    try:
        amounts = {stage: {**own, **(instead or {}).get(stage, {})} for stage, own in plan.amounts.items()}
        found = forecasts(amounts, plan.hardware, read_calibration(plan.hardware, machine, root))
    except (KeyError, ValueError):  # a plan written by another version of the formulas
        return {}
    extra = {
        stage: {quantity: Interval(**interval) for quantity, interval in own.items()}
        for stage, own in plan.forecast["predictions"].items()
    }
    return {stage: {**extra.get(stage, {}), **own} for stage, own in found.items()}
