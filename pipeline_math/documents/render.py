"""Templates and numbers -> one Markdown file per step.

Every name in a template must be a value of its step module and every value must be used; a template that types a
number, lacks a section or a cost tag is refused (`rules`).
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline_math.documents.number import DocumentError, Number
from pipeline_math.documents.rules import PLACEHOLDER, structure_faults, typed_numbers
from pipeline_math.documents.show import show
from pipeline_math.documents.table import Table, escaped

TEMPLATES = Path(__file__).parent / "templates"
TARGET = Path(__file__).parent.parent
"""Rendered files lie beside the modules they explain."""
NOTICE = (
    "<!-- Rendered by `make math` from pipeline_math/documents; change the template or the step module, not this. -->"
)
SOURCES_HEADING = "## Where the numbers come from"

Values = Mapping[str, Number | Table]


@dataclass(frozen=True)
class Document:
    """One step: `step_<number>.py` gives the values, `templates/<number>.md` the text."""

    number: str
    file_name: str

    @property
    def template(self) -> Path:
        """The text with placeholders."""
        return TEMPLATES / f"{self.number}.md"

    def values(self) -> Values:
        """What `values()` of the step module computes."""
        return importlib.import_module(f"pipeline_math.documents.step_{self.number}").values()


DOCUMENTS = (
    Document("00", "00_target_budget.md"),
    Document("01", "01_data_filtering_cost.md"),
    Document("02", "02_tokenizer_cost.md"),
    Document("03", "03_packing_io_cost.md"),
    Document("04", "04_model_flops_vram.md"),
    Document("05", "05_pretrain_step_math.md"),
    Document("06", "06_sft_step_math.md"),
    Document("07", "07_eval_math.md"),
    Document("08", "08_export_cost.md"),
    Document("09", "09_inference_prefill_decode_math.md"),
    Document("10", "10_chat_serving_latency_budget.md"),
)


def render(document: Document) -> str:
    """The whole Markdown file of a step."""
    template, values = document.template.read_text(encoding="utf-8"), document.values()
    name = document.template.name
    if faults := [*structure_faults(template), *typed_numbers(template)]:
        raise DocumentError(f"{name}: " + "; ".join(faults))
    title, _, rest = fill(template, values, name).partition("\n")
    return f"{title}\n\n{NOTICE}\n{rest.rstrip()}\n\n{SOURCES_HEADING}\n\n{sources_table(values)}\n"


def fill(template: str, values: Values, name: str) -> str:
    """The template with every placeholder replaced; DocumentError for unknown and for unused names."""
    wanted = [match[1] for match in PLACEHOLDER.finditer(template)]
    unknown = sorted(set(wanted) - set(values))
    unused = sorted(set(values) - set(wanted))
    if unknown:
        raise DocumentError(f"{name}: no value named {', '.join(unknown)}; next: return it from the step module")
    if unused:
        raise DocumentError(f"{name}: {', '.join(unused)} not used; next: use it or do not compute it")
    filled = PLACEHOLDER.sub(lambda match: _replacement(values[match[1]], match[1], match[2] or "", name), template)
    if "{{" in filled:  # "}}" closes LaTeX groups too
        line = next(line for line in filled.splitlines() if "{{" in line)
        raise DocumentError(f"{name}: malformed placeholder in {line!r}")
    return filled


def _replacement(value: Number | Table, placeholder: str, spec: str, name: str) -> str:
    try:
        return value.markdown(placeholder) if isinstance(value, Table) else show(value, spec)
    except DocumentError as error:
        raise DocumentError(f"{name}: {placeholder}: {error}") from error


def sources_table(values: Values) -> str:
    """Name, value and source of every number; tables are summed up by the distinct functions and constants in them."""
    lines = ["| number | value | source |", "| --- | --: | --- |"]
    for name, value in values.items():
        if isinstance(value, Number):
            lines.append(f"| `{name}` | {show(value, '.4g')} | {escaped(value.source.words())} |")
        else:
            lines.append(f"| `{name}` | table | {escaped(_table_words(value))} |")
    return "\n".join(lines)


def _table_words(table: Table) -> str:
    numbers = list(table.numbers())
    origins = dict.fromkeys(origin for number in numbers for origin in number.source.origins())
    return f"{len(numbers)} numbers from {', '.join(origins)}" if numbers else "text of the ledger"


def write(folder: Path = TARGET, documents: tuple[Document, ...] = DOCUMENTS) -> list[Path]:
    """Render documents into a folder; returns the files written."""
    texts = {folder / document.file_name: render(document) for document in documents}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)
