"""The rendered documents: up to date, no typed numbers, every number with a source that still gives it."""

import functools
import itertools
import re

import pytest

from pipeline_math.documents.number import DocumentError, Number, compute
from pipeline_math.documents.render import DOCUMENTS, TARGET, fill, render, write
from pipeline_math.documents.resolve import resolve
from pipeline_math.documents.rules import SECTIONS, TAGS, structure_faults, typed_numbers
from pipeline_math.pretrain_step import mfu

EVERY = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.number)

CLEAN = "\n\n".join(
    {
        "Purpose": "## Purpose\n\nPredicts a cost. Says what lowers it.",
        "Formulas": "## Formulas\n\n### Speed · compute\n\n```math\nr = m P / F\n```\n\n`pretrain_step.mfu`",
    }.get(name, f"## {name}\n\ntext")
    for name in SECTIONS
)
"""The smallest template without a fault."""


@EVERY
def test_rendered_file_is_up_to_date(document, tmp_path):
    (path,) = write(tmp_path, (document,))
    committed = (TARGET / document.file_name).read_bytes()
    assert path.read_bytes() == committed, f"{document.file_name} is out of date; next: make math"


def test_all_eleven_steps_have_a_document():
    assert [document.number for document in DOCUMENTS] == [f"{step:02d}" for step in range(11)]
    assert all(document.file_name.startswith(document.number) for document in DOCUMENTS)


@functools.cache
def _values(document):
    """Computed once: some documents solve plans."""
    return document.values()


@functools.cache
def _rendered(document):
    return render(document)


@EVERY
def test_every_number_has_a_source_that_gives_it_again(document):
    numbers = [number for value in _values(document).values() for number in _numbers(value)]
    assert len(numbers) >= 10
    for number in numbers:
        number.check()


def _numbers(value):
    return [value] if isinstance(value, Number) else list(value.numbers())


@EVERY
def test_templates_type_no_number_and_tag_every_formula(document):
    template = document.template.read_text(encoding="utf-8")
    assert typed_numbers(template) == []
    assert structure_faults(template) == []
    tags = [
        tag for line in template.splitlines() if line.startswith("### ") for tag in line.split(" · ")[-1].split(" + ")
    ]
    assert tags
    assert set(tags) <= set(TAGS)


@EVERY
def test_functions_named_in_a_document_exist(document):
    """In formulas every `module.name` must exist; elsewhere it may also be a parameter or a metric."""
    template = document.template.read_text(encoding="utf-8")
    formulas = template.split("## Formulas")[1].split("\n## ")[0]
    modules = {path.stem for path in TARGET.glob("*.py")}
    names = re.findall(r"`([a-z]\w*\.\w+)`", formulas)
    assert names
    names += [
        name
        for name in re.findall(r"`([a-z]\w*\.\w+)`", template)
        if name.split(".")[0] in modules and not name.endswith(".py")
    ]
    for name in names:
        resolve(name)


@EVERY
def test_tables_are_well_formed(document):
    """Neighbouring lines of a table have the same number of cells; a bar inside a cell is escaped."""
    lines = _rendered(document).splitlines()
    tables = [pair for pair in itertools.pairwise(lines) if all(line.startswith("|") for line in pair)]
    assert tables
    for above, below in tables:
        assert _bars(above) == _bars(below), f"{above}\n{below}"
    assert "{{" not in "".join(lines)


def _bars(line):
    return len(re.findall(r"(?<!\\)\|", line))


@EVERY
def test_the_example_names_run_key_machine_and_commit(document):
    text = _rendered(document)
    assert "| run | stage | K | machine | planned for | profile | commit |" in text
    assert "| quantity | predicted | 90 % interval | measured |" in text


@pytest.mark.parametrize(
    "line",
    [
        "It takes 12 seconds.",
        "| batch | 512 |",
        "about `3.5` times",  # a number is not code
        "x1.15 of it",
        "half of it, 50 %",
    ],
)
def test_a_typed_number_is_refused(line):
    assert len(typed_numbers(f"# Title\n\n{line}\n")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "It takes {{ seconds | .4g }}.",
        "## 5.1 Utilisation",
        "a d12 in bf16 on an H100, GPT-2 and PaLM-540B",
        "see step 5, steps 06 and 07",
        "`6 N + 12 L d T` and $6N$",
        "[a link](https://example.org/2204)",
        "PaLM, appendix B, arXiv:2204.02311",
        "Measured elsewhere: 46.2 % [source: arXiv:2204.02311, table 3]",
        "| PaLM | 46.2 % | [source: PaLM, table 3] |",
        "```math\n6 N\n```",
        "## Sources\n\n- Hoffmann 2022, table 3",
    ],
)
def test_a_number_with_a_place_or_a_citation_is_accepted(line):
    assert typed_numbers(line) == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("· compute", "· speed", "tag 'speed'"),
        (" · compute", "", "no name before"),
        ("```math\nr = m P / F\n```", "r = m P / F", "no ```math block"),
        ("`pretrain_step.mfu`", "the function", "names no function"),
        ("Says what lowers it.", "", "purpose has 1 sentences"),
        ("## Symbols", "## Signs", "wanted Purpose"),
        ("### Speed", "Speed", "no formula"),
        ("r = m P / F", r"r = \operatorname{min} P", "not rendered by every host"),
        ("Predicts a cost.", r"Predicts $a\,b$.", "not rendered by every host"),
    ],
)
def test_structure_faults_are_named(before, after, fault):
    assert structure_faults(CLEAN) == []
    assert before in CLEAN
    assert fault in "; ".join(structure_faults(CLEAN.replace(before, after)))


def test_unknown_and_unused_names_are_errors_that_name_template_and_name():
    half = compute(mfu, 1.0, 1.0, 1, 2.0, unit="share")
    assert fill("{{ half }}", {"half": half}, "05.md") == "50.0 %"
    with pytest.raises(DocumentError, match=r"05\.md: no value named half"):
        fill("{{ half }}", {}, "05.md")
    with pytest.raises(DocumentError, match=r"05\.md: half not used"):
        fill("text", {"half": half}, "05.md")
    with pytest.raises(DocumentError, match=r"05\.md: malformed placeholder"):
        fill("{{ half }} {{ x.y }}", {"half": half}, "05.md")
    with pytest.raises(DocumentError, match=r"05\.md: half: format 'f'"):
        fill("{{ half | f }}", {"half": half}, "05.md")
