"""Pictures of forecasts beside measurements. The suffix of the path decides: .svg or .png; equal for equal inputs.

Every function returns False and writes nothing when there is nothing to show. What lies inside and outside an interval
differs in shape and in words, not in colour alone. On a log axis, values that are not positive are words only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_math.checks import not_negative, positive
from pipeline_math.interval import Interval
from pipeline_math.ledger import Row, coverage, mean_absolute_log_error
from tasks._figures import (
    GRID,
    INK,
    KEYS,
    LIMIT,
    MEASURED,
    PREDICTED,
    digits,
    drawing,
    legend,
    marker,
    unit_ticks,
    with_unit,
)
from tasks.stages import NUMBER, Stage

WANTED_LOG_ERROR = math.log(1.1)
"""What a forecast should reach: 10 %."""


def error_in_words(row: Row) -> str:
    """Measured against predicted in per cent, and whether the interval missed it."""
    if not row.predicted or row.inside is None:
        return ""
    outside = "" if row.inside else ", outside"
    return f", {row.measured / row.predicted - 1:+.0%}{outside}"


def newest(rows: Iterable[Row], quantity: str) -> dict[str, Row]:
    """The last measured row of every stage for one quantity, in the pipeline's order."""
    own = (row for row in rows if row.quantity == quantity and math.isfinite(row.measured))
    found = {row.stage: row for row in sorted(own, key=lambda row: row.time)}
    return {stage: found[stage] for stage in Stage if stage in found}


def predicted_vs_measured(
    rows: Iterable[Row], path: Path, predictions: Mapping[str, Interval] | None = None, quantity: str = "seconds"
) -> bool:
    """One line per stage on a log axis: the 90 % interval, the prediction in it, the measurement.

    `predictions` adds stages that have not run; rows go first.
    """
    measured = newest(rows, quantity)
    expected = dict(predictions or {}) | {s: i for s, row in measured.items() if (i := interval_of(row))}
    expected = {stage: interval for stage, interval in expected.items() if 0 < interval.value < math.inf}
    stages = [str(stage) for stage in Stage if stage in measured or stage in expected]
    values = [row.measured for row in measured.values()]
    values += [value for i in expected.values() for value in (i.low, i.value, i.high)]
    values = [value for value in values if 0 < value < math.inf]
    if not values:
        return False
    left, right = min(values) / 1.5, max(values) * 1.5
    with drawing(path, 8, 1.4 + 0.34 * len(stages)) as axes:
        axes.set(xscale="log", xlim=(left, right), ylim=(len(stages) - 0.4, -0.6))
        axes.set_xlabel(f"{quantity.replace('_', ' ')} (log scale)")
        axes.set_yticks(range(len(stages)), [f"{NUMBER[Stage(stage)]} {stage}" for stage in stages])
        unit_ticks(axes.xaxis, quantity)
        for place, stage in enumerate(stages):
            if stage in expected:
                ends = max(expected[stage].low, left), min(expected[stage].high, right)  # of 0 there is no logarithm
                axes.plot(ends, (place, place), **KEYS["90 % interval"])
                axes.plot(expected[stage].value, place, **KEYS["predicted"])
            words = "not run" if stage not in measured else with_unit(quantity, measured[stage].measured)
            if stage in measured:
                axes.plot(measured[stage].measured, place, **marker(measured[stage].inside))
                words += error_in_words(measured[stage])
            axes.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        legend(axes, KEYS)
    return True


