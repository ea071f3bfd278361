"""report.html of a corpus: one page without scripts or anything from elsewhere, equal for equal reports.

Covered      the page shows texts of strangers: everything is escaped, and marks for the writing
             direction end with their box
Not covered  the texts themselves: samples are shown as they are, whatever they say
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks._figures import digits, with_unit
from tasks.corpus.report import tables
from tasks.corpus.report.charts import histograms
from tasks.corpus.report.tables import Domains, by_count, percent

MAX_TABLE_DOMAINS = 40
MAX_LANGUAGES = 12
MAX_SHARDS, MAX_OPEN_SHARDS = 1000, 20
MAX_SAMPLES, MAX_MEMBERS = 8, 50
SAMPLE_CHARACTERS = 300
_TEMPLATE = "template.html.j2"


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sample"] = _sample
    environment.filters["breakable"] = _breakable
    sizes = {name: entry["in"] for name, entry in report["domains"].items()}
    domains = Domains(sizes, MAX_TABLE_DOMAINS)
    return environment.get_template(_TEMPLATE).render(
        total=report["total"],
        headline=headline(report),
        bars=bars(report, domains),
        stages=[(name, colour) for name, colour, _ in tables.STAGES],
        domain_labels=domains.labels,
        funnel=tables.funnel_matrix(report, domains),
        rules=tables.rule_lines(report),
        histograms=histograms(report),
        languages=_languages(report, sizes),
        text_changes=_text_changes(report, sizes),
        clusters=report.get("clusters") or [],
        dropped_samples=_dropped_samples(report),
        kept_samples=_kept_samples(report, sizes),
        benchmarks=sorted((report.get("benchmarks") or {}).items()),
        mixing=_mixing(report.get("mixing") or []),
        classifier=tables.pairs(report.get("classifier") or {}),
        shards=_shards(report["shards"]),
        shard_count=len(report["shards"]),
        shards_open=len(report["shards"]) <= MAX_OPEN_SHARDS,
        unreadable=report["unreadable"],
        unreadable_samples=report["unreadable_samples"],
        max_samples=MAX_SAMPLES,
        max_members=MAX_MEMBERS,
    )


def _sample(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " …"


def _breakable(name: str) -> Any:
    """A long name that may go on in the next line after each underscore."""
    from markupsafe import Markup

    return Markup("_<wbr>").join(name.split("_"))


def headline(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The corpus in a few lines: {"name", "value", "detail"}."""
    total, dropped = report["total"], report["dropped_by_reason"]
    documents, shards = total["documents"], len(report["shards"])
    exact, near = (dropped.get(f"{kind}_duplicate", 0) for kind in ("exact", "near"))
    cards = [
        (
            "Documents kept",
            f"{total['kept']:,}",
            f"{percent(total['kept'], documents)} of {documents:,}; {total['dropped']:,} dropped",
        ),
        (
            "Text kept",
            with_unit("bytes", total["kept_bytes"]),
            f"{percent(total['kept_bytes'], total['bytes'])} of {with_unit('bytes', total['bytes'])}",
        ),
        (
            "Records read",
            f"{report['records']:,}",
            f"{report['unreadable']:,} unreadable, {report.get('duplicate_ids', 0):,} repeated ids; "
            f"{len(report['domains']):,} domains, {shards:,} {'shard' if shards == 1 else 'shards'}",
        ),
        ("Duplicates", f"{exact + near:,}", f"{exact:,} exact, {near:,} near; {percent(exact + near, documents)}"),
    ]
    if dropped:
        first = by_count(dropped)[0]
        cards.append(("Largest loss", percent(dropped[first], documents), f"{first}: {dropped[first]:,} documents"))
    if benchmarks := report.get("benchmarks"):
        found = sum(entry["items_found"] for entry in benchmarks.values())
        detail = f"documents dropped; {found:,} items of {len(benchmarks):,} benchmarks found in the text"
        cards.append(("Contaminated", f"{dropped.get('contaminated', 0):,}", detail))
    return [dict(zip(("name", "value", "detail"), card, strict=True)) for card in cards]


def bars(report: Mapping[str, Any], domains: Domains) -> list[dict[str, Any]]:
    """One line per domain, the whole corpus first: the parts of its documents and of its bytes."""
    rules, total = report.get("rules") or {}, report["total"]
    whole = {
        "in": total["documents"],
        "kept": total["kept"],
        "dropped": report["dropped_by_reason"],
        "in_bytes": total["bytes"],
        "kept_bytes": total["kept_bytes"],
    }
    lines = [_bar("all domains", [whole], rules)]
    for label, members in domains.groups:
        lines.append(_bar(label, [report["domains"][name] for name in members], rules))
    return lines


