"""The funnel: how many documents and bytes each rule took from each domain."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks._files import write_json, write_text

if TYPE_CHECKING:
    import polars as pl


def build_report(frame: "pl.DataFrame", records: int, bad: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts per domain and in total, from the table with its `reason` column (null = kept)."""
    import polars as pl

    rows = (
        frame.with_columns(pl.col("reason").fill_null("kept"))
        .group_by("domain", "reason")
        .agg(pl.len().alias("documents"), pl.col("bytes").sum())
        .sort("domain", "reason")
    )
    domains: dict[str, Any] = {}
    for row in rows.iter_rows(named=True):
        entry = domains.setdefault(row["domain"], {"in": 0, "kept": 0, "in_bytes": 0, "kept_bytes": 0, "dropped": {}})
        entry["in"] += row["documents"]
        entry["in_bytes"] += row["bytes"]
        if row["reason"] == "kept":
            entry["kept"], entry["kept_bytes"] = row["documents"], row["bytes"]
        else:
            entry["dropped"][row["reason"]] = row["documents"]
    reasons = sorted({reason for entry in domains.values() for reason in entry["dropped"]})
    totals = {name: sum(entry[name] for entry in domains.values()) for name in ("in", "kept", "in_bytes", "kept_bytes")}
    dropped = {reason: sum(entry["dropped"].get(reason, 0) for entry in domains.values()) for reason in reasons}
    assert totals["in"] == totals["kept"] + sum(dropped.values()) == frame.height
    return {
        "records": records,
        "bad_records": bad,
        "bad_record_samples": samples,
        "total": {
            "documents": totals["in"],
            "kept": totals["kept"],
            "dropped": sum(dropped.values()),
            "bytes": totals["in_bytes"],
            "kept_bytes": totals["kept_bytes"],
        },
        "dropped_by_reason": dropped,
        "domains": domains,
    }


def render_report(folder: Path, report: dict[str, Any]) -> None:
    """report.json and report.md."""
    write_json(folder / "report.json", report)
    total, reasons = report["total"], report["dropped_by_reason"]
    names = sorted(report["domains"])
    lines = [
        "# Corpus",
        "",
        f"{report['records']:,} records: {report['bad_records']:,} unusable, {total['documents']:,} documents, "
        f"of which {total['kept']:,} kept ({total['kept_bytes']:,} of {total['bytes']:,} bytes).",
        "",
        "| | total | " + " | ".join(names) + " |",
        "|---|" + "---:|" * (len(names) + 1),
    ]

    def row(label: str, whole: int, parts: list[int]) -> str:
        return f"| {label} | {whole:,} | " + " | ".join(f"{part:,}" for part in parts) + " |"

    domains = [report["domains"][name] for name in names]
    lines.append(row("documents in", total["documents"], [d["in"] for d in domains]))
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        lines.append(row(f"dropped: {reason}", count, [d["dropped"].get(reason, 0) for d in domains]))
    lines.append(row("**kept**", total["kept"], [d["kept"] for d in domains]))
    lines.append(row("bytes in", total["bytes"], [d["in_bytes"] for d in domains]))
    lines.append(row("bytes kept", total["kept_bytes"], [d["kept_bytes"] for d in domains]))
    if report["bad_record_samples"]:
        lines += ["", "## Unusable records", ""]
        lines += [f"- `{b['file']}:{b['line']}` {b['reason']}" for b in report["bad_record_samples"]]
    lines += ["", "Every dropped document, with rule, value, threshold and cluster: `rejected/*.parquet`.", ""]
    write_text(folder / "report.md", "\n".join(lines))