def time_breakdown(rows: Iterable[Row], path: Path, predictions: Mapping[str, Interval] | None = None) -> bool:
    """Two bars per stage: its share of the seconds predicted and measured for all the stages shown."""
    from matplotlib.ticker import PercentFormatter

    latest = newest(rows, "seconds")
    expected = {s: i.value for s, row in latest.items() if (i := interval_of(row))}
    expected = {stage: interval.value for stage, interval in (predictions or {}).items()} | expected
    bars = {"predicted": expected, "measured": {stage: row.measured for stage, row in latest.items()}}
    bars = {name: own for name, own in bars.items() if sum(own.values()) > 0}
    stages = [str(stage) for stage in Stage if any(stage in own for own in bars.values())]
    if not stages:
        return False
    looks = {"predicted": {"facecolor": "none", "edgecolor": PREDICTED}, "measured": {"color": MEASURED}}
    with drawing(path, 8, 1.4 + 0.42 * len(stages)) as axes:
        for name, own in bars.items():
            total, shift = sum(own.values()), 0.2 * (len(bars) - 1) * (1 if name == "measured" else -1)
            label = f"{name}: {with_unit('seconds', total)} in {len(own)} stages"
            places = [place + shift for place, stage in enumerate(stages) if stage in own]
            seconds = [own[stage] for stage in stages if stage in own]
            shown = axes.barh(places, [s / total for s in seconds], 0.36, label=label, linewidth=1.4, **looks[name])
            texts = [f"{with_unit('seconds', s)}, {s / total:.1%}" for s in seconds]
            axes.bar_label(shown, texts, padding=4, fontsize=8)
        axes.set_yticks(range(len(stages)), [f"{NUMBER[Stage(stage)]} {stage}" for stage in stages])
        axes.set(ylim=(len(stages) - 0.4, -0.6), xlabel="share of the seconds of all stages shown")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.margins(x=0.14)
        legend(axes)
    return True


