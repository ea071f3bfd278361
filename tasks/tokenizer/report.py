"""report.json, report.md and report.html of a vocabulary: the same numbers three times. Equal reports, equal files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tasks._files import write_json, write_text
from tasks.tokenizer.charts import bar_chart, curve_chart

MAX_LANGUAGES = 24
_TEMPLATE = "report.html.j2"


class Section(NamedTuple):
    """One table with what there is to say about it."""

    title: str
    text: str
    header: list[str]
    rows: list[list[str]]


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write the three files into `folder`."""
    write_json(folder / "report.json", report)
    parts = sections(report)
    write_text(folder / "report.md", _markdown(summary(report), parts, _tokens(report)))
    write_text(folder / "report.html", _html(report, parts))


def summary(report: Mapping[str, Any]) -> list[str]:
    """What the vocabulary is, and how well it compresses, in sentences."""
    where = "held-out documents" if report["is_held_out"] else "documents of its training (too few to hold some out)"
    origin = f", from {report['reused']}" if report["reused"] else ""
    lines = [
        f"{report['vocab_size']:,} ids ({report['strategy']}{origin}), {report['bytes_per_token']:.3f} bytes per token "
        f"on {report['held_out_documents']:,} {where}, {report['held_out_bytes']:,} bytes.",
        f"Of {report['training_documents']:,} documents ({report['training_bytes']:,} bytes): "
        f"{report['used_tokens']:,} tokens occur, {report['tokens_of_half_the_text']:,} of them make up half of the "
        f"text; {report['dead_tokens']:,} merged tokens and {report['unused_bytes']} single bytes do not occur; "
        f"{report['reserved_tokens']} further ids are reserved or special.",
    ]
    lines += [f"Left out of the file: {note}." for note in report["left_out"]]
    if report["compared_with"]:
        for name, other in report["compared_with"].items():
            gain = report["bytes_per_token"] / other["bytes_per_token"] - 1
            lines.append(
                f"{name} ({other['tokens']:,} tokens): {other['bytes_per_token']:.3f} bytes per token; "
                f"this vocabulary reads {abs(gain):.1%} {'more' if gain >= 0 else 'less'} text per token."
            )
    else:
        lines.append(
            "Not compared with GPT-2 and GPT-4: their rank files are not configured (tokenizer.compare_with, such as "
            "{gpt2: r50k_base.tiktoken, gpt4: cl100k_base.tiktoken} below data/tokenizer)."
        )
    return lines


def sections(report: Mapping[str, Any]) -> list[Section]:
    """The tables of the report."""
    languages = dict(sorted(report["languages"].items(), key=lambda item: (-item[1]["bytes"], item[0])))
    shown = dict(list(languages.items())[:MAX_LANGUAGES])
    rest = len(languages) - len(shown)
    more = f" The {rest} rarer ones are in report.json." if rest else ""
    curve = [[f"{row['vocab_size']:,}", f"{row['bytes_per_token']:.3f}"] for row in report["sizes"]]
    return [
        Section("Domains", "A total hides that text of one kind pays for another.", *_groups(report, "domains")),
        Section(
            "Languages",
            f"Guessed for each document; tables, code and mixtures often count as unsure.{more}",
            *_groups({**report, "languages": shown}, "languages"),
        ),
        Section(
            "Smaller vocabularies",
            "The first tokens of this vocabulary are what training for a smaller size gives.",
            ["ids", "bytes per token"],
            curve,
        ),
        Section(
            "What the vocabulary costs",
            "At equal training FLOPs a larger vocabulary reads more text per token and makes every token dearer (6 V d "
            "in the output head). Break-even: up to where growing from half the size would pay with the measured gain.",
            ["model", "head, share of FLOPs", "gain of last doubling", "break-even ids", "best measured ids"],
            [_price_row(row) for row in report["price"]],
        ),
    ]


def _price_row(row: Mapping[str, Any]) -> list[str]:
    known = "gain_of_last_doubling" in row
    return [
        f"d{row['depth']}",
        f"{row['head_share']:.1%}",
        f"{row['gain_of_last_doubling']:.1%}" if known else "-",
        f"{row['break_even_vocabulary']:,}" if known else "-",
        f"{row['best_measured']:,}",
    ]


def _groups(report: Mapping[str, Any], key: str) -> tuple[list[str], list[list[str]]]:
    others = list(report["compared_with"])
    header = [key[:-1], "documents", "bytes", "tokens", "bytes per token", *others]
    rows = [
        [
            name or "(no name)",
            *(f"{entry[number]:,}" for number in ("documents", "bytes", "tokens")),
            f"{entry['bytes_per_token']:.3f}",
            *(f"{entry['others'][other]:.3f}" for other in others),
        ]
        for name, entry in report[key].items()
    ]
    return header, rows


def _tokens(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        ("Longest tokens", [repr(token) for token in report["longest_tokens"]]),
        ("Tokens that do not occur, the earliest merges", [repr(token) for token in report["dead_samples"]]),
    ]


def _markdown(said: Iterable[str], parts: Iterable[Section], tokens: Iterable[tuple[str, list[str]]]) -> str:
    lines = ["# Tokenizer", "", "\n\n".join(_plain(line) for line in said)]
    for part in parts:
        lines += ["", f"## {part.title}", "", part.text, "", _line(part.header)]
        lines += ["|---|" + "---:|" * (len(part.header) - 1), *(_line(row) for row in part.rows)]
    for title, shown in tokens:
        if shown:
            lines += ["", f"## {title}", "", *(f"    {token}" for token in shown)]
    return "\n".join([*lines, ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that cannot end its cell or line, nor start HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _html(report: Mapping[str, Any], parts: list[Section]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    series = {"this vocabulary": {name: entry["bytes_per_token"] for name, entry in report["domains"].items()}}
    for other in report["compared_with"]:
        series[other] = {name: entry["others"][other] for name, entry in report["domains"].items()}
    lines = {other: entry["bytes_per_token"] for other, entry in report["compared_with"].items()}
    curve = [(row["vocab_size"], row["bytes_per_token"]) for row in report["sizes"]]
    return environment.get_template(_TEMPLATE).render(
        summary=summary(report),
        sections=parts,
        tokens=_tokens(report),
        charts={"Domains": bar_chart(series), "Smaller vocabularies": curve_chart(curve, lines)},
    )
