"""Conversations made by rule: arithmetic with the tool, small talk, spelling, system roles, several turns.

Every generator is a function of a key (text) alone: equal keys give equal conversations on every machine.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from model.chat_format import Message
from tasks.benchmarks.arithmetic import Problem, make_problem


@dataclass(frozen=True)
class Conversation:
    """Messages with their origin: `kind` is the mixture part, `source` a document id, a file with line, or a key."""

    kind: str
    source: str
    messages: tuple[Message, ...]


GREETINGS = ("Hi", "Hello", "Hey", "Hello there", "Hi there", "Good morning", "Good evening", "Good day")
GREETING_REPLY = "Hello! How can I help you?"
THANKS = ("Thanks", "Thank you", "Thank you very much", "Thanks a lot", "Great, thanks", "That helps, thank you")
THANKS_REPLY = "You are welcome."
FAREWELLS = ("Bye", "Goodbye", "See you", "See you later", "That is all, bye", "Good night")
FAREWELL_REPLY = "Goodbye!"
IDENTITY_QUESTIONS = (
    "Who are you",
    "What are you",
    "What is your name",
    "Introduce yourself",
    "Are you a human",
    "Who am I talking to",
    "Tell me about yourself",
)
IDENTITY_REPLY = "I am zero2chat, a small language model trained from scratch."
ABILITY_QUESTIONS = ("What can you do", "How can you help me", "What are you able to do", "What can I ask you")
ABILITY_REPLY = "I can calculate with a tool, spell words and answer short questions about Python."
UNKNOWABLE_QUESTIONS = (
    "What will the weather be tomorrow",
    "What is my name",
    "How old am I",
    "What did I eat yesterday",
    "Who will win the next election",
    "What time is it",
    "Where do I live",
    "What is the news today",
    "Which numbers will win the lottery",
    "What am I thinking of",
)
UNKNOWABLE_REPLY = "I do not know that."
SYSTEM_NAMES = ("Ada", "Robin", "Max", "Luna", "Iris", "Otto", "Nora", "Sam", "Vera", "Paul", "Rosa", "Theo")
SYSTEM_STYLES = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a friendly assistant. Be brief.",
    "Be polite and exact.",
    "Use the calculator for every calculation.",
)


def tool_reply(problem: Problem) -> Message:
    """The assistant's message for a problem: the call, what the tool says, one sentence with the number."""
    return {
        "role": "assistant",
        "parts": [
            {"type": "python", "text": problem.expression},
            {"type": "output", "text": problem.answer},
            {"type": "text", "text": f"The answer is {problem.answer}."},
        ],
    }


def arithmetic(key: str) -> Conversation:
    """A training problem solved with the calculator."""
    return Conversation("arithmetic", key, tuple(_arithmetic_turn(key)))


def smalltalk(key: str) -> Conversation:
    """A greeting, thanks, a farewell, a question about the assistant, or one nobody could answer."""
    return Conversation("smalltalk", key, tuple(_smalltalk_turn(random.Random(key))))


def spelling(key: str, words: Sequence[str]) -> Conversation:
    """A word spelled letter by letter."""
    draw = random.Random(key)
    word = draw.choice(words)
    question = draw.choice(
        ("Spell the word '{w}'.", "How do you spell '{w}'?", "Spell '{w}'", "Please spell {w}.", "Can you spell {w}?")
    )
    return Conversation("spelling", key, (_user(question.format(w=word)), _assistant(f"{word}: {'-'.join(word)}.")))


def system_role(key: str) -> Conversation:
    """A system message that sets a name the assistant must use, or a style in front of an ordinary exchange."""
    draw = random.Random(key)
    if draw.random() < 0.5:
        name = draw.choice(SYSTEM_NAMES)
        system = draw.choice(("Your name is {n}.", "You are {n}.", "You are called {n}. Be brief.")).format(n=name)
        turn = [_user(_typed(draw, draw.choice(("What is your name", "Who are you")))), _assistant(f"I am {name}.")]
    else:
        system = draw.choice(SYSTEM_STYLES)
        turn = _arithmetic_turn(key) if draw.random() < 0.6 else _smalltalk_turn(draw)
    return Conversation("system_role", key, ({"role": "system", "content": system}, *turn))


def dialogue(key: str, words: Sequence[str]) -> Conversation:
    """Two to four exchanges of the other kinds in one conversation."""
    draw = random.Random(key)
    messages: list[Message] = []
    if draw.random() < 0.4:
        messages += [_user(_typed(draw, draw.choice(GREETINGS))), _assistant(GREETING_REPLY)]
    for turn in range(draw.randint(1, 3)):
        kind = draw.random()
        turn_key = f"{key}/turn{turn}"
        if kind < 0.7:
            messages += _arithmetic_turn(turn_key)
        elif kind < 0.85:
            messages += spelling(turn_key, words).messages if words else _arithmetic_turn(turn_key)
        else:
            messages += _smalltalk_turn(draw)
    if draw.random() < 0.3 or len(messages) < 4:
        messages += [_user(_typed(draw, draw.choice(THANKS))), _assistant(THANKS_REPLY)]
    return Conversation("dialogue", key, tuple(messages))


def _arithmetic_turn(key: str) -> list[Message]:
    problem = make_problem(key, "train", "train")
    return [_user(problem.question), tool_reply(problem)]


def _smalltalk_turn(draw: random.Random) -> list[Message]:
    asked, reply = draw.choice(
        (
            (GREETINGS, GREETING_REPLY),
            (THANKS, THANKS_REPLY),
            (FAREWELLS, FAREWELL_REPLY),
            (IDENTITY_QUESTIONS, IDENTITY_REPLY),
            (IDENTITY_QUESTIONS, IDENTITY_REPLY),
            (ABILITY_QUESTIONS, ABILITY_REPLY),
            (UNKNOWABLE_QUESTIONS, UNKNOWABLE_REPLY),
        )
    )
    return [_user(_typed(draw, draw.choice(asked))), _assistant(reply)]


def _typed(draw: random.Random, text: str) -> str:
    """The text with an end mark and capital letters as people type them."""
    question = text.split()[0].lower() in ("who", "what", "how", "are", "which", "where")
    text += draw.choice(("?", "?", "?", "", "??") if question else (".", "!", "", ""))
    return text.lower() if draw.random() < 0.3 else text


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
