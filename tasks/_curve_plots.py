"""The curves of a training run in one picture: what was learnt, at which rates, how large the gradients were, how fast.

Drawn from the rows of curve.csv; a panel without values is left out, so old curves and other stages are drawn as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks._figures import INK, MEASURED, PREDICTED, digits, panels

_COLOURS = (MEASURED, PREDICTED, "#3d8b5f", "#7a5195", "#6b7280")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))
"""Lines differ in pattern, too: not everybody sees colours, and paper is grey."""
_MARKED_POINTS = 20
"""Fewer points than this are marked one by one."""
_HEADROOM = 0.35
"""Of the height (on a log axis of its logarithm), above the lines: room for the legend."""
_SHOWN_LOSSES = 0.98
"""Share of the losses that must be seen whole: the first steps, far above, would flatten the rest."""
_WORDS = {
    "loss": "training",
    "val_nats": "held out",
    "lr": "matrices",
    "mfu": "MFU",
    "data_wait_share": "wait for data",
}
Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class _Panel:
    """Columns of the curve that are drawn together, by name or by the beginning of the name."""

    title: str
    columns: tuple[str, ...]
    prefix: str = ""
    log: bool = False
    from_zero: bool = False
    per_cent: bool = False

    def series(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
        """Label -> steps and values, in the order of the columns; without those that have no value (above 0 if log)."""
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if self._has(name)]
        found = {self._label(name): _points(rows, name) for name in names}
        return {label: points for label, points in found.items() if points[0] and (not self.log or max(points[1]) > 0)}

    def _has(self, name: str) -> bool:
        return name in self.columns or (bool(self.prefix) and name.startswith(self.prefix))

    def _label(self, name: str) -> str:
        own = name.removeprefix(self.prefix) if self.prefix else name
        return _WORDS.get(own, own.replace("_", " "))


_PANELS = (
    _Panel("loss, nats per token", ("loss", "val_nats")),
    _Panel("held out, bits per byte", ("val_bpb",)),
    _Panel("learning rate (log)", ("lr",), "lr_", log=True),
    _Panel("norm of the gradient (log)", (), "grad_norm_", log=True),
    _Panel("update / weight (log)", (), "update_ratio_", log=True),
    _Panel("tokens per second", ("tokens_per_second",), from_zero=True),
    _Panel("share of time", ("mfu", "data_wait_share"), from_zero=True, per_cent=True),
)


def training_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> bool:
    """Draw all curves over the steps; the suffix of `path` decides, .svg or .png. False where there is nothing to draw.

    `rows`: of curve.csv, text or numbers; "lr" of older curves is the matrices' rate.
    """
    drawn = [(panel, series) for panel in _PANELS if (series := panel.series(_without_doubles(rows)))]
    if not drawn:
        return False
    last = max(points[0][-1] for _, series in drawn for points in series.values())
    columns = 1 if len(drawn) == 1 else 2
    height = 0.4 + 2.3 * -(-len(drawn) // columns)
    with panels(path, len(drawn), 4.9 * columns, height, columns) as axes:
        axes[0].figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        for own, (panel, series) in zip(axes, drawn, strict=True):
            _draw(own, panel, series)
            own.set_xlim(0, last * 1.02)
        for own in axes[-columns:]:
            own.set_xlabel("step")
    return True


def _draw(axes: Any, panel: _Panel, series: Mapping[str, Points]) -> None:
    for number, (label, (steps, values)) in enumerate(series.items()):
        held_out = label in ("held out", "val bpb")
        colour = INK if held_out else _COLOURS[number % len(_COLOURS)]
        marker = "o" if held_out or len(steps) < _MARKED_POINTS else ""
        style = "-" if held_out else _STYLES[number % len(_STYLES)]
        axes.plot(
            steps, values, color=colour, linestyle=style, marker=marker, markersize=3.5, linewidth=1.2, label=label
        )
    axes.set_title(panel.title)
    if panel.log:
        _log_scale(axes)
    elif "loss" in panel.columns:
        values = sorted(value for points in series.values() for value in points[1])
        low, high = values[0], values[max(0, math.ceil(_SHOWN_LOSSES * len(values)) - 1)]
        axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    elif panel.from_zero:
        axes.set_ylim(0, axes.get_ylim()[1] * (1 + _HEADROOM * (len(series) > 1)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if panel.per_cent else digits(value))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.grid(True)
    axes.set_axisbelow(True)
    if len(series) > 1:
        loss = "loss" in panel.columns
        axes.legend(loc="upper right" if loss else "upper left", ncols=1 if loss else 3, fontsize=8, handlelength=2.6)


def _log_scale(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * (top / bottom) ** _HEADROOM)
    # Powers of ten alone would leave a short axis without a number.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top / bottom < 100 else (1,)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _without_doubles(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of two rows of one step the later: the first belongs to training that was taken back. One row has one "lr"."""
    found = {step: row for row in rows if (step := _number(row.get("step"))) is not None}
    named = any(name.startswith("lr_") for row in rows for name in row)
    return [{k: v for k, v in found[step].items() if k != "lr" or not named} for step in sorted(found)]


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    pairs = [(_number(row.get("step")), _number(row.get(name))) for row in rows]
    found = [(step, value) for step, value in pairs if step is not None and value is not None]
    return [step for step, _ in found], [value for _, value in found]


def _number(text: Any) -> float | None:
    """A finite number or None: cells of curve.csv are text and may be empty."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
