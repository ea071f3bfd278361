"""report.json, report.md and report.html of a corpus: what came in, what was dropped by which rule, what was kept.

The three show the same numbers. Equal reports give equal files.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks._files import write_json, write_text
from tasks.corpus.report.html import render_html
from tasks.corpus.report.tables import by_count, mixing_table, printable

_MAX_DOMAINS = 24
"""Columns of the table in report.md; the domains beyond are in report.json and report.html."""


def render_report(folder: Path, report: dict[str, Any]) -> None:
    """Write the three files into `folder`; sums that do not agree stop it before the first one."""
    check_sums(report)
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", printable(_markdown(report)))
    write_text(folder / "report.html", printable(render_html(report)))


def check_sums(report: Mapping[str, Any]) -> None:
    """Assert that nothing is lost or counted twice: per shard, per domain, in total, and each against the total."""
    total = report["total"]
    whole = {
        "records": report["records"],
        "unreadable": report["unreadable"],
        "in": total["documents"],
        "in_bytes": total["bytes"],
        "kept": total["kept"],
        "kept_bytes": total["kept_bytes"],
        "dropped": report["dropped_by_reason"],
    }
    _check_sum("in total", whole)
    reasons = sum(report["dropped_by_reason"].values())
    assert reasons == total["dropped"], f"{reasons} documents dropped by reasons, {total['dropped']} dropped in total"
    shards = [(shard["name"], shard) for shard in report["shards"]]
    for what, parts, keys in (
        ("domain", report["domains"].items(), ("in", "kept", "in_bytes", "kept_bytes")),
        ("shard", shards, ("records", "unreadable", "in", "kept")),
    ):
        added: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for name, part in parts:
            _check_sum(f"in {what} {name}", part)
            added.update({key: part[key] for key in keys})
            dropped.update(part["dropped"])
        for key in keys:
            assert added[key] == whole[key], f"{key}: {added[key]} in all {what}s, {whole[key]} in total"
        assert +dropped == +Counter(whole["dropped"]), f"dropped in all {what}s {dropped}, in total {whole['dropped']}"


def _check_sum(where: str, part: Mapping[str, Any]) -> None:
    dropped = sum(part["dropped"].values())
    assert part["in"] == part["kept"] + dropped, f"{where}: {part['in']} in, {part['kept']} kept, {dropped} dropped"
    if "records" in part:
        read = part["unreadable"] + part["in"]
        assert part["records"] == read, f"{where}: {part['records']} records, {read} unreadable ones and documents"


def _markdown(report: Mapping[str, Any]) -> str:
    total = report["total"]
    lines = [
        "# Corpus",
        "",
        f"{report['records']:,} records: {report['unreadable']:,} unreadable, {total['documents']:,} documents, "
        f"of which {total['kept']:,} kept ({total['kept_bytes']:,} of {total['bytes']:,} bytes).",
        "",
        *_funnel(report),
        *_duplicates(report),
        *_benchmarks(report.get("benchmarks") or {}),
        *_mixing(report.get("mixing") or []),
    ]
    if report["unreadable_samples"]:
        lines += ["", "## Unreadable records", ""]
        lines += [f"- {_code(b['file'], b['line'])} {_cell(b['reason'])}" for b in report["unreadable_samples"]]
    lines += ["", "Every dropped document, with rule, value, threshold and cluster: `rejected/*.parquet`.", ""]
    return "\n".join(lines)


def _funnel(report: Mapping[str, Any]) -> list[str]:
    sizes = {name: entry["in"] for name, entry in report["domains"].items()}
    names = by_count(sizes)[:_MAX_DOMAINS]
    domains = [report["domains"][name] for name in names]
    total = report["total"]

    def row(label: str, whole: int, parts: Iterable[int]) -> list[str]:
        return [label, f"{whole:,}", *(f"{part:,}" for part in parts)]

    rows = [row("documents in", total["documents"], [d["in"] for d in domains])]
    for reason in by_count(report["dropped_by_reason"]):
        count = report["dropped_by_reason"][reason]
        rows.append(row(f"dropped: {reason}", count, [d["dropped"].get(reason, 0) for d in domains]))
    rows.append(row("**kept**", total["kept"], [d["kept"] for d in domains]))
    rows.append(row("bytes in", total["bytes"], [d["in_bytes"] for d in domains]))
    rows.append(row("bytes kept", total["kept_bytes"], [d["kept_bytes"] for d in domains]))
    rest = len(sizes) - len(names)
    note = ["", f"The {rest} smaller domains are in report.json and report.html."] if rest else []
    return _table(["", "total", *names], rows) + note


def _duplicates(report: Mapping[str, Any]) -> list[str]:
    dropped, clusters = report["dropped_by_reason"], report.get("clusters") or []
    counts = [(name, dropped.get(f"{name}_duplicate", 0)) for name in ("exact", "near")]
    if not clusters and not any(count for _, count in counts):
        return []
    said = ", ".join(f"{count:,} {name}" for name, count in counts)
    lines = ["", "## Duplicates", "", f"Dropped: {said}. Repeated ids: {report.get('duplicate_ids', 0):,}."]
    if clusters:
        rows = [[f"{c['size']:,}", c["reason"], c["cluster_id"]] for c in clusters[:5]]
        lines += ["", *_table(["documents", "found as", "largest clusters"], rows)]
    return lines


def _benchmarks(benchmarks: Mapping[str, Any]) -> list[str]:
    if not benchmarks:
        return []
    keys = ("items", "searchable", "items_found", "documents")
    rows = [[name, *(f"{found[key]:,}" for key in keys)] for name, found in sorted(benchmarks.items())]
    header = ["benchmark", "items", "searchable", "items found", "documents dropped"]
    return ["", "## Benchmarks", "", *_table(header, rows)]


def _mixing(mixing: list[Mapping[str, Any]]) -> list[str]:
    if not mixing:
        return []
    table = mixing_table(mixing)
    return ["", "## Mixing", "", *_table(table["columns"], table["rows"])]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [header, *rows]
    marked = ["| " + " | ".join(_cell(text) for text in line) + " |" for line in lines]
    return [marked[0], "|---|" + "---:|" * (len(header) - 1), *marked[1:]]


def _cell(text: object) -> str:
    """Text that cannot end its cell or line, nor start HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _code(file: object, line: object) -> str:
    return "`" + f"{file}:{line}".replace("`", "'").replace("\n", " ") + "`"
