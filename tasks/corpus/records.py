"""What every source yields: documents, and records that could not become one."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Document(NamedTuple):
    """One text with its origin; the columns of artifacts/corpus/documents."""

    id: str
    text: str
    source: str
    """Where it was read: a module or a file, relative to its source, or what the record says."""
    domain: str
    """Group for thresholds and reports: stdlib, packages, topics, descriptions, files, or what the record says."""
    title: str
    kind: str
    """module, class, function, topic, description or file."""
    url: str | None = None
    """Address it was crawled from, where the record says."""
    licence: str | None = None
    """Licence of the text, where the record says."""


class BadRecord(NamedTuple):
    """A record that was left out, and why."""

    file: str
    line: int
    """Line or row, from 1; 0 stands for the whole file."""
    reason: str


@dataclass
class Harvest:
    """What one worker made of its share of the input."""

    documents: list[Document] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