def memory_breakdown(
    parts: Mapping[str, float], limit_bytes: float | None, path: Path, measured_bytes: float | None = None
) -> bool:
    """The parts of a training step's memory stacked from left to right, one line each so that small ones can be read.

    Below them their sum, the measured peak and, where it is near enough to be drawn to scale, the device's limit.
    """
    not_negative(**parts)
    positive(**{n: v for n, v in (("limit_bytes", limit_bytes), ("measured_bytes", measured_bytes)) if v is not None})
    total = sum(parts.values())
    if not total:
        return False
    lines = [
        (name.removesuffix("_bytes").replace("_", " "), value, sum(list(parts.values())[:n]))
        for n, (name, value) in enumerate(parts.items())
    ]
    lines.append(("predicted, in all", total, 0.0))
    if measured_bytes is not None:
        lines.append(("measured peak", measured_bytes, 0.0))
    widest = max(total, measured_bytes or 0.0)
    with drawing(path, 8, 1.1 + 0.36 * len(lines)) as axes:
        for place, (name, value, start) in enumerate(lines):
            color = {"predicted, in all": INK, "measured peak": MEASURED}.get(name, PREDICTED)
            axes.barh(place, value, 0.62, left=start, color=color)
            share = f", {value / total:.0%}" if place < len(parts) else ""
            text = with_unit("bytes", value) + share
            axes.annotate(text, (start + value, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        title = f"{with_unit('bytes', total)} predicted"
        if limit_bytes is not None:
            title += f", {total / limit_bytes:.1%} of the device's {with_unit('bytes', limit_bytes)}"
            if limit_bytes <= 3 * widest:
                axes.axvline(limit_bytes, color=LIMIT, linestyle="--", linewidth=1.5, label="limit of the device")
                legend(axes)
                widest = max(widest, limit_bytes)
        axes.set_title(title)
        axes.set_yticks(range(len(lines)), [line[0] for line in lines])
        axes.set(ylim=(len(lines) - 0.4, -0.6), xlim=(0, widest * 1.2), xlabel="bytes per device")
        unit_ticks(axes.xaxis, "bytes")
    return True


def loss_forecast(
    curve: Sequence[Mapping[str, Any]], forecast: Interval | None, path: Path, bytes_per_token: float | None = None
) -> bool:
    """Training loss and evaluations over tokens, and at the end the band in which the last evaluation was expected.

    `curve` holds rows of curve.csv: step, tokens, loss (nats per token), val_bpb, val_nats where evaluated.
    loss / (ln 2 * bytes_per_token) puts the loss on the scale of bits per byte; without `bytes_per_token` the ratio of
    the evaluations is taken, and without any the loss is not drawn.
    """
    loss, evaluated, ratios = [], [], [bytes_per_token] if bytes_per_token else []
    for row in curve:
        tokens, nats, bpb, val_nats = (_number(row.get(n)) for n in ("tokens", "loss", "val_bpb", "val_nats"))
        if tokens and nats:
            loss.append((tokens, nats))
        if tokens and bpb:
            evaluated.append((tokens, bpb))
            ratios += [val_nats / (math.log(2) * bpb)] if val_nats else []
    if not evaluated and not (loss and ratios):
        return False
    end, last = max(tokens for tokens, _ in loss + evaluated), evaluated[-1][1] if evaluated else None
    with drawing(path, 8, 4) as axes:
        if loss and ratios:
            bits = [nats / (math.log(2) * ratios[0]) for _, nats in loss]
            axes.plot([t for t, _ in loss], bits, color=MEASURED, linewidth=1, alpha=0.8, label="training loss")
        if forecast is not None:
            label = f"forecast {forecast.value:.3f}, 90 %: {forecast.low:.3f} to {forecast.high:.3f}"
            axes.axhspan(forecast.low, forecast.high, color=PREDICTED, alpha=0.18, linewidth=0)
            gaps = [[forecast.value - forecast.low], [forecast.high - forecast.value]]
            axes.errorbar([end * 1.02], [forecast.value], gaps, fmt="_", color=PREDICTED, capsize=5, label=label)
        if last is not None:
            outside = "" if forecast is None or forecast.low <= last <= forecast.high else ", outside"
            looks: dict[str, Any] = {"color": INK, "marker": "o", "linestyle": "none", "markersize": 5}
            axes.plot(*zip(*evaluated, strict=True), **looks, label=f"held out, last {last:.3f}{outside}")
        shown = [value for value in (last, forecast and forecast.high) if value]
        if shown:
            axes.set_ylim(top=2 * max(shown))  # the first steps, far above, would flatten what is compared
        axes.set(xlabel="training tokens", ylabel="bits per byte", xlim=(0, None))
        axes.xaxis.set_major_formatter(lambda tokens, _: f"{digits(tokens / 1e6)} M" if tokens else "0")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(loc="upper right")
    return True


def accuracy(rows: Iterable[Row], path: Path) -> bool:
    """ln(measured / predicted) of every row with an interval, one line per quantity; the shaded band is +-10 %.

    Rows without a width (exact predictions) are counted in the title and not drawn.
    """
    judged = [row for row in rows if row.inside is not None and row.log_error is not None and row.measured < math.inf]
    uncertain = [row for row in judged if row.low != row.high]
    if not uncertain:
        return False
    names = sorted({row.quantity for row in uncertain})
    runs, inside = len({row.run for row in uncertain}), sum(bool(row.inside) for row in uncertain)
    title = f"90 % intervals held {inside} of {len(uncertain)} measurements ({coverage(uncertain):.0%})"
    title += f", {runs} stage runs"
    if exact := [row for row in judged if row.low == row.high]:
        title += f"\nexact predictions: {sum(bool(row.inside) for row in exact)} of {len(exact)} equal"
    with drawing(path, 8, 1.8 + 0.5 * len(names)) as axes:
        axes.axvspan(-WANTED_LOG_ERROR, WANTED_LOG_ERROR, color=GRID, linewidth=0, zorder=0)
        axes.axvline(0, color=INK, linewidth=1, zorder=1)
        widest = max(0.25, *(1.15 * abs(row.log_error or 0.0) for row in uncertain))
        for place, name in enumerate(names):
            own = [row for row in uncertain if row.quantity == name]
            # Points are spread over the line's height by the golden ratio: the same in every picture.
            points = [(row.log_error, place + 0.5 * (n * 0.618034 % 1) - 0.25, row) for n, row in enumerate(own)]
            for side in {row.inside for row in own}:
                some = [(error, height) for error, height, row in points if row.inside is side]
                axes.plot(*zip(*some, strict=True), **marker(side) | {"markersize": 4, "markeredgewidth": 1.0})
            mean = f"n = {len(own)}, mean |ln| {mean_absolute_log_error(own):.2f}"
            axes.annotate(mean, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(-widest, widest))
        axes.set_xlabel("ln(measured / predicted); shaded: within 10 %")
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_title(title)
        legend(axes, ("measured, inside", "measured, outside"))
    return True


def interval_of(row: Row) -> Interval | None:
    """The row's prediction; None when it was only measured."""
    if row.predicted is None:
        return None
    low, high = (row.predicted if bound is None else bound for bound in (row.low, row.high))
    return Interval(row.predicted, low, high)


def _number(text: Any) -> float | None:
    """A finite number or None: cells of curve.csv are text and may be empty."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