def _bar(label: str, entries: list[Mapping[str, Any]], rules: Mapping[str, Any]) -> dict[str, Any]:
    count, kept, size, kept_bytes = (
        sum(entry[key] for entry in entries) for key in ("in", "kept", "in_bytes", "kept_bytes")
    )
    dropped: dict[str, int] = {}
    for entry in entries:
        for reason, number in entry["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + number
    parts = tables.segments(kept, dropped, count, rules)
    for part in parts:
        part["words"] = f"{part['name']}: {part['value']:,.0f} ({percent(part['value'], count)})"
    lost = max(0, size - kept_bytes)
    return {
        "label": label,
        "documents": parts,
        "documents_words": f"{kept:,} of {count:,}",
        "documents_share": percent(kept, count),
        "bytes": f"{min(1.0, tables.share(kept_bytes, size)):.3%}",
        "bytes_words": f"{with_unit('bytes', kept_bytes)} of {with_unit('bytes', size)}",
        "bytes_share": percent(kept_bytes, size),
        "lost": with_unit("bytes", lost),
    }


def _languages(report: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    by_domain = report.get("languages") or {}
    totals: dict[str, int] = {}
    for own in by_domain.values():
        for language, count in own.items():
            totals[language] = totals.get(language, 0) + count
    shown = [language for language in by_count(totals) if language][:MAX_LANGUAGES]
    folded = {
        domain: {key: own.get(key, 0) for key in shown}
        | {"others": sum(n for key, n in own.items() if key and key not in shown), "unknown": own.get("", 0)}
        for domain, own in by_domain.items()
    }
    columns = [*shown, *(key for key in ("others", "unknown") if any(own[key] for own in folded.values()))]
    return {"columns": columns, "lines": tables.count_matrix(folded, columns, sizes, MAX_TABLE_DOMAINS)}


def _text_changes(report: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    by_domain = report.get("text") or {}
    columns = sorted({name for own in by_domain.values() for name in own})
    lines = tables.count_matrix(by_domain, columns, sizes, MAX_TABLE_DOMAINS) if columns else []
    for line in lines:  # replacements may outnumber the documents: a share of documents says nothing about them
        line["cells"] = [
            cell if name.endswith(".documents") else tables.Cell(cell.text)
            for name, cell in zip(columns, line["cells"], strict=True)
        ]
    return {"columns": [name.replace(".", " ").replace("_", " ") for name in columns], "lines": lines}


def _dropped_samples(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    rules, dropped = report.get("rules") or {}, report["dropped_by_reason"]
    samples = {name: rows for name, rows in (report.get("samples") or {}).items() if name != "kept" and rows}
    counts = {name: dropped.get(name, 0) for name in samples}
    groups = []
    for name in by_count(counts):
        shown = [
            {**row, "value": tables.value("", row["value"]), "limit": _limit(name, rules, row["threshold"])}
            for row in samples[name][:MAX_SAMPLES]
        ]
        groups.append({"name": name, "count": f"{counts[name]:,}", "samples": shown})
    return groups


def _limit(name: str, rules: Mapping[str, Any], threshold: float | None) -> str:
    """What a quality rule allows; the threshold of other reasons is not a bound of what is allowed."""
    if threshold is None:
        return ""
    return tables.bound(rules[name]["is_minimum"], threshold) if name in rules else f"threshold {digits(threshold)}"


def _kept_samples(report: Mapping[str, Any], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    kept = (report.get("samples") or {}).get("kept") or {}
    order = [name for name in by_count(sizes) if kept.get(name)]
    return [
        {"name": name, "count": f"{report['domains'][name]['kept']:,}", "samples": kept[name][:MAX_SAMPLES]}
        for name in order[:MAX_TABLE_DOMAINS]
    ]


def _mixing(rows: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    largest = max([*(row["asked_share"] for row in rows), *(row["obtained_share"] for row in rows), 1e-9])
    widths = [
        {key: f"{tables.share(row[f'{key}_share'], largest):.2%}" for key in ("asked", "obtained")} for row in rows
    ]
    table = tables.mixing_table(rows)
    return {"columns": table["columns"], "rows": list(zip(table["rows"], widths, strict=True))}


def _shards(shards: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All shards, or of very many those that keep the smallest share, in the order of their names."""
    chosen = sorted(shards, key=lambda shard: (tables.share(shard["kept"], shard["in"]), shard["name"]))[:MAX_SHARDS]
    lines = []
    for shard in sorted(chosen, key=lambda shard: shard["name"]):
        reasons = {name: count for name, count in shard["dropped"].items() if count}
        lines.append(
            {
                **shard,
                "dropped": sum(reasons.values()),
                "share": percent(shard["kept"], shard["in"]),
                "reasons": ", ".join(f"{name} {reasons[name]:,}" for name in by_count(reasons)[:3]),
            }
        )
    return lines
