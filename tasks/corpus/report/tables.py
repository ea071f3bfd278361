"""What tables of the corpus report consist of: domains in order, shares in words, cells with a tint."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tasks._figures import digits, with_unit

HEAT_LEVELS = 8
QUALITY = 3
STAGES = (  # name, colour class, beginnings of the reasons it takes; the first that fits, in this order
    ("kept", "kept", ()),
    ("block list", "blocked", ("blocked",)),
    ("language", "language", ("language", "min_language", "max_language")),
    ("quality rules", "quality", ("min_", "max_")),
    ("classifier", "classifier", ("classifier", "quality_score")),
    ("exact duplicates", "exact", ("exact_duplicate",)),
    ("near duplicates", "near", ("near_duplicate",)),
    ("contaminated", "contaminated", ("contaminated",)),
    ("duplicate paragraphs", "paragraphs", ("duplicate_paragraph",)),
    ("caps and mixing", "caps", ()),
)
MIXING_COLUMNS = (
    "domain",
    "asked_share",
    "obtained_share",
    "available_bytes",
    "obtained_bytes",
    "documents",
    "epochs",
    "repeated_worth",
)


class Cell(NamedTuple):
    """One number of a table: its text, a smaller second line, and how strongly it is tinted (0 to HEAT_LEVELS)."""

    text: str
    detail: str = ""
    heat: int = 0


class Domains:
    """Domains by documents, largest first; those beyond `limit` are added up in one more entry."""

    def __init__(self, documents: Mapping[str, int], limit: int) -> None:
        ordered = by_count(documents)
        # An entry "1 other" would hide a name and save no line.
        cut = limit if len(ordered) > limit + 1 else len(ordered)
        self.groups: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in ordered[:cut]]
        if ordered[cut:]:
            self.groups.append((f"{len(ordered) - cut} others", tuple(ordered[cut:])))
        self.labels = [label for label, _ in self.groups]

    def sums(self, values: Mapping[str, int]) -> list[int]:
        """One number per entry; a domain without a value counts as 0."""
        return [sum(values.get(name, 0) for name in members) for _, members in self.groups]


def by_count(counts: Mapping[str, int]) -> list[str]:
    """Names, largest count first, equal counts by name."""
    return sorted(counts, key=lambda name: (-counts[name], name))


def share(part: float, whole: float) -> float:
    """part / whole, 0 of nothing."""
    return part / whole if whole else 0.0


def percent(part: float, whole: float) -> str:
    """A share in words; what is there is never called 0 %, what is left never 100 %."""
    value = share(part, whole)
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{value:.1%}"


def cell(count: int, whole: int) -> Cell:
    """A count with its share of `whole` below it; the tint grows with the root of the share."""
    if not count:
        return Cell("0")
    heat = math.ceil(math.sqrt(min(share(count, whole), 1.0)) * HEAT_LEVELS)
    return Cell(f"{count:,}", percent(count, whole), heat)


def bound(is_minimum: bool, limit: Any) -> str:
    """What a rule allows: a number as a bound, names as they are, None as off."""
    if limit is None:
        return "off"
    if isinstance(limit, int | float):
        return f"{'≥' if is_minimum else '≤'}\N{NO-BREAK SPACE}{digits(limit)}"
    return limit if isinstance(limit, str) else ", ".join(map(str, limit))


def stage_of(reason: str, rules: Iterable[str]) -> int:
    """Index in STAGES of what dropped a document; what nothing fits is a cap."""
    fits = (number for number, (_, _, beginnings) in enumerate(STAGES) if reason.startswith(beginnings))
    return next(fits, QUALITY if reason in rules else len(STAGES) - 1)


def segments(kept: float, dropped: Mapping[str, float], whole: float, rules: Iterable[str]) -> list[dict[str, Any]]:
    """Parts of a stacked bar in the order of STAGES, those that are empty left out: {"name", "class", "width", ...}."""
    values = [0.0] * len(STAGES)
    values[0] = kept
    for reason, count in dropped.items():
        values[stage_of(reason, rules)] += count
    scale = max(whole, sum(values))
    return [
        {"name": name, "class": colour, "value": value, "width": f"{share(value, scale):.3%}"}
        for (name, colour, _), value in zip(STAGES, values, strict=True)
        if value
    ]


def funnel_matrix(report: Mapping[str, Any], domains: Domains) -> list[dict[str, Any]]:
    """One line per reason, the one that drops most first: documents it dropped in total and per domain."""
    entries = report["domains"]
    wholes = domains.sums({name: entry["in"] for name, entry in entries.items()})
    total = report["total"]["documents"]
    lines = []
    for reason in by_count(report["dropped_by_reason"]):
        counts = domains.sums({name: entry["dropped"].get(reason, 0) for name, entry in entries.items()})
        cells = [cell(count, whole) for count, whole in zip(counts, wholes, strict=True)]
        lines.append({"label": reason, "cells": [cell(report["dropped_by_reason"][reason], total), *cells]})
    return lines


def rule_lines(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """One line per quality rule: its bounds, how many documents break it, and how many it was the first to drop."""
    lines = []
    documents = report["total"]["documents"]
    rules = {name: rule for name, rule in (report.get("rules") or {}).items() if is_used(rule)}
    broken = {name: sum(rule["broken"].values()) for name, rule in rules.items()}
    for name in by_count(broken):
        rule, dropped = rules[name], report["dropped_by_reason"].get(name, 0)
        lines.append(
            {
                "rule": name,
                "base": bound(rule["is_minimum"], rule["threshold"]),
                "own": own_bounds(rule),
                "broken": f"{broken[name]:,}",
                "share": percent(broken[name], documents),
                "dropped": f"{dropped:,}",
            }
        )
    return lines


def is_used(rule: Mapping[str, Any]) -> bool:
    """Whether the rule has a threshold anywhere."""
    return any(value is not None for value in (rule["threshold"], *(rule.get("by_domain") or {}).values()))


def own_bounds(rule: Mapping[str, Any], most: int | None = None) -> str:
    """The bounds of domains that have their own, in words; of more than `most` only how many."""
    own = sorted((rule.get("by_domain") or {}).items())
    if most is not None and len(own) > most:
        return f"in {len(own):,} domains"
    return ", ".join(f"{_isolated(domain)} {bound(rule['is_minimum'], value)}" for domain, value in own)


def _isolated(name: str) -> str:
    """A name from right to left must not turn around the signs and numbers beside it."""
    return name if name.isascii() else f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}"


def count_matrix(
    by_domain: Mapping[str, Mapping[str, int]], columns: Sequence[str], wholes: Mapping[str, int], limit: int
) -> list[dict[str, Any]]:
    """One line per domain, largest first: counts of `columns` and their share of the domain's documents."""
    domains = Domains(wholes, limit)
    lines = []
    for number, (label, _) in enumerate(domains.groups):
        whole = domains.sums(wholes)[number]
        counts = [domains.sums({d: own.get(c, 0) for d, own in by_domain.items()})[number] for c in columns]
        lines.append({"label": label, "cells": [cell(count, whole) for count in counts]})
    return lines


