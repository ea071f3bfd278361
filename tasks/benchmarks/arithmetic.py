"""Arithmetic problems with verifiable answers, for training conversations, reinforcement and evaluation alike.

Two independent splits keep training and testing apart: operands (by hash of the set of numbers, whatever the operator)
and phrasings (by list). A held-out problem has numbers and a sentence that no training problem has.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from model.engine.calculator import evaluate
from tasks.benchmarks import arithmetic_phrasings as phrasings

Split = Literal["train", "held_out"]

HELD_OUT_ONE_IN = 10
"""One set of operands in this many is held out."""

WORD_PROBLEM_SHARE = 0.12
VERB_FORM_SHARE = 0.15
NOUN_FORM_SHARE = 0.12
THREE_OPERAND_SHARE = 0.20

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_EXPRESSION_IN_TEXT = re.compile(r"\(?\d+(?:\s*[-+*/x]\s*\(?\d+\)?)+")


@dataclass(frozen=True)
class Problem:
    """One problem. `expression` is what the calculator is asked for, `answer` what it says."""

    question: str
    expression: str
    answer: str
    operands: tuple[int, ...]
    phrasing: str
    """The frame the question was made from."""


def is_held_out(operands: tuple[int, ...]) -> bool:
    """Whether these numbers, in any order and under any operator, belong to the test split."""
    text = ",".join(str(number) for number in sorted(operands))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % HELD_OUT_ONE_IN == 0


def make_problem(key: str, operands: Split, phrasing: Split) -> Problem:
    """The problem that `key` stands for; equal keys give equal problems on every machine."""
    draw = random.Random(key)
    while True:
        numbers, operators = _draw_numbers(draw)
        if is_held_out(numbers) == (operands == "held_out"):
            break
    if len(numbers) == 3:
        expression, form = _three_operands(draw, numbers, operators)
        question, frame = _frame(draw, form, phrasing)
    else:
        expression = f"{numbers[0]}{operators[0]}{numbers[1]}"
        question, frame = _two_operands(draw, numbers, operators[0], phrasing)
    answer = evaluate(expression)
    if answer is None:  # our own promise: every problem drawn is within the calculator's limits
        raise AssertionError(f"calculator refused generated expression {expression!r}")
    return Problem(_dress(draw, question, phrasing), expression, answer, numbers, frame)


def final_number(text: str) -> str | None:
    """The last number in a reply, which is taken as its answer; None if it has none."""
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def is_correct(reply: str, answer: str) -> bool:
    """Whether the last number of the reply equals the answer exactly, as a decimal."""
    found = final_number(reply)
    try:
        return found is not None and Decimal(found) == Decimal(answer)
    except InvalidOperation:
        return False


def expressions_in(text: str) -> set[str]:
    """Every arithmetic expression written in symbols in a text, without spaces and with * for x."""
    return {re.sub(r"\s", "", found).replace("x", "*") for found in _EXPRESSION_IN_TEXT.findall(text)}


def _draw_numbers(draw: random.Random) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Operands of one to four digits and the operators between them."""
    if draw.random() < THREE_OPERAND_SHARE:
        numbers = tuple(_integer(draw, 3) for _ in range(3))
        return numbers, tuple(draw.choice("+-*") for _ in range(2))
    operator = draw.choice("+-*/")
    if operator == "/":
        divisor = max(1, _integer(draw, 3))
        if draw.random() < 0.7:
            return (divisor * _integer(draw, 4 - len(str(divisor)) or 1), divisor), ("/",)
        return (_integer(draw, 4), divisor), ("/",)
    return (_integer(draw, 4), _integer(draw, 4)), (operator,)


def _integer(draw: random.Random, digits: int) -> int:
    """A number whose length in digits is drawn first, so that short and long ones are equally frequent."""
    return draw.randrange(10 ** draw.randint(1, digits))


def _three_operands(draw: random.Random, numbers: tuple[int, ...], operators: tuple[str, ...]) -> tuple[str, str]:
    """The expression and a form of it to be put in a frame: flat, or with parentheses on either side."""
    a, b, c = numbers
    first, second = operators
    shape = draw.choice(("flat", "flat", "left", "right"))
    expression = {
        "flat": f"{a}{first}{b}{second}{c}",
        "left": f"({a}{first}{b}){second}{c}",
        "right": f"{a}{first}({b}{second}{c})",
    }[shape]
    if shape == "flat" and draw.random() < 0.4:
        first, second = (draw.choice(phrasings.OPERATOR_WORDS[operator]) for operator in operators)
        return expression, f"{a} {first} {b} {second} {c}"
    if draw.random() < 0.25:
        return expression, expression
    spaced = {
        "flat": f"{a} {first} {b} {second} {c}",
        "left": f"({a} {first} {b}) {second} {c}",
        "right": f"{a} {first} ({b} {second} {c})",
    }[shape]
    return expression, spaced


def _two_operands(draw: random.Random, numbers: tuple[int, ...], operator: str, phrasing: Split) -> tuple[str, str]:
    values = {"a": numbers[0], "b": numbers[1]}
    kind = draw.random()
    if kind < WORD_PROBLEM_SHARE:
        frame = draw.choice(phrasings.WORD_PROBLEMS[phrasing][operator])
        return frame.format(**values, name=draw.choice(phrasings.NAMES), things=draw.choice(phrasings.THINGS)), frame
    if kind < WORD_PROBLEM_SHARE + VERB_FORM_SHARE:
        frame = draw.choice(phrasings.VERB_FRAMES[phrasing])
        return frame.format(v=draw.choice(phrasings.VERB_FORMS[operator]).format(**values)), frame
    if kind < WORD_PROBLEM_SHARE + VERB_FORM_SHARE + NOUN_FORM_SHARE:
        form = draw.choice(phrasings.NOUN_FORMS[operator]).format(**values)
    else:
        word = draw.choice(phrasings.OPERATOR_WORDS[operator])
        gap = "" if word in "+-*/x" and draw.random() < 0.25 else " "
        form = f"{values['a']}{gap}{word}{gap}{values['b']}"
    return _frame(draw, form, phrasing)


def _frame(draw: random.Random, form: str, phrasing: Split) -> tuple[str, str]:
    frame = draw.choice(phrasings.NOUN_FRAMES[phrasing])
    return frame.format(e=form), frame


def _dress(draw: random.Random, question: str, phrasing: Split) -> str:
    """Opener, closer, capital letters and end marks, as people type them."""
    if draw.random() < 0.3:
        question = question.rstrip("?.") + draw.choice(("", "?", ".", "!", " ?"))
    opener = draw.choice(phrasings.OPENERS[phrasing])
    closer = draw.choice(phrasings.CLOSERS[phrasing])
    if closer and question[-1] not in "?.!":
        question += "."
    case = draw.random()
    if (not opener or opener.endswith(("! ", ". ", ": "))) and case < 0.7:
        question = question[0].upper() + question[1:]
    text = opener + question + closer
    if 0.7 <= case < 0.9:
        return text.lower()
    return text.upper() if case >= 0.97 else text
