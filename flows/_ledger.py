"""How right the forecasts were, what was learnt from them, and which runs the documents quote."""

import math
from collections.abc import Sequence

from flows import ROOT
from pipeline_math.constants import CONSTANTS, prior_of
from pipeline_math.forecast import Calibration
from pipeline_math.ledger import RECORDED_RUNS, Row, coverage, mean_absolute_log_error, write_csv
from tasks import _ledger
from tasks.stages import Stage


def show_ledger() -> None:
    """One line per stage and quantity that was forecast: runs, mean error, share inside the interval, the last run."""
    _ledger.collect(ROOT)
    judged = [row for row in _ledger.rows(ROOT) if row.log_error is not None]
    if not judged:
        print("the ledger is empty: no stage has finished with a forecast; next: make run")
        return
    print(f"{'stage':<13} {'quantity':<26} {'runs':>4} {'error':>7} {'inside':>7}   last: predicted, measured")
    for stage in Stage:
        for quantity in dict.fromkeys(row.quantity for row in judged if row.stage == stage):
            _line(stage, quantity, [row for row in judged if row.stage == stage and row.quantity == quantity])
    uncertain = [row for row in judged if row.low != row.high]
    exact = [row for row in judged if row.low == row.high]
    print(
        f"\n{len(uncertain)} forecasts with an interval: mean |ln error| "
        f"{mean_absolute_log_error(uncertain) or 0:.1%}, {coverage(uncertain) or 0:.0%} inside their 90 % interval; "
        f"{len(exact)} exact ones, {sum(bool(row.inside) for row in exact)} of them equal"
    )


def show_calibration() -> None:
    """Learn from this machine's rows, and print every constant that moved or became known better."""
    _ledger.collect(ROOT)
    found = _ledger.calibrate(ROOT)
    if not found:
        print("nothing to learn from: the ledger holds no run of this machine; next: make run")
    for name, calibration in found.items():
        hardware = _ledger.find_class(name, ROOT)
        if hardware is None:
            continue
        print(f"{name} on {calibration.machine}, {len(calibration.observations)} measurements")
        print(f"  {'constant':<20} {'unit':<6} {'prior':>10} {'+-':>5} {'learnt':>10} {'+-':>5}")
        before = prior_of(hardware)
        for constant in calibration.names:
            _constant_line(constant, hardware.kind, before, calibration)
    print("the next plan and the next run's forecasts use these constants; nothing became stale")


def record_runs() -> None:
    """Copy the newest row of every stage and quantity of this machine into the CSV that the documents quote."""
    _ledger.collect(ROOT)
    own = _ledger.own_rows(ROOT)
    if not own:
        print("nothing to record: the ledger holds no run of this machine; next: make run")
        return
    newest: dict[tuple[str, str], Row] = {}
    last_run = {row.stage: row.run for row in own}
    for row in own:
        if row.run == last_run[row.stage]:
            newest[row.stage, row.quantity] = row
    order = list(Stage)
    rows = sorted(newest.values(), key=lambda row: (order.index(Stage(row.stage)), row.quantity))
    write_csv(rows, RECORDED_RUNS)
    print(f"{len(rows)} rows of {len(last_run)} stages written to {RECORDED_RUNS.relative_to(ROOT)}; next: make math")


def _line(stage: str, quantity: str, rows: Sequence[Row]) -> None:
    last, inside = rows[-1], coverage(rows)
    error = mean_absolute_log_error(rows) or 0.0
    covered = f"{inside:.0%}" if inside is not None else "-"
    print(
        f"{stage:<13} {quantity:<26} {len(rows):>4} {math.expm1(error):>7.1%} {covered:>7}   "
        f"{last.predicted:.5g}, {last.measured:.5g}"
    )


def _constant_line(name: str, kind: str, before: Calibration, after: Calibration) -> None:
    unit = CONSTANTS[kind][name].unit
    print(
        f"  {name:<20} {unit:<6} {before.value(name):>10.3g} {before.log_sd(name):>5.0%} "
        f"{after.value(name):>10.3g} {after.log_sd(name):>5.0%}"
    )