def mixing_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of the mixing report as texts: {"columns", "rows"}."""
    columns = [key.replace("_", " ") for key in MIXING_COLUMNS]
    return {"columns": columns, "rows": [[value(key, row.get(key)) for key in MIXING_COLUMNS] for row in rows]}


def value(name: str, number: Any) -> str:
    """A number in the unit that its name tells; None is a dash, texts stay."""
    if number is None:
        return "-"
    if isinstance(number, bool) or not isinstance(number, int | float):
        return str(number)
    if name.endswith(("bytes", "seconds")):
        return with_unit(name, number)
    if name.endswith(("share", "fraction")):
        return f"{number:.1%}"
    return f"{number:,}" if isinstance(number, int) else digits(number)


def pairs(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (name, value) lines, sorted by name on every level."""
    found: list[tuple[str, str]] = []
    for name, inner in sorted(content.items()):
        words = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(inner, Mapping):
            found += pairs(inner, f"{words}: ")
        elif isinstance(inner, list | tuple):
            found.append((words, ", ".join(value(name, entry) for entry in inner)))
        else:
            found.append((words, value(name, inner)))
    return found


def printable(text: str) -> str:
    """Text that can be written as UTF-8 and seen: control characters as their pictures, lone surrogates as `?`."""
    pictures = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
    return text.translate(pictures).encode("utf-8", "replace").decode("utf-8")
