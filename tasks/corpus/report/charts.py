"""Histograms of the corpus report as inline SVG: one strip per domain, the thresholds drawn in.

Written by hand, not by a plotting library: dozens of pictures take milliseconds, text stays text, and colours are the
page's own variables, so that pictures follow a dark screen. Whatever comes from data is escaped.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from tasks.corpus.report.tables import Domains, bound, by_count, is_used, own_bounds, percent

WIDTH = 400
MAX_DOMAINS = 8
MAX_NAMED = 4
_LEFT, _RIGHT = 120, 340  # sides of the plot; names stand before it, shares behind it
_STRIP, _BAR = 36, 27  # heights of a domain's strip and of its tallest bar
_LABEL_LINE, _AXIS = 16, 38  # heights of a line of threshold labels and of ticks with the axis' name
_CHARACTER = 6.3  # width of a character at the size of labels, a little too wide on purpose
_NAME_CHARACTERS = 17
_ZERO_DECADES = 0.3  # width of 0 to 1 on a log axis
_LOG_SPAN = 1000.0  # edges that span more are logarithmic
_TICK_GAP = 34.0


class Bound(NamedTuple):
    """What a rule allows in one domain; `is_own` when it was set for this domain and not for all."""

    is_minimum: bool
    value: float
    is_own: bool


class Strip(NamedTuple):
    """One domain's part of a picture."""

    name: str
    documents: int
    broken: int | None
    """Documents beyond the bounds; None where no rule applies."""
    counts: Sequence[int]
    bounds: tuple[Bound, ...]


class Axis:
    """Places of values between the plot's sides; logarithmic when the edges are."""

    def __init__(self, edges: Sequence[float], low: float, high: float) -> None:
        """`low` and `high` are the outermost values that must be seen."""
        self.is_log = edges[-1] > _LOG_SPAN * edges[1]
        spare = edges[1] - edges[0]
        self.low = low / 1.2 if self.is_log else max(edges[0], low - spare)
        self.high = high * 1.2 if self.is_log else max(high, min(edges[-1], high + spare))
        self._start = self._scale(self.low)
        self._span = self._scale(self.high) - self._start or 1.0

    def _scale(self, value: float) -> float:
        if not self.is_log:
            return value
        return math.log10(value) if value >= 1 else (value - 1) * _ZERO_DECADES

    def x(self, value: float) -> float:
        """Pixels from the left, never outside the plot."""
        place = (self._scale(value) - self._start) / self._span
        return round(_LEFT + min(1.0, max(0.0, place)) * (_RIGHT - _LEFT), 1)

    def ticks(self) -> list[float]:
        """Round values inside the plot, far enough apart for their labels."""
        if self.is_log:
            last = math.floor(math.log10(max(self.high, 1.0)))
            values = [0.0, *(10.0**power for power in range(last + 1))]
        else:
            raw = (self.high - self.low) * _TICK_GAP / (_RIGHT - _LEFT) or 1.0
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(power * n for n in (1, 2, 5, 10) if power * n >= raw * (1 - 1e-9))
            values = [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]
        found: list[float] = []
        for value in values:
            if self.low <= value <= self.high and (not found or self.x(value) - self.x(found[-1]) >= _TICK_GAP):
                found.append(value)
        return found


