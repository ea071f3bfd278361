"""Conversations made by rule: well-formed, deterministic, and free of held-out problems."""

import subprocess
import sys

from model.chat_format import validate_messages, visible_text
from model.engine.calculator import evaluate
from tasks.benchmarks.arithmetic import is_correct, is_held_out
from tasks.conversations import generators

WORDS = ["return", "value", "list"]
MAKERS = {
    "arithmetic": generators.arithmetic,
    "smalltalk": generators.smalltalk,
    "system_role": generators.system_role,
    "spelling": lambda key: generators.spelling(key, WORDS),
    "dialogue": lambda key: generators.dialogue(key, WORDS),
}


def conversations(count=200):
    return [make(f"t/{kind}/{number}") for kind, make in MAKERS.items() for number in range(count)]


def test_all_conversations_are_valid_and_end_with_the_assistant():
    made = conversations()
    assert {conversation.kind for conversation in made} == set(MAKERS)
    for conversation in made:
        validate_messages(conversation.messages)
        assert conversation.messages[-1]["role"] == "assistant"


def test_tool_calls_are_right_and_answered_with_the_number():
    calls = 0
    for conversation in conversations():
        for message in conversation.messages:
            if "parts" in message:
                call, output, _ = message["parts"]
                assert evaluate(call["text"]) == output["text"]
                assert is_correct(visible_text(message), output["text"])
                calls += 1
    assert calls > 300


def test_no_conversation_holds_a_held_out_problem():
    """Catches a generator that draws test operands: the arithmetic score would measure memory."""
    import re

    for conversation in conversations():
        for message in conversation.messages:
            for part in message.get("parts", []):
                if part["type"] == "python":
                    assert not is_held_out(tuple(int(number) for number in re.findall(r"\d+", part["text"])))


def test_words_are_spelled_letter_by_letter():
    reply = generators.spelling("k", ["tree"]).messages[-1]["content"]
    assert reply == "tree: t-r-e-e."


def test_a_name_given_by_the_system_is_used():
    named = [
        c for c in conversations() if c.kind == "system_role" and c.messages[-1].get("content", "").startswith("I am")
    ]
    named = [c for c in named if "zero2chat" not in c.messages[-1]["content"]]
    assert named
    for conversation in named:
        name = conversation.messages[-1]["content"].removeprefix("I am ").rstrip(".")
        assert name in conversation.messages[0]["content"]


def test_dialogues_have_several_exchanges():
    lengths = {len(c.messages) for c in conversations() if c.kind == "dialogue"}
    assert min(lengths) >= 4
    assert max(lengths) >= 8


def test_conversations_do_not_depend_on_the_hash_seed():
    """Catches choices that follow set or dict order, which differ from process to process."""
    program = (
        "from tasks.conversations import generators as g;"
        "print([g.dialogue(f'k{i}', ['one', 'two']).messages for i in range(20)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
