"""The project's own recorded runs as numbers and tables: predicted beside measured, and how wrong it has been.

The example of a document is the newest recorded run of the stage under a named profile; the error tables are over
all rows of the stage.
"""

import functools
from collections.abc import Iterable

from pipeline_math.documents.number import DocumentError, Number, compute, recorded_field, short
from pipeline_math.documents.show import show
from pipeline_math.documents.table import Cell, Quoted, Shown, Table
from pipeline_math.ledger import Row, coverage, mean_absolute_log_error, read_csv

OWN_PARAMETERS = "own"
"""Profile of a run whose parameters belong to no profile."""
_UNITS = {
    "seconds": "s",
    "bytes": "B",
    "tokens": "tokens",
    "rows": "rows",
    "documents": "documents",
    "parameters": "parameters",
    "share": "share",
    "steps": "steps",
}
_RATES = {
    "tokens_per_second": "tokens/s",
    "bytes_per_token": "B/token",
    "kv_bytes_per_token": "B/token",
    "train_flops_per_token": "FLOP/token",
    "bits_per_byte": "bits/byte",
    "seconds_per_output_token": "s",
}


@functools.cache
def all_rows() -> tuple[Row, ...]:
    """Every row of the committed snapshot of the ledger."""
    return tuple(read_csv())


def unit_of(quantity: str) -> str:
    """The unit that a quantity or an amount has in its name; "" for plain counts."""
    return _RATES.get(quantity) or _UNITS.get(quantity.rsplit("_", 1)[-1], "")


def quantities(stage: str) -> list[str]:
    """Quantities recorded for a stage, in the order of the ledger."""
    return list(dict.fromkeys(row.quantity for row in all_rows() if row.stage == stage))


def newest(stage: str, quantity: str) -> Row:
    """The row of a quantity in the example run of its stage; DocumentError when nothing was recorded."""
    rows = [row for row in all_rows() if row.stage == stage and row.quantity == quantity]
    if not rows:
        known = ", ".join(quantities(stage)) or "none"
        raise DocumentError(f"the ledger has no row ({stage}, {quantity}); recorded for {stage}: {known}")
    run = _example_run(stage)
    return max(rows, key=lambda row: (row.run == run, row.profile != OWN_PARAMETERS, row.time))


def measured(stage: str, quantity: str) -> Number:
    """What the example run measured."""
    return recorded_field(newest(stage, quantity), "measured", unit_of(quantity))


def predicted(stage: str, quantity: str) -> Number:
    """What the plan of the example run predicted."""
    row = newest(stage, quantity)
    if row.predicted is None:
        raise DocumentError(f"ledger row ({stage}, {quantity}) of run {row.run} has no prediction")
    return recorded_field(row, "predicted", unit_of(quantity))


def amount(stage: str, name: str, quantity: str = "seconds") -> Number:
    """What the example run processed, such as amount("corpus", "raw_bytes")."""
    row = newest(stage, quantity)
    if name not in row.amounts:
        raise DocumentError(f"ledger row ({stage}, {quantity}) has no amount {name}; it has {', '.join(row.amounts)}")
    return recorded_field(row, f"amounts.{name}", unit_of(name))


def ledger_values(*wanted: str) -> dict[str, Number | Table]:
    """The placeholders every document has: `comparison`, `runs`, `errors`; wanted are "stage" or "stage.quantity".

    comparison: predicted beside measured in the example run of each stage; runs: what ran where; errors: coverage of
    the intervals and mean |ln error| over all rows of these quantities.
    """
    pairs = [pair for name in wanted for pair in _pairs(name)]
    if not pairs:
        raise DocumentError(f"the ledger has no rows of {', '.join(wanted)}; next: `python -m flows ledger --record`")
    rows = [newest(stage, quantity) for stage, quantity in pairs]
    return {"comparison": _comparison(rows), "runs": _runs(rows), "errors": _errors(pairs)}


def _pairs(wanted: str) -> list[tuple[str, str]]:
    stage, _, quantity = wanted.partition(".")
    return [(stage, name) for name in ([quantity] if quantity else quantities(stage))]


def _example_run(stage: str) -> str:
    rows = [row for row in all_rows() if row.stage == stage]
    return max(rows, key=lambda row: (row.profile != OWN_PARAMETERS, row.time)).run


def _comparison(rows: Iterable[Row]) -> Table:
    lines: list[list[Cell]] = []
    for row in rows:
        unit = unit_of(row.quantity)
        value = recorded_field(row, "measured", unit)
        name = f"{row.stage} {row.quantity.replace('_', ' ')}"
        if row.predicted is None:
            lines.append([Quoted(name), "-", "-", value, "-", "-"])
            continue
        lines.append(
            [
                Quoted(name),
                recorded_field(row, "predicted", unit),
                _interval(row, unit),
                value,
                _error(row),
                _inside(row),
            ]
        )
    return Table(("quantity", "predicted", "90 % interval", "measured", "measured / predicted - 1", "inside"), lines)


def _interval(row: Row, unit: str) -> Cell:
    if row.low is None or row.high is None:
        return "-"
    if row.low == row.high:
        return "exact"
    low, high = (show(recorded_field(row, column, unit)) for column in ("low", "high"))
    return Quoted(f"{low} to {high}")


def _error(row: Row) -> Cell:
    if not row.predicted:
        return "-"
    return Shown(compute(relative_error, row.measured, row.predicted, unit="share"), "signed .1%")


def relative_error(measured_value: float, predicted_value: float) -> float:
    """measured / predicted - 1."""
    return measured_value / predicted_value - 1.0


def _inside(row: Row) -> Cell:
    return {None: "-", True: "yes", False: "**no**"}[row.inside]


def _runs(rows: Iterable[Row]) -> Table:
    of_run = {row.run: row for row in rows}
    lines: list[list[Cell]] = []
    for row in of_run.values():
        names = (short(row.run), row.stage, short(row.key), row.machine, row.hardware, row.profile, short(row.git))
        code = (True, False, True, False, True, False, True)
        lines.append([Quoted(f"`{name}`" if is_code else name) for name, is_code in zip(names, code, strict=True)])
    return Table(("run", "stage", "K", "machine", "planned for", "profile", "commit"), lines, "lllllll")


def _errors(pairs: Iterable[tuple[str, str]]) -> Table:
    lines: list[list[Cell]] = []
    every: list[Row] = []
    for stage, quantity in pairs:
        rows = [row for row in all_rows() if (row.stage, row.quantity) == (stage, quantity)]
        if not any(row.inside is not None for row in rows):
            continue
        exact = all(row.low == row.high for row in rows)
        note = " (exact)" if exact else ""
        lines.append([Quoted(f"{stage} {quantity.replace('_', ' ')}{note}"), *_error_cells(rows)])
        every += [] if exact else rows
    if not lines:
        raise DocumentError(f"no row of {', '.join('.'.join(pair) for pair in pairs)} has an interval")
    if every:
        lines.append(["all but the exact ones", *_error_cells(every)])
    return Table(("quantity", "rows with an interval", "inside it", "mean of the absolute ln error"), lines)


def _error_cells(rows: list[Row]) -> list[Cell]:
    with_error = [row for row in rows if row.log_error is not None]
    error: Cell = compute(mean_absolute_log_error, with_error, unit="") if with_error else "-"
    return [
        Shown(compute(rows_with_interval, rows, unit=""), ","),
        Shown(compute(coverage, rows, unit="share"), ".0%"),
        error,
    ]


def rows_with_interval(rows: list[Row]) -> int:
    """Rows that predicted an interval."""
    return sum(row.inside is not None for row in rows)
