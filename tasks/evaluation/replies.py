"""Benchmarks that let a chat checkpoint speak: arithmetic with the tool, and the form of its replies."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.chat_format import Message, render_prompt
from tasks.benchmarks.arithmetic import Problem, is_correct, make_problem
from tasks.benchmarks.documentation import DocumentedObject, ask
from tasks.benchmarks.intervals import Score, share
from tasks.benchmarks.normal import normal_expression

if TYPE_CHECKING:
    from model.engine.engine import Engine
    from model.engine.row import Completion

PLAIN_PROMPTS = (  # worded unlike the training conversations
    "Good afternoon!",
    "Hi, who is this?",
    "Could you introduce yourself?",
    "What sort of things can you help with?",
    "Thank you so much!",
    "See you tomorrow",
    "What will I have for lunch?",
    "Write a poem about the sea.",
    "Spell the word 'function', please.",
    "How is 'number' spelled?",
)


@dataclass(frozen=True)
class Prompt:
    """A conversation to be continued. `problem` is set when there is one right answer."""

    kind: str
    messages: tuple[Message, ...]
    problem: Problem | None = None


@dataclass(frozen=True)
class Reply:
    """A prompt with what the model made of it."""

    prompt: Prompt
    text: str
    tool_calls: tuple[tuple[str, str | None], ...]
    ends_properly: bool


def arithmetic_prompts(count: int, seed: int, written: Collection[str] = frozenset()) -> tuple[list[Prompt], list[str]]:
    """Problems whose numbers and whose sentence no training problem has; no question twice. Also the expressions left
    out because they are `written` (in normal form) in training documents, such as 8+3."""
    prompts: dict[str, Prompt] = {}
    left_out: list[str] = []
    number = 0
    while len(prompts) < count:
        problem = make_problem(f"{seed}/evaluation/{number}", "held_out", "held_out")
        number += 1
        if normal_expression(problem.expression) in written:
            left_out.append(problem.expression)
            continue
        message = {"role": "user", "content": problem.question}
        prompts.setdefault(problem.question, Prompt("arithmetic", (message,), problem))
    return list(prompts.values()), left_out


def form_prompts(count: int, held_out: Sequence[DocumentedObject], seed: int) -> list[Prompt]:
    """Prompts to see how replies end: questions about held-out objects and small talk worded anew, one half each if
    there are enough objects; small talk also comes behind a system message."""
    draw = random.Random(f"{seed}/form")
    objects = draw.sample(list(held_out), min(count // 2, len(held_out)))
    prompts = [
        Prompt("documentation", ({"role": "user", "content": ask(chosen, "held_out", place)},))
        for place, chosen in enumerate(objects)
    ]
    variants = [(text, system) for system in (None, "You are called Eva.", "Be brief.") for text in PLAIN_PROMPTS]
    for text, system in variants[: max(0, count - len(prompts))]:
        before: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
        prompts.append(Prompt("smalltalk", (*before, {"role": "user", "content": text})))
    return prompts


def generate(engine: "Engine", prompts: Sequence[Prompt], max_tokens: int) -> list[Reply]:
    """Greedy replies, in the order of the prompts; prompts without room for a reply raise ValueError."""
    from model.engine.sampling import Sampling

    tokenizer = engine.tokenizer
    ids = [render_prompt(tokenizer, prompt.messages) for prompt in prompts]
    completions = engine.generate_batch(ids, Sampling(temperature=0.0, max_tokens=max_tokens))
    return [
        Reply(prompt, samples[0].text, tuple(samples[0].tool_calls), ends_properly(samples[0], tokenizer))
        for prompt, samples in zip(prompts, completions, strict=True)
    ]


def ends_properly(completion: "Completion", tokenizer: Any) -> bool:
    """Whether a reply ends with <|assistant_end|> within its budget, and the special tokens before it form complete
    tool calls only: no turn marks, no call left open, none written into the visible text."""
    open_id, close_id = tokenizer.special_id("<|python_start|>"), tokenizer.special_id("<|python_end|>")
    first_special = min(tokenizer.special_id("<|bos|>"), open_id)
    ids = completion.ids
    if completion.finish_reason != "stop" or not ids or ids[-1] != tokenizer.special_id("<|assistant_end|>"):
        return False
    is_open = False
    for number, forced in zip(ids[:-1], completion.forced_mask, strict=False):
        if forced or number < first_special:
            continue
        if number not in (open_id, close_id) or (number == open_id) == is_open:
            return False
        is_open = not is_open
    return not is_open and "<|" not in completion.text


def score_arithmetic(replies: Sequence[Reply]) -> dict[str, Score]:
    """arithmetic: the reply's last number is the answer; tool_call: exactly one call, of the right expression."""
    right = [reply for reply in replies if reply.prompt.problem and is_correct(reply.text, reply.prompt.problem.answer)]
    called = [
        reply
        for reply in replies
        if reply.prompt.problem and [call[0] for call in reply.tool_calls] == [reply.prompt.problem.expression]
    ]
    return {"arithmetic": share(len(right), len(replies)), "tool_call": share(len(called), len(replies))}


def score_form(replies: Sequence[Reply]) -> Score:
    """Share of all replies that end properly."""
    return share(sum(reply.ends_properly for reply in replies), len(replies))


def as_json(stage: str, reply: Reply) -> dict[str, Any]:
    """One line of samples.jsonl."""
    problem = reply.prompt.problem
    return {
        "checkpoint": stage,
        "kind": reply.prompt.kind,
        "messages": list(reply.prompt.messages),
        "reply": reply.text,
        "tool_calls": [list(call) for call in reply.tool_calls],
        "ends_properly": reply.ends_properly,
        **({"answer": problem.answer, "correct": is_correct(reply.text, problem.answer)} if problem else {}),
    }
