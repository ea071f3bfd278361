"""What a template may not do: type a number that a program could have printed.

A digit is allowed in headings, fenced blocks, code and formula spans, links, `[source: ...]` citations, arXiv ids,
placeholders, names (a word that starts with a letter, such as bf16 or GPT-2; "step 5" for another document), and
everywhere in the section "Sources". A line that ends with `[source: ...]` may hold the number it cites. A code span
that is only a number is not code.
"""

import re

TAGS = ("compute", "memory", "bandwidth", "io", "latency", "statistics")
"""What a formula costs; statistics costs nothing, it is an error bar."""
SECTIONS = (
    "Purpose",
    "Symbols",
    "Formulas",
    "Worked examples",
    "Predicted and measured",
    "What to optimise",
    "What is left out",
    "How wrong it has been",
    "Sources",
)
"""Every document has these, in this order; "Where the numbers come from" follows by program."""
FREE_SECTION = "Sources"

PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*(?:\|\s*([^}]*?)\s*)?\}\}")
_UNRENDERED = re.compile(r"\\operatorname|(?<!\$)\$[^$\n`]*\\[,;:!{}%|][^$\n]*\$")
"""A macro GitHub refuses, and punctuation that Markdown unescapes inside a formula span."""
_CITED = re.compile(r"\[source: [^\]]+\][\s.|]*$")
_ALLOWED = (
    PLACEHOLDER,
    re.compile(r"`(?!\s*[\d.,]+\s*`)[^`]+`"),  # code, unless it is only a number
    re.compile(r"\$[^$]+\$"),  # formula in a line
    re.compile(r"\[[^\]]*\]\([^)]*\)"),  # link
    re.compile(r"<https?:[^>]*>"),
    re.compile(r"arXiv:?\s?\d{4}\.\d{4,5}"),
    re.compile(r"^\s*\d+\.\s"),  # item of a numbered list
    re.compile(r"\b[Ss]teps? \d+\b(?:(?:,| and| to)? \d+\b)*"),  # another document
    re.compile(r"\b[A-Za-z]\w*(?:-\d\w*)*"),  # name
)


def typed_numbers(template: str) -> list[str]:
    """One message per line that holds a typed digit; empty for a clean template."""
    found, fenced, section = [], False, ""
    for count, line in enumerate(template.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        if not fenced and line.startswith("## "):
            section = line[3:].strip()
        if fenced or line.startswith("#") or section == FREE_SECTION or _CITED.search(line):
            continue
        if digits := digits_in(line):
            found.append(f"line {count}: {digits} typed; use a placeholder or end the line with [source: ...]")
    return found


def digits_in(text: str) -> str:
    """The words of a text that hold a typed digit, joined; empty without any."""
    for allowed in _ALLOWED:
        text = allowed.sub(" ", text)
    return ", ".join(word for word in text.split() if any(letter.isdigit() for letter in word))


def structure_faults(template: str) -> list[str]:
    """Missing or misplaced sections, a purpose that is not two sentences, formulas without a tag or not rendered."""
    headings = [line[3:].strip() for line in template.splitlines() if line.startswith("## ")]
    faults = [
        f"{found[0]} is not rendered by every host; write it otherwise" for found in _UNRENDERED.finditer(template)
    ]
    if tuple(headings) != SECTIONS:
        return [*faults, f"sections are {', '.join(headings)}; wanted {', '.join(SECTIONS)}"]
    bodies = dict(zip(headings, re.split(r"^## .*$", template, flags=re.MULTILINE)[1:], strict=True))
    sentences = re.findall(r"[.?!](?=\s|$)", PLACEHOLDER.sub("x", bodies["Purpose"]))
    if len(sentences) != 2:
        faults.append(f"the purpose has {len(sentences)} sentences; wanted two")
    formulas = re.split(r"^### ", bodies["Formulas"], flags=re.MULTILINE)[1:]
    if not formulas:
        faults.append("no formula: `### Name · tag` and a ```math block under Formulas")
    for formula in formulas:
        faults += _formula_faults(formula)
    return faults


def _formula_faults(formula: str) -> list[str]:
    title, _, body = formula.partition("\n")
    name, _, tags = title.rpartition(" · ")
    unknown = [tag for tag in tags.split(" + ") if tag not in TAGS]
    faults = [f"formula {title!r}: tag {tag!r}; allowed: {', '.join(TAGS)}" for tag in unknown]
    if not name:
        faults.append(f"formula {title!r} has no name before ` · tag`")
    if "```math" not in body:
        faults.append(f"formula {title!r} has no ```math block")
    if not re.search(r"`\w+\.\w+`", body):
        faults.append(f"formula {title!r} names no function as `module.function`")
    return faults
