"""Is an evaluation item in the training data? Counts and names every one that is.

Covered      questions and expressions of arithmetic items in the conversations of midtrain, sft and rl; the same
             expressions, written in symbols, in the training documents; names and descriptions of held-out objects in
             conversations; whole held-out documents among the training documents
Elsewhere    items whose description or expression occurs in training documents are left out when the benchmarks are
             made, and named in the report beside these findings
Not covered  paraphrases, and expressions written in words in the training documents
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.benchmarks.arithmetic import Problem
from tasks.benchmarks.multiple_choice import Item
from tasks.benchmarks.normal import normal, normal_expression

LISTED = 20
"""Items named per finding; all are counted."""


@dataclass
class Findings:
    """Item texts found, by where they were found."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, items: Iterable[str]) -> None:
        self.found[where] = sorted(set(items))

    def as_json(self) -> dict[str, Any]:
        return {where: {"count": len(items), "items": items[:LISTED]} for where, items in self.found.items()}

    @property
    def total(self) -> int:
        return sum(len(items) for items in self.found.values())


@dataclass(frozen=True)
class Trained:
    """What training conversations contain, in the forms that are compared."""

    questions: frozenset[str]
    expressions: frozenset[str]
    text: str
    """All user and assistant text, normalised, one message a line."""
    sources: frozenset[str]
    """Ids of the documents conversations were made from."""


def read_trained(conversations: Sequence[Path], problems: Sequence[Path]) -> Trained:
    """From conversations.parquet of midtrain and sft, and problems.jsonl of rl."""
    import polars as pl

    questions: set[str] = set()
    expressions: set[str] = set()
    texts: set[str] = set()
    sources: set[str] = set()
    for path in conversations:
        table = pl.read_parquet(path, columns=["source", "messages"])
        sources.update(table["source"])
        for text in table["messages"]:
            for message in json.loads(text):
                if message["role"] == "user":
                    questions.add(normal(message["content"]))
                for part in message.get("parts", []):
                    if part["type"] == "python":
                        expressions.add(normal_expression(part["text"]))
                texts.add(normal(message.get("content") or ""))
    for path in problems:
        for line in path.read_text(encoding="utf-8").splitlines():
            problem = json.loads(line)
            questions.add(normal(problem["question"]))
            expressions.add(normal_expression(problem["expression"]))
    return Trained(frozenset(questions), frozenset(expressions), "\n".join(sorted(texts)), frozenset(sources))


def check(
    problems: Sequence[Problem],
    items: Sequence[Item],
    trained: Trained,
    train_documents: Collection[str],
    val_documents: Sequence[tuple[str, str]],
    written: Collection[str],
) -> Findings:
    """Every evaluation item that training has seen.

    `train_documents` are normal texts (see `normal`), at least those that held-out documents equal; `val_documents` are
    pairs of id and normal text, `written` the expressions of the training documents (see training_text.py).
    """
    findings = Findings()
    known = set(train_documents)
    findings.add(
        "held-out documents equal to a training document", (id_ for id_, text in val_documents if text in known)
    )
    findings.add(
        "arithmetic questions in conversations",
        (p.question for p in problems if normal(p.question) in trained.questions),
    )
    findings.add(
        "arithmetic expressions in conversations",
        (p.expression for p in problems if normal_expression(p.expression) in trained.expressions),
    )
    findings.add(
        "arithmetic expressions in training documents",
        (p.expression for p in problems if normal_expression(p.expression) in written),
    )
    findings.add(
        "held-out descriptions in conversations",
        (item.object.name for item in items if normal(item.object.description) in trained.text),
    )
    asked = {word.strip("?.!()'\",") for question in trained.questions for word in question.split(" ")}
    named = [item.object for item in items if "." in item.object.name and item.object.name.lower() in asked]
    made_from = [
        item.object for item in items if item.object.id in trained.sources
    ]  # undotted names may be plain words
    findings.add("held-out names in conversations", (found.name for found in [*named, *made_from]))
    return findings