def histograms(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One picture per statistic that has a threshold, the one that most documents break first."""
    known = report.get("histograms") or {}
    by_statistic: dict[str, dict[str, Any]] = {}
    for name, rule in sorted((report.get("rules") or {}).items()):
        if rule.get("statistic") in known and is_used(rule):
            by_statistic.setdefault(rule["statistic"], {})[name] = rule
    broken = {s: sum(sum(rule["broken"].values()) for rule in own.values()) for s, own in by_statistic.items()}
    figures = []
    for statistic in by_count(broken):
        rules, edges = by_statistic[statistic], known[statistic]["edges"]
        strips = _strips(known[statistic], rules, report["domains"])
        limits = [
            bound(rule["is_minimum"], rule["threshold"])
            + (f" (own: {own})" if (own := own_bounds(rule, MAX_NAMED)) else "")
            for _, rule in sorted(rules.items(), reverse=True)
        ]
        figures.append(
            {
                "statistic": statistic,
                "svg": draw(statistic, edges, strips),
                "limits": ", ".join(limits),
                "broken": f"{broken[statistic]:,}",
                "peak": f"{max((max(strip.counts) for strip in strips), default=0):,}",
            }
        )
    return figures


def _strips(found: Mapping[str, Any], rules: Mapping[str, Any], entries: Mapping[str, Any]) -> list[Strip]:
    counts, bins = found["counts"], len(found["edges"]) - 1
    sizes = {name: entry["in"] for name, entry in entries.items()}
    domains = Domains(sizes, MAX_DOMAINS)
    broken = [domains.sums(rule["broken"]) for rule in rules.values()]
    strips = []
    for number, (label, members) in enumerate(domains.groups):
        rows = [counts[name] for name in members if name in counts] or [[0] * bins]
        # Several domains in one strip: the common bounds are drawn, each document is judged by its own domain's.
        bounds = _bounds(rules, members[0] if len(members) == 1 else None)
        judged = bool(bounds) or any(row[number] for row in broken)
        strips.append(
            Strip(
                label,
                sum(sizes[name] for name in members),
                sum(row[number] for row in broken) if judged else None,
                [sum(column) for column in zip(*rows, strict=True)],
                bounds,
            )
        )
    return strips


def _bounds(rules: Mapping[str, Any], domain: str | None) -> tuple[Bound, ...]:
    found = []
    for rule in rules.values():
        own = rule.get("by_domain") or {}
        value = own[domain] if domain in own else rule["threshold"]
        if value is not None:
            found.append(Bound(rule["is_minimum"], float(value), domain in own and value != rule["threshold"]))
    return tuple(found)


def draw(statistic: str, edges: Sequence[float], strips: Sequence[Strip]) -> str:
    """The picture of one statistic. Bars grow with the logarithm of their documents, on one scale for all strips."""
    axis = Axis(edges, *_extent(edges, strips))
    peak = max((max(strip.counts) for strip in strips), default=0)
    shared = sorted({b for strip in strips for b in strip.bounds if not b.is_own})
    top = 4 + _LABEL_LINE * max(1, len(shared))
    bottom = top + _STRIP * len(strips)
    height = bottom + _AXIS
    words = f"{statistic}: documents per value; " + "; ".join(_in_words(strip) for strip in strips)
    parts = [f'<svg role="img" viewBox="0 0 {WIDTH} {height}" class="chart"><title>{escape(words)}</title>']
    for tick in axis.ticks():
        x = axis.x(tick)
        parts.append(f'<path class="grid" d="M{x} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 14}">{_tick(tick)}</text>')
    for line, limit in enumerate(shared):
        parts.append(_label(axis, limit, 12 + _LABEL_LINE * line, "limit"))
        parts.append(f'<path class="limit" d="M{axis.x(limit.value)} {16 + _LABEL_LINE * line}V{top}"/>')
    for number, strip in enumerate(strips):
        parts += _strip(axis, edges, strip, top + _STRIP * number, peak)
    scale = ", log scale" if axis.is_log else ""
    name = escape(statistic.replace("_", " "))
    parts.append(f'<text class="tick" x="{(_LEFT + _RIGHT) / 2:g}" y="{bottom + 31}">{name}{scale}</text></svg>')
    return "".join(parts)


def _extent(edges: Sequence[float], strips: Sequence[Strip]) -> tuple[float, float]:
    """The outermost edges of bins that hold documents, and thresholds beyond them."""
    used = [i for strip in strips for i, count in enumerate(strip.counts) if count]
    values = [edges[i] for i in used] + [edges[i + 1] for i in used]
    values += [limit.value for strip in strips for limit in strip.bounds]
    return (min(values), max(values)) if values else (edges[0], edges[-1])


def _strip(axis: Axis, edges: Sequence[float], strip: Strip, top: float, peak: int) -> list[str]:
    base = top + _STRIP - 2
    name = _shortened(strip.name)
    title = f"<title>{escape(strip.name)}</title>" if name != strip.name else ""
    share = "off" if strip.broken is None else percent(strip.broken, strip.documents)
    parts = [
        f'<text class="name" x="{_LEFT - 8}" y="{base - 14}">{title}{escape(name)}</text>',
        f'<text class="count" x="{_LEFT - 8}" y="{base - 2}">{strip.documents:,}</text>',
        f'<text class="{"broken" if strip.broken else "fine"}" x="{_RIGHT + 8}" y="{base - 7}">{share}</text>',
        f'<path class="base" d="M{_LEFT} {base}H{_RIGHT}"/>',
    ]
    inside, outside = _bars(axis, edges, strip, base, peak)
    parts += [f'<path class="in" d="{inside}"/>'] if inside else []
    parts += [f'<path class="out" d="{outside}"/>'] if outside else []
    for number, limit in enumerate(sorted(strip.bounds)):
        kind = "own" if limit.is_own else "limit"
        parts.append(f'<path class="{kind}" d="M{axis.x(limit.value)} {top}V{base}"/>')
        if limit.is_own:
            parts.append(_label(axis, limit, top + 11 + 12 * (number % 2), "own"))
    return parts


def _bars(axis: Axis, edges: Sequence[float], strip: Strip, base: float, peak: int) -> tuple[str, str]:
    """Outlines of the bars inside and outside the bounds; a bar that a bound cuts has a part in each."""
    paths = {True: "", False: ""}
    for number, count in enumerate(strip.counts):
        if not count:
            continue
        low, high = edges[number], edges[number + 1]
        cuts = sorted({low, high, *(limit.value for limit in strip.bounds if low < limit.value < high)})
        top = round(base - max(1.5, _BAR * math.log1p(count) / math.log1p(peak)), 1)
        for left, right in pairwise(cuts):
            middle = (left + right) / 2
            allowed = all(middle >= b.value if b.is_minimum else middle <= b.value for b in strip.bounds)
            paths[allowed] += f"M{axis.x(left)} {base}V{top}H{axis.x(right)}V{base}Z"
    return paths[True], paths[False]


def _label(axis: Axis, limit: Bound, y: float, kind: str) -> str:
    """What is allowed, beside its line: on the allowed side's opposite when there is room, else on the other."""
    text, x = bound(limit.is_minimum, limit.value), axis.x(limit.value)
    room = len(text) * _CHARACTER + 4
    after = x + room <= WIDTH if not limit.is_minimum else x - room < _LEFT
    place = f'x="{x + 4:g}"' if after else f'x="{x - 4:g}" text-anchor="end"'
    return f'<text class="label {kind}-label" {place} y="{y:g}">{text}</text>'


def _tick(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.6g}"


def _shortened(name: str) -> str:
    """A name that fits before the plot; letters of East Asian scripts are twice as wide."""
    width = 0
    for number, character in enumerate(name):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > _NAME_CHARACTERS:
            return name[: max(1, number - 1)] + "…"
    return name


def _in_words(strip: Strip) -> str:
    limits = " and ".join(bound(limit.is_minimum, limit.value) for limit in strip.bounds) or "no threshold"
    beyond = "" if strip.broken is None else f", {strip.broken:,} beyond"
    return f"{strip.name}: {strip.documents:,} documents, {limits}{beyond}"
