"""Builds the conversations of a mixture and renders them; nothing is cropped, whatever is dropped is counted."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.chat_format import Message, render
from tasks._errors import StageError
from tasks.benchmarks.documentation import DocumentedObject, ask, read_documents, read_objects
from tasks.conversations import generators
from tasks.conversations.generators import Conversation
from tasks.conversations.jsonl import read_conversations
from tasks.conversations.mixture import Mixture, Part

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer
    from tasks.benchmarks.overlap import NgramIndex

COUNTED_BYTES = 100_000_000
"""Text whose words are counted; the most frequent ones do not change with more."""
SPELLING_WORDS = 300
"""This many of the most frequent words of the training documents serve for spelling: few enough to recur."""
HOPELESS_DROPS = 1000


@dataclass(frozen=True)
class Rendered:
    """A conversation (or the piece of one that fits a row) with its ids and mask."""

    conversation: Conversation
    ids: list[int]
    mask: list[int]


@dataclass
class PartReport:
    """Counts of one part of the mixture."""

    conversations: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    split_conversations: int = 0
    """Conversations longer than a row that were split between turns."""
    exchanges_left_out: int = 0
    """Exchanges of those that are longer than a row themselves."""
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_samples: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """Where conversations are made from. `chat_folder` and `benchmarks` are asked for only when a part reads files."""

    documents: Path
    splits: Path
    chat_folder: Callable[[], Path]
    benchmarks: Callable[[], "NgramIndex | None"] = lambda: None
    """Items that conversations from files must not contain; None = there are none."""


def build(
    mixture: Mixture, sources: Sources, tokenizer: "Tokenizer", tokens_per_row: int
) -> tuple[list[Rendered], dict[str, PartReport]]:
    """All rendered conversations of the mixture, in the order of its parts, and a report per part.

    A rendered piece has at most tokens_per_row + 1 ids. Deterministic in (mixture, sources, tokenizer).
    """
    rendered: list[Rendered] = []
    reports: dict[str, PartReport] = {}
    words = _frequent_words(sources) if any(p.kind in ("spelling", "dialogue") for p in mixture.parts) else []
    for part in mixture.parts:
        report = reports[part.name] = PartReport()
        budget = mixture.tokens_of(part)
        for conversation in _stream(part, mixture.seed, sources, words, report):
            finished = report.conversations >= part.count if part.count is not None else report.tokens >= budget
            if finished:
                break
            pieces = fit(conversation, tokenizer, tokens_per_row, report)
            rendered.extend(pieces)
            report.conversations += bool(pieces)
            report.tokens += sum(len(piece.ids) for piece in pieces)
            report.supervised_tokens += sum(sum(piece.mask[1:]) for piece in pieces)
            if sum(report.dropped.values()) > HOPELESS_DROPS and not report.conversations:
                break  # an endless part none of whose conversations fits a row
        if not report.conversations and (part.count or budget):
            raise StageError(
                f"mixture part '{part.name}' gave no conversation (dropped: {dict(report.dropped)}); next: remove the "
                f"part, or give it sources (documentation and spelling need documents in the training split)"
            )
    return rendered, reports


def fit(conversation: Conversation, tokenizer: "Tokenizer", tokens_per_row: int, report: PartReport) -> list[Rendered]:
    """The conversation as pieces of at most tokens_per_row + 1 ids, split between exchanges; [] if none of it fits.

    Every piece starts with the system message, if there is one, and holds at least one supervised token. An exchange
    that is longer than a row is left out and counted; what comes before and after it stays.
    """
    room = tokens_per_row + 1
    ids, mask = render(tokenizer, conversation.messages)
    if len(ids) <= room:
        if not any(mask[1:]):
            return _drop(conversation, "nothing to learn from", report)
        return [Rendered(conversation, ids, mask)]
    pieces, left_out = _split(conversation, tokenizer, room)
    if not pieces:
        return _drop(conversation, "no exchange fits a row", report)
    report.split_conversations += 1
    report.exchanges_left_out += left_out
    return pieces


def _split(conversation: Conversation, tokenizer: "Tokenizer", room: int) -> tuple[list[Rendered], int]:
    """Pieces of as many exchanges as fit `room` ids, and how many exchanges are in none of them."""
    system, turns = _system_and_turns(conversation.messages)
    exchanges = [turns[start : start + 2] for start in range(0, len(turns), 2)]
    pieces: list[Rendered] = []
    left_out = start = 0
    while start < len(exchanges):
        ids, mask = render(tokenizer, (*system, *exchanges[start]))
        end = start + 1
        while end < len(exchanges) and len(ids) <= room:
            more_ids, more_mask = render(tokenizer, exchanges[end])
            if len(ids) + len(more_ids) - 1 > room:  # the BOS of `more` is not taken over
                break
            ids, mask, end = ids + more_ids[1:], mask + more_mask[1:], end + 1
        if len(ids) <= room and any(mask[1:]):
            messages = (*system, *(message for exchange in exchanges[start:end] for message in exchange))
            pieces.append(Rendered(Conversation(conversation.kind, conversation.source, messages), ids, mask))
        else:
            left_out += end - start
        start = end
    return pieces, left_out


def _system_and_turns(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    return (messages[:1], messages[1:]) if messages[0]["role"] == "system" else ((), messages)


def _drop(conversation: Conversation, reason: str, report: PartReport) -> list[Rendered]:
    report.dropped[reason] += 1
    if report.dropped[reason] <= 3:
        report.dropped_samples.append(f"{conversation.source}: {reason}")
    return []


def _stream(part: Part, seed: int, sources: Sources, words: list[str], report: PartReport) -> Iterator[Conversation]:
    """Conversations of one part: endless for those made by rule, in passes for documentation, finite for files."""
    if part.kind == "jsonl":
        conversations, read = read_conversations(
            sources.chat_folder(), part.glob or "", part.max_bad_fraction, seed, sources.benchmarks()
        )
        report.notes |= {"lines": read.read, "bad": dict(read.bad), "samples": read.samples}
        report.notes |= {"available": len(conversations), "trimmed_user_turns": read.trimmed_user_turns}
        report.notes |= {"contaminated": read.contaminated} if read.contaminated else {}
        yield from conversations
    elif part.kind == "documentation":
        yield from _documentation(read_objects(sources.documents, sources.splits, "train"), seed, report)
    elif part.kind == "spelling":
        yield from (generators.spelling(f"{seed}/spelling/{n}", words) for n in _numbers(bool(words)))
    elif part.kind == "dialogue":
        yield from (generators.dialogue(f"{seed}/dialogue/{n}", words) for n in _numbers())
    else:
        make = {
            "arithmetic": generators.arithmetic,
            "smalltalk": generators.smalltalk,
            "system_role": generators.system_role,
        }[part.kind]
        yield from (make(f"{seed}/{part.kind}/{n}") for n in _numbers())


def _numbers(possible: bool = True) -> Iterator[int]:
    number = 0
    while possible:
        yield number
        number += 1


def _documentation(objects: list[DocumentedObject], seed: int, report: PartReport) -> Iterator[Conversation]:
    """Every object once per pass, each pass in another order and with the next way to ask about it.

    The standard library comes first: when the token budget ends a pass early, those are the objects people ask about.
    """
    report.notes["objects"] = len(objects)
    for number in _numbers(bool(objects)):
        report.notes["passes"] = number + 1
        draw = random.Random(f"{seed}/documentation/{number}")
        order = draw.sample(range(len(objects)), len(objects))
        for place in sorted(order, key=lambda place: objects[place].domain != "stdlib"):
            chosen = objects[place]
            question = ask(chosen, "train", place + number)
            if draw.random() < 0.15:
                question = question.lower() if chosen.name.islower() else question.rstrip("?.")
            messages = ({"role": "user", "content": question}, {"role": "assistant", "content": chosen.description})
            yield Conversation("documentation", chosen.id, messages)


def _frequent_words(sources: Sources) -> list[str]:
    """Lower-case words of 3 to 9 letters, most frequent in the training documents first; ties by alphabet."""
    counts: Counter[str] = Counter()
    for row in read_documents(sources.documents, sources.splits, "train", max_bytes=COUNTED_BYTES):
        counts.update(word for word in row["text"].split() if 3 <= len(word) <= 9 and word.isascii() and word.islower())
    ranked = sorted(((-count, word) for word, count in counts.items() if word.isalpha()))
    return [word for _, word in ranked[:SPELLING_WORDS]]
