"""Conversations that contain benchmark items are left out, and counted per benchmark.

Covered      every message, of whatever role, is searched for the items' n-grams and short questions; the first user
             message is also compared with whole questions of any length
Not covered  see tasks/benchmarks/overlap.py; conversations made by rule (arithmetic and the like) are kept apart from
             evaluation by their own splits
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.chat_format import Message, message_parts
from tasks.benchmarks.items import find_benchmarks, read_items
from tasks.conversations.generators import Conversation

if TYPE_CHECKING:
    from tasks.benchmarks.overlap import NgramIndex


def index_of(folder: Path) -> "NgramIndex | None":
    """The index of all benchmark files below `folder`; None when there are none, so nothing to search for."""
    from tasks.benchmarks.overlap import NgramIndex

    return NgramIndex.build(read_items(folder)) if find_benchmarks(folder) else None


def without_benchmarks(
    conversations: Sequence[Conversation], index: "NgramIndex"
) -> tuple[list[Conversation], dict[str, Any]]:
    """The conversations that contain no item, in their order, and a report of the others.

    The report: conversations left out; how many of them each kind of turn alone would have betrayed; what was searched
    for; and per benchmark that was found the entry of `report_of`, in which documents are conversations.
    """
    import numpy as np

    from tasks._words import hash_words
    from tasks.benchmarks.overlap import Hits, find, find_questions, merge
    from tasks.benchmarks.overlap_report import report_of

    texts = [_text(message) for conversation in conversations for message in conversation.messages]
    owner = np.repeat(np.arange(len(conversations)), [len(conversation.messages) for conversation in conversations])
    first_user = _first_user_messages(conversations)
    inside = find(index, hash_words(texts))
    whole = find_questions(index, [texts[place] for place in first_user])
    whole = Hits(np.array(first_user, np.int32)[whole.document], whole.item, whole.ngrams_shared)
    hits = merge([(inside, 0), (whole, 0)])

    turns: dict[str, set[int]] = {"first_user": set(), "user": set(), "assistant": set(), "system": set()}
    roles = [message["role"] for conversation in conversations for message in conversation.messages]
    opening = set(first_user)
    for place in np.unique(hits.document).tolist():
        turns["first_user" if place in opening else roles[place]].add(int(owner[place]))
    found = set[int]().union(*turns.values())

    entries = report_of(index, hits, lambda place: (conversations[owner[place]].source, texts[place]))
    for number, name in enumerate(index.names):  # a conversation may contain one item in several turns
        own = hits.document[index.benchmark_of_item[hits.item] == number]
        entries[name]["documents"] = len(np.unique(owner[own]))
    searchable = int((index.keys_of_item > 0).sum())
    report = {
        "conversations": len(found),
        "by_turn": {name: len(of_turn) for name, of_turn in turns.items() if of_turn},
        "searched": {"benchmarks": len(entries), "items": len(index.ids), "searchable": searchable},
        "benchmarks": {name: entry for name, entry in entries.items() if entry["items_found"]},
    }
    return [conversation for number, conversation in enumerate(conversations) if number not in found], report


def _text(message: Message) -> str:
    return "\n".join(part["text"] for part in message_parts(message))


def _first_user_messages(conversations: Sequence[Conversation]) -> list[int]:
    """Places of the first user message of each conversation, among the messages of all."""
    places, start = [], 0
    for conversation in conversations:
        roles = [message["role"] for message in conversation.messages]
        if "user" in roles:
            places.append(start + roles.index("user"))
        start += len(roles)
    return places
