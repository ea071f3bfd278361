"""Conversations from JSON Lines files: one {"messages": [{"role", "content"}, ...]} a line; other keys are ignored.

Bad lines are counted by reason, sampled with file and line, and fail the stage when there are too many of them.
`.jsonl` and `.jsonl.gz` are read. A user turn at the end has no reply to learn from and is cut off (counted).
Conversations that contain benchmark items are left out (counted per benchmark).
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.chat_format import validate_messages
from tasks._errors import StageError
from tasks.conversations.decontamination import without_benchmarks
from tasks.conversations.generators import Conversation

if TYPE_CHECKING:
    from tasks.benchmarks.overlap import NgramIndex

SAMPLES_PER_REASON = 3


@dataclass
class JsonlReport:
    """What was read: good and bad lines, bad ones by reason with a few samples of the form file:line: message."""

    read: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    trimmed_user_turns: int = 0
    samples: list[str] = field(default_factory=list)
    contaminated: dict[str, Any] | None = None
    """Conversations left out for benchmark items (see `without_benchmarks`); None when none were searched for."""


def read_conversations(
    folder: Path, pattern: str, max_bad_fraction: float, seed: int, benchmarks: "NgramIndex | None" = None
) -> tuple[list[Conversation], JsonlReport]:
    """All good conversations of the files that match that contain no item of `benchmarks`, in an order drawn from
    `seed`.

    StageError when no file matches, when none holds a conversation or all contain items, or when more than
    `max_bad_fraction` of the lines are bad.
    """
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not files:
        raise StageError(
            f"mixture: glob {pattern!r} matches no file below {folder}; next: put .jsonl files there or correct it"
        )
    report, conversations = JsonlReport(), []
    for path in files:
        for where, line in _lines(path):
            report.read += 1
            try:
                messages, trimmed = parse_line(line)
            except ValueError as error:
                reason = str(error).split(":")[0] if isinstance(error, json.JSONDecodeError) else "not a conversation"
                _count_bad(report, reason, f"{where}: {error}")
                continue
            report.trimmed_user_turns += trimmed
            conversations.append(Conversation("jsonl", where, tuple(messages)))
    bad = sum(report.bad.values())
    if bad > max_bad_fraction * report.read or not conversations:
        raise StageError(
            f"mixture: glob {pattern!r}: {bad} of {report.read} lines are bad; allowed: "
            f"{max_bad_fraction:.1%} (max_bad_fraction), and at least one good line; for example\n  "
            + "\n  ".join(report.samples)
            + "\nnext: correct these lines, or raise max_bad_fraction if losing them is acceptable"
        )
    if benchmarks is not None:
        found = len(conversations)
        conversations, report.contaminated = without_benchmarks(conversations, benchmarks)
        if not conversations:
            raise StageError(
                f"mixture: glob {pattern!r}: all {found} conversations contain benchmark items "
                f"({', '.join(report.contaminated['benchmarks'])}); next: train on other conversations, or take these "
                f"benchmarks out of data/benchmarks and do not evaluate on them"
            )
    random.Random(f"{seed}:{pattern}").shuffle(conversations)
    return conversations, report


def parse_line(line: bytes) -> tuple[list[dict[str, Any]], int]:
    """The messages of one line and the number of user turns cut off its end; ValueError says what is wrong."""
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
        raise ValueError('found no list under "messages"; allowed: {"messages": [{"role": ..., "content": ...}, ...]}')
    messages = record["messages"]
    validate_messages(messages)
    trimmed = 0
    if messages[-1]["role"] == "user":
        messages, trimmed = messages[:-1], 1
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("holds no assistant message; allowed: at least one reply to learn from")
    return messages, trimmed


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name}:{number}", line
    except (OSError, EOFError) as error:
        raise StageError(f"mixture: {path} cannot be read: {error}; next: replace or remove the file") from None


def _count_bad(report: JsonlReport, reason: str, sample: str) -> None:
    report.bad[reason] += 1
    if report.bad[reason] <= SAMPLES_PER_REASON:
        report.samples.append(sample[:300])
