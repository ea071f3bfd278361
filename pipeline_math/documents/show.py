"""How a number is written: significant digits, prefixes, thousands separators, units.

A placeholder is `{{ name }}` or `{{ name | words }}`; the words are
    .4g     significant digits (default 3)          .1%   a share in per cent with decimals
    ,       all digits, thousands separators        plain no prefix and no other unit of time
    bare    no unit                                 signed a plus before what is not negative
"""

import math
import re

from pipeline_math.documents.number import DocumentError, Number

DEFAULT_DIGITS = 3
PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
COUNT_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
"""For tokens and other counts people say billion."""
COUNTED = frozenset(
    ("characters", "documents", "merges", "parameters", "rows", "steps", "symbols", "tokens", "visits", "weights")
)
PREFIXED = ("B", "B/s", "B/token", "FLOP", "FLOP/s", "FLOP/token", "bit")
COUNT_PREFIX_FROM = 1e5
"""Counts below it are written out."""
_SPEC = re.compile(r"\.(\d+)([g%])")


def show(number: Number, spec: str = "") -> str:
    """The number as text with its unit."""
    digits, decimals, words = DEFAULT_DIGITS, None, spec.split()
    for word in words:
        match = _SPEC.fullmatch(word)
        if match and match[2] == "g":
            digits = int(match[1])
        elif match:
            decimals = int(match[1])
        elif word not in {",", "plain", "bare", "signed"}:
            raise DocumentError(f"format {word!r} is unknown; allowed: .4g .1% , plain bare signed")
    sign = "+" if "signed" in words and number.value > 0 else ""
    return sign + _unsigned(number, words, digits, decimals)


def _written_out(value: float, digits: int) -> str:
    """Whole numbers below `COUNT_PREFIX_FROM` with all their digits, others rounded."""
    whole = float(value).is_integer() and abs(value) < COUNT_PREFIX_FROM
    return f"{int(value):,}" if whole else significant(value, digits)


def _unsigned(number: Number, words: list[str], digits: int, decimals: int | None) -> str:
    if number.unit == "share":
        return _percent(number.value, digits, decimals)
    if "," in words:
        text, unit = f"{number.value:,.0f}", number.unit
    elif "plain" in words:
        text, unit = _written_out(number.value, digits), number.unit
    else:
        text, unit = _scaled(number, digits)
    return text if "bare" in words or not unit else f"{text} {unit}"


def significant(value: float, digits: int = DEFAULT_DIGITS) -> str:
    """A value with that many significant digits, thousands separators, an exponent only for extremes."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    rounded = round(value, digits - 1 - magnitude)
    magnitude = math.floor(math.log10(abs(rounded)))  # 9.996 becomes 10.0
    if -4 <= magnitude < 7:
        return f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"
    mantissa = rounded / 10.0**magnitude
    return f"{mantissa:.{digits - 1}f}e{magnitude}"


def _percent(value: float, digits: int, decimals: int | None) -> str:
    if decimals is not None:
        return f"{round(100 * value, decimals) + 0.0:,.{decimals}f} %"  # + 0.0: no minus before zero
    return f"{significant(100 * value, digits)} %"


def _scaled(number: Number, digits: int) -> tuple[str, str]:
    value, unit = number.value, number.unit
    if unit == "s":
        return _time(value, digits)
    if unit == "s/B":
        return significant(value * 1e6, digits), "s/MB"
    if unit in PREFIXED:
        return _prefixed(value, unit, digits, PREFIXES, 1e3, "")
    if unit.split("/")[0] in COUNTED and abs(value) >= COUNT_PREFIX_FROM:
        return _prefixed(value, unit, digits, COUNT_PREFIXES, COUNT_PREFIX_FROM, " ")
    return _written_out(value, digits), unit


def _prefixed(
    value: float, unit: str, digits: int, prefixes: tuple[tuple[float, str], ...], start: float, gap: str
) -> tuple[str, str]:
    if abs(value) >= start:
        for size, prefix in prefixes:
            if abs(value) >= size:
                return significant(value / size, digits), prefix + gap + unit
    return _written_out(value, digits), unit


def _time(seconds: float, digits: int) -> tuple[str, str]:
    size = abs(seconds)
    if size >= 7200:
        return significant(seconds / 3600, digits), "h"
    if size >= 120:
        return significant(seconds / 60, digits), "min"
    if size >= 1 or size == 0:
        return _written_out(seconds, digits), "s"
    if size >= 1e-3:
        return significant(seconds * 1e3, digits), "ms"
    return significant(seconds * 1e6, digits), "µs"
