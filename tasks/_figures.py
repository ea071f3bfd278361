"""What pictures have in common: colours, a file that is equal for equal input, numbers with units."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INK, PAPER, GRID = "#1b1f24", "#ffffff", "#d5d9de"
"""Text, background, lines: a page that takes a picture in can replace them, for a dark screen for instance."""
PREDICTED, MEASURED, LIMIT = "#3b78b0", "#c8641b", "#b3261e"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and copied
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_TIME_UNITS = (("h", 3600.0, 7200.0), ("min", 60.0, 120.0), ("s", 1.0, 0.1), ("ms", 1e-3, 0.0))
_TIME_TICKS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 60, 600, 7200, 36000, 360000, 3.6e6, 3.6e7]
_BYTE_UNITS = (("GB", 1e9, 1e9), ("MB", 1e6, 1e6), ("kB", 1e3, 1e3), ("B", 1.0, 0.0))
"""Name, size, and the value from which it is used."""


def with_unit(quantity: str, value: float) -> str:
    """A value in the unit that its quantity's name tells: seconds, bytes, a share, else a plain number."""
    if not math.isfinite(value):
        return str(value)
    if quantity == "bits_per_byte":
        return f"{value:.3f}"
    if quantity.endswith("_share"):
        return f"{value:.1%}"
    units: tuple[tuple[str, float, float], ...] = ()
    if quantity.endswith("seconds") or quantity.startswith("seconds_"):
        units = _TIME_UNITS
    elif quantity.endswith("bytes") or quantity.startswith("kv_bytes"):
        units = _BYTE_UNITS
    for unit, size, at_least in units:
        if abs(value) >= at_least:
            return f"{digits(value / size)} {unit}"
    return digits(value)


def digits(value: float) -> str:
    """Three significant digits, of numbers above 1000 all before the point, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@contextmanager
def drawing(path: Path, width_inches: float, height_inches: float) -> Iterator[Any]:
    """Axes to draw on; the file, .svg or .png by its suffix, is written when the block ends."""
    with panels(path, 1, width_inches, height_inches) as (axes,):
        yield axes


@contextmanager
def panels(path: Path, count: int, width_inches: float, height_inches: float, columns: int = 1) -> Iterator[list[Any]]:
    """`count` axes in a picture of this size, row by row; written as in `drawing`."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": path.name}):
        figure = Figure(figsize=(width_inches, height_inches), dpi=110, layout="constrained", facecolor=PAPER)
        FigureCanvasAgg(figure)  # no display, no global state
        rows = -(-count // columns)
        yield [figure.add_subplot(rows, columns, place + 1, facecolor="none") for place in range(count)]
        path.parent.mkdir(parents=True, exist_ok=True)
        # Dates and versions would be the only differences between two equal pictures.
        unwanted = ("Date", "Creator", "Format", "Type") if path.suffix == ".svg" else ("Software",)
        figure.savefig(path, metadata=dict.fromkeys(unwanted))


def unit_ticks(axis: Any, quantity: str) -> None:
    """Ticks with the quantity's unit, on a log axis of seconds at whole units; lines behind the drawing."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    if axis.get_scale() == "log" and quantity.endswith("seconds"):
        axis.set_major_locator(FixedLocator(_TIME_TICKS))
    axis.set_major_formatter(lambda value, _: with_unit(quantity, value) if value else "0")
    axis.set_minor_formatter(NullFormatter())
    axis.grid(True)
    axis.axes.set_axisbelow(True)


def marker(inside: bool | None) -> dict[str, Any]:
    """How a measurement looks: a disc inside its interval, an open diamond outside, an open square without one."""
    face = MEASURED if inside else "none"
    look = {"linestyle": "none", "color": MEASURED, "markerfacecolor": face, "markeredgewidth": 1.6, "zorder": 3}
    return look | {"marker": {True: "o", False: "D", None: "s"}[inside], "markersize": 7}


KEYS: dict[str, dict[str, Any]] = {
    "90 % interval": {"color": PREDICTED, "linewidth": 5, "alpha": 0.45},
    "predicted": {"color": PREDICTED, "linestyle": "none", "marker": "|", "markersize": 13, "markeredgewidth": 2},
    "measured, inside": marker(True),
    "measured, outside": marker(False),
    "no prediction": marker(None),
}


def legend(axes: Any, names: Iterable[str] = ()) -> None:
    """Below the picture: the meaning of lines and markers, or the labels of what was drawn."""
    from matplotlib.lines import Line2D

    drawn = [Line2D([], [], label=name, **KEYS[name]) for name in names]
    handles = drawn or axes.get_legend_handles_labels()[0]
    axes.figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=9)
