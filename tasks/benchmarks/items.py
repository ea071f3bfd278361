"""Benchmark items on disk: which texts of an item must not be in training data, and what its question is.

Covered      .jsonl and .jsonl.gz files at any depth below a folder, one JSON object a line, in any of the usual forms
             (query/choices, context_options/continuation, context/continuation, question/answer, prompt/test) or none
             of them: every string of a record counts but for the fields named in METADATA and SOLUTIONS
Not covered  Worked solutions, unless asked for. On real text and code nearly everything they share is an idiom
             ("for i in range(2, int(n ** 0.5) + 1)") or a run of numbers (1, 2, 3, ... in unit tests)
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tasks._errors import StageError

SUFFIXES = (".jsonl", ".jsonl.gz")
UNREAD_SUFFIXES = (".parquet", ".csv", ".tsv", ".zst", ".arrow", ".zip", ".bz2", ".xz")
"""Files that look like data but are not read: an error, so that nobody takes them for searched."""

METADATA = (
    *("id", "_id", "task_id", "entry_point", "category", "subject", "subtask", "topic", "level", "type", "error_type"),
    *("gold", "label", "split", "source", "url", "licence", "license"),
)
"""Fields that say something about an item and are no part of it."""
SOLUTIONS = ("chain_of_thought", "canonical_solution", "solution", "rationale", "explanation", "test", "tests")
"""Fields nobody is shown: reasoning, reference programs, unit tests. Searched with `solutions` only."""
QUESTION_FIELDS = ("query", "question", "prompt", "context", "problem", "input", "instruction", "goal", "sentence")
"""The first of these that a record has holds its question."""

_LABEL = re.compile(r"(?:^|(?<=[\s.]))(?:Q|Question|Problem)\s*:[ \t]*")
_HEADING = re.compile(r"[A-Z][\w &'/-]{0,40}:\s+")
_OPTIONS = re.compile(r"\n\s*(?:(?:Answer|Answer choices|Choices|Options|A)\s*:|\(?[A-E][.)]|-\s)")


class BenchmarkItem(NamedTuple):
    """One row of a benchmark."""

    benchmark: str
    """File name without suffix, with its folder where it lies in one."""
    id: str
    texts: tuple[str, ...]
    """The fields, each by itself: an n-gram that runs from a question into a choice is nobody's text."""
    question: str
    """The bare question: without label, options and what else a prompt adds. "" where there is none."""


def find_benchmarks(folder: Path) -> list[Path]:
    """The benchmark files below a folder, sorted; none for an empty folder. StageError for data that is not read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    unread = [str(path.relative_to(folder)) for path in files if path.name.endswith(UNREAD_SUFFIXES)]
    if unread:
        raise StageError(
            f"benchmarks: {folder} holds {len(unread)} files that decontamination cannot read, such as {unread[0]}; "
            f"allowed: {', '.join(SUFFIXES)}; next: convert them, or move them out of this folder"
        )
    return [path for path in files if path.name.endswith(SUFFIXES)]


def read_items(folder: Path, solutions: bool = False) -> Iterator[BenchmarkItem]:
    """All items below `folder`, in the order of file names and lines. StageError names a line that is no object."""
    for path in find_benchmarks(folder):
        benchmark = path.relative_to(folder).as_posix()
        benchmark = benchmark[: -len(next(suffix for suffix in SUFFIXES if benchmark.endswith(suffix)))]
        for number, line in _lines(path):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f"found {type(record).__name__}; allowed: one JSON object a line")
                json.dumps(record, ensure_ascii=False).encode()  # an unpaired surrogate can be written by nothing
            except ValueError as error:  # also undecodable bytes
                raise StageError(
                    f"benchmarks: {path}:{number}: {error}; next: correct or remove the line (an item that is not read "
                    f"is not searched for)"
                ) from None
            yield item_of(benchmark, number, record, solutions)


def item_of(benchmark: str, number: int, record: dict[str, Any], solutions: bool = False) -> BenchmarkItem:
    """The item in one record; `number` names it where it has no id of its own."""
    left_out = METADATA if solutions else METADATA + SOLUTIONS
    texts = [text for name, value in record.items() if name not in left_out for text in _strings(value)]
    options = record.get("context_options")
    if isinstance(options, list) and all(isinstance(option, str) for option in options):
        question = _common_start(options)
    else:
        asked = next((record[name] for name in QUESTION_FIELDS if isinstance(record.get(name), str)), "")
        question = bare_question(asked)
    identity = record.get("id", record.get("task_id"))
    return BenchmarkItem(
        benchmark, f"{benchmark}/{number}" if identity is None else str(identity), tuple(texts), question
    )


def bare_question(text: str, keep_passage: bool = False) -> str:
    """What is asked, without what a prompt adds: "Question: Why?\\nChoices:\\nA. so\\nAnswer:" -> "Why?".

    A passage before the question's label is left out with it, unless `keep_passage`. Without a label, a heading such as
    "WORLD HISTORY: " is left out.
    """
    labels = [label for label in _LABEL.finditer(text) if not keep_passage or not text[: label.start()].strip()]
    heading = None if labels else _HEADING.match(text)
    start = labels[-1].end() if labels else heading.end() if heading else 0
    bare = text[start:]
    options = _OPTIONS.search(bare)
    if options:
        bare = bare[: options.start()]
    return bare.strip() or text.strip()


def _common_start(options: list[str]) -> str:
    """The words all options begin with: the sentence before the word that the options fill in."""
    words = [option.split() for option in options]
    same = 0
    for candidates in zip(*words, strict=False):
        if len(set(candidates)) > 1:
            break
        same += 1
    return " ".join(words[0][:same]) if words else ""


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _strings(element)
    elif isinstance(value, dict):
        for element in value.values():
            yield from _strings(element)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise StageError(f"benchmarks: {path} cannot be read: {error}; next: replace or remove the file") from None
