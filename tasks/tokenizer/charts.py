"""Pictures of the tokenizer report as inline SVG; colours are the page's variables, names from data are escaped."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, _LEFT, _RIGHT = 640, 150, 590
_BAR, _GAP = 11, 9
_TOP, _BOTTOM, _HEIGHT = 16, 210, 250
_NAME_CHARACTERS = 20


def bar_chart(series: Mapping[str, Mapping[str, float]]) -> str:
    """Bytes per token: a group of bars per name, one bar per series."""
    names = list(next(iter(series.values())))
    peak = max((value for values in series.values() for value in values.values()), default=0.0) or 1.0
    step = _BAR * len(series) + _GAP
    height = step * len(names) + 30
    parts = []
    for place, name in enumerate(names):
        top = place * step + 4
        shown = name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…"
        middle = top + _BAR * len(series) / 2 + 4
        parts.append(f'<text x="{_LEFT - 8}" y="{middle:g}" text-anchor="end">{escape(shown)}</text>')
        for number, values in enumerate(series.values()):
            length = values[name] / peak * (_RIGHT - _LEFT)
            y = top + number * _BAR
            parts.append(f'<rect class="s{number % 4}" x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 1}"/>')
            parts.append(f'<text class="small" x="{_LEFT + length + 4:.1f}" y="{y + 9}">{values[name]:.2f}</text>')
    left = _LEFT
    for number, name in enumerate(series):
        parts.append(f'<rect class="s{number % 4}" x="{left}" y="{height - 16}" width="10" height="10"/>')
        parts.append(f'<text class="small" x="{left + 14}" y="{height - 7}">{escape(name)}</text>')
        left += 30 + 7 * len(name)
    return _picture(height, "Bytes per token by domain", parts)


def curve_chart(points: Sequence[tuple[int, float]], lines: Mapping[str, float]) -> str:
    """Bytes per token over the logarithm of the vocabulary size; others as horizontal lines."""
    peak = max([value for _, value in points] + list(lines.values())) or 1.0
    low, high = math.log2(points[0][0]), math.log2(points[-1][0])

    def x(size: int) -> float:
        return round(_LEFT + (math.log2(size) - low) / ((high - low) or 1.0) * (_RIGHT - _LEFT), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - value / peak * (_BOTTOM - _TOP), 1)

    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>']
    for tick in range(1, math.floor(peak) + 1):
        parts.append(f'<text class="small" x="{_LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick}</text>')
    for number, (name, value) in enumerate(lines.items(), 1):
        parts.append(f'<path class="l{number % 4}" d="M{_LEFT} {y(value)}H{_RIGHT}"/>')
        parts.append(f'<text class="small" x="{_RIGHT + 4}" y="{y(value) + 4}">{escape(name)}</text>')
    parts.append(f'<polyline class="l0" points="{" ".join(f"{x(size)},{y(value)}" for size, value in points)}"/>')
    for size, value in points:
        parts.append(f'<circle class="s0" cx="{x(size)}" cy="{y(value)}" r="3.5"/>')
        parts.append(f'<text class="small" x="{x(size)}" y="{_BOTTOM + 16}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text class="small" x="{_LEFT}" y="{_BOTTOM + 34}">ids; upwards: bytes per token</text>')
    return _picture(_HEIGHT, "Bytes per token by vocabulary size", parts)


def _picture(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )
