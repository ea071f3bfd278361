"""reports/run.html: what was planned, what came out, and by how much the forecast was wrong.

One page without scripts or anything from elsewhere, equal for equal inputs. It shows what is there and lists what is
missing. Every number names the run and the K it came from. The pictures lie in reports/plots/ as well.
"""

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows import _report_tables as tables
from flows._report_inputs import STAGES, Inputs, read_inputs
from pipeline_math.interval import Interval, add_independent
from pipeline_math.ledger import Row, coverage
from tasks import _forecast_plots as plots
from tasks._figures import GRID, INK, PAPER, digits, with_unit
from tasks._files import remove, write_text
from tasks.stages import Stage


def write_report(root: Path, rows: Iterable[Row] | None = None, keys: Mapping[str, str] | None = None) -> Path:
    """Write the page and its pictures below `root`/reports and return the page's path.

    `rows` are those of the ledger, `keys` the K of every stage's present output; None reads both where they are kept.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = read_inputs(root, rows, keys)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("_report.html").render(
        headline=headline(found),
        missing=found.missing,
        failures=found.failures,
        warnings=found.forecast.get("warnings", []),
        plan=tables.lines(found.plan),
        hardware=tables.lines(found.hardware),
        compared=tables.by_stage(row for row in found.rows if row.inside is not None),
        measured_only=tables.by_stage(row for row in found.rows if row.inside is None),
        figures=draw(found, root / "reports" / "plots"),
        acceptance=tables.acceptance(found.verdict, found.acceptance),
        scores=tables.scores(found.scores),
        provenance=tables.provenance(found),
        planned_by=tables.source(found, Stage.BUDGET),
        judged_by=tables.source(found, Stage.GATE),
        scored_by=tables.source(found, Stage.EVALUATION),
    )
    path = root / "reports" / "run.html"
    write_text(path, page)
    return path


def headline(found: Inputs) -> list[dict[str, str]]:
    """The page in five lines: {"name", "value", "detail"}."""
    verdict, checks = found.verdict, found.verdict.get("checks", [])
    missed = [str(check["name"]) for check in checks if not check["passed"]]
    asked = f"{len(checks)} checks of {verdict.get('selected')}" if verdict else "next: `make run`"
    judged = [row for row in found.rows if row.inside is not None and row.low != row.high]
    share, inside = coverage(judged), sum(bool(row.inside) for row in judged)
    return [
        _planned(found),
        _wall_clock(found),
        _bits_per_byte(found),
        {
            "name": "Verdict",
            "value": {True: "passed", False: "failed"}.get(verdict.get("passed", ""), "not judged"),
            "detail": "; missed: ".join([asked, *([", ".join(missed)] if missed else [])]),
        },
        {
            "name": "Inside their 90 % interval",
            "value": f"{inside} of {len(judged)}" if judged else "none",
            "detail": "nothing to compare yet"
            if share is None
            else f"{share:.0%} of the uncertain forecasts of this run",
        },
    ]


def _planned(found: Inputs) -> dict[str, str]:
    plan, total = found.plan, found.forecast.get("total", {})
    if not plan:
        return {"name": "Planned", "value": "no plan", "detail": "next: `make run`, or `dvc repro budget` alone"}
    tokens = digits(plan.get("train_tokens", 0))
    costs = [f"{digits(total[name])} {unit}" for name, unit in (("usd", "USD"), ("kwh", "kWh")) if name in total]
    return {
        "name": "Planned",
        "value": f"{plan.get('depth', '?')} layers, {plan.get('d_model', '?')} channels",
        "detail": ", ".join([f"{tokens} tokens on {plan.get('devices', '?')} x {plan.get('hardware', '?')}", *costs])
        + f"; {tables.source(found, Stage.BUDGET)}",
    }


def _wall_clock(found: Inputs) -> dict[str, str]:
    """Seconds of all stages added up; the error only where what was forecast was measured too."""
    measured = {stage: row.measured for stage in STAGES if (row := found.row(stage, "seconds"))}
    expected, total = found.predicted_seconds, found.forecast.get("total", {}).get("seconds_interval")
    interval = Interval(**total) if total else add_independent(expected.values()) if expected else None
    whole = set(expected) <= set(measured)
    shown = _against("Wall clock", "seconds", interval, sum(measured.values()) if measured else None, whole)
    shown["detail"] += f"; {len(measured)} of {len(STAGES)} stages measured, their seconds added up"
    return shown


def _bits_per_byte(found: Inputs) -> dict[str, str]:
    row = found.row(Stage.PRETRAIN, "bits_per_byte")
    expected = (plots.interval_of(row) if row else None) or found.prediction(Stage.PRETRAIN, "bits_per_byte")
    shown = _against("Bits per byte, base model", "bits_per_byte", expected, row.measured if row else None)
    if row:
        shown["detail"] += f"; {tables.source(found, Stage.PRETRAIN)}"
    return shown


def _against(
    name: str, quantity: str, expected: Interval | None, measured: float | None, comparable: bool = True
) -> dict[str, str]:
    value = "not measured" if measured is None else with_unit(quantity, measured)
    if expected is None:
        return {"name": name, "value": value, "detail": "no forecast"}
    detail = f"forecast {with_unit(quantity, expected.value)}, 90 %: {tables.bounds(quantity, expected)}"
    if measured is not None and comparable and expected.value:
        side = "inside" if expected.low <= measured <= expected.high else "outside"
        detail += f"; {measured / expected.value - 1:+.1%}, {side}"
    return {"name": name, "value": value, "detail": detail}


def draw(found: Inputs, folder: Path) -> list[dict[str, Any]]:
    """Write the pictures that there is data for: {"title", "caption", "svg", "path"} each."""
    remove(folder)
    memory, peak = found.forecast.get("memory", {}), found.row(Stage.PRETRAIN, "peak_memory_bytes")
    tokens = found.row(Stage.TOKENIZER, "bytes_per_token")
    loss = found.row(Stage.PRETRAIN, "bits_per_byte")
    expected_loss = (plots.interval_of(loss) if loss else None) or found.prediction(Stage.PRETRAIN, "bits_per_byte")
    pictures = (
        (
            "predicted_vs_measured",
            "Seconds of every stage, predicted and measured",
            "Forecasts as they stood when each stage started.",
            lambda path: plots.predicted_vs_measured(found.rows, path, found.predicted_seconds),
        ),
        (
            "time_breakdown",
            "Where the time goes",
            "Stages may run side by side; shares are of their seconds added up.",
            lambda path: plots.time_breakdown(found.rows, path, found.predicted_seconds),
        ),
        (
            "memory_breakdown",
            "Memory of a pretraining step",
            "Predicted parts per device, and the peak of the whole process when it was measured.",
            lambda path: plots.memory_breakdown(
                memory.get("parts", {}), memory.get("limit_bytes"), path, peak.measured if peak else None
            ),
        ),
        (
            "loss_forecast",
            "Loss against its forecast",
            "The band is the 90 % interval of the last evaluation; the first steps lie above the picture.",
            lambda path: plots.loss_forecast(found.curve, expected_loss, path, tokens.measured if tokens else None),
        ),
        (
            "accuracy",
            "All forecasts so far",
            "Every row of the ledger; exact predictions are counted, not drawn.",
            lambda path: plots.accuracy(found.history, path),
        ),
    )
    return [
        {"title": title, "caption": caption, "svg": inline_svg(path, title), "path": f"plots/{path.name}"}
        for name, title, caption, write in pictures
        if write(path := folder / f"{name}.svg")
    ]


def inline_svg(path: Path, title: str) -> str:
    """The picture as part of a page: ids of its own, colours of the page, a name for screen readers."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)  # would rule the whole page
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{path.stem}-", text)
    for ours, page in ((INK, "currentColor"), (PAPER, "none"), (GRID, "var(--line)")):
        text = text.replace(ours, page)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, f"{path} has no viewBox"
    return f'<svg role="img" {box[0]}><title>{html.escape(title)}</title>{body}'
