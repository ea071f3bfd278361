"""Arithmetic problems: right answers, splits that do not leak, answers read exactly."""

import pytest

from model.engine.calculator import evaluate
from tasks.benchmarks import arithmetic_phrasings as phrasings
from tasks.benchmarks.arithmetic import expressions_in, final_number, is_correct, is_held_out, make_problem

KEYS = [f"test/{number}" for number in range(1500)]


@pytest.fixture(scope="module")
def train():
    return [make_problem(key, "train", "train") for key in KEYS]


@pytest.fixture(scope="module")
def held_out():
    return [make_problem(key, "held_out", "held_out") for key in KEYS]


def test_answers_are_what_the_calculator_says(train, held_out):
    for problem in train + held_out:
        assert problem.answer == evaluate(problem.expression)


def test_questions_name_the_operands_of_the_expression(train, held_out):
    """Catches forms that swap or lose an operand, such as 'subtract b from a' written the wrong way round."""
    for problem in train + held_out:
        assert all(str(number) in problem.question for number in problem.operands)
        assert sorted(int(n) for n in _integers(problem.question)) == sorted(problem.operands)
    swapped = [p for p in train if "subtract" in p.question.lower()]
    assert swapped
    for problem in swapped:
        second, first = _integers(problem.question)
        assert problem.expression == f"{first}-{second}"


def test_splits_share_neither_numbers_nor_sentences(train, held_out):
    """The promise behind the benchmark: a held-out problem has numbers and a frame that no training problem has."""
    assert not {tuple(sorted(p.operands)) for p in train} & {tuple(sorted(p.operands)) for p in held_out}
    assert not {p.phrasing for p in train} & {p.phrasing for p in held_out}
    assert not {p.question.lower() for p in train} & {p.question.lower() for p in held_out}
    for table in (phrasings.NOUN_FRAMES, phrasings.VERB_FRAMES):
        assert not set(table["train"]) & set(table["held_out"])


def test_split_of_operands_ignores_their_order():
    """Catches 3+4 in training and 4+3 in the test."""
    assert all(is_held_out((a, b)) == is_held_out((b, a)) for a in range(40) for b in range(40))
    share = sum(is_held_out((a, b)) for a in range(100) for b in range(100)) / 10_000
    assert 0.05 < share < 0.2


def test_every_kind_of_problem_occurs(train):
    for text in ("+", "-", "*", "/", "("):
        assert any(text in problem.expression for problem in train)
    assert any(len(problem.operands) == 3 for problem in train)
    assert any("each" in problem.question.lower() for problem in train)
    assert len({problem.phrasing for problem in train}) > 60


def test_equal_keys_give_equal_problems():
    assert make_problem("k", "train", "train") == make_problem("k", "train", "train")
    assert make_problem("k", "train", "train") != make_problem("l", "train", "train")


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("The answer is 46.", "46", True),
        ("12 + 34 is 46", "46", True),
        ("46 is not it, 47 is", "46", False),
        ("The answer is -3.", "-3", True),
        ("The answer is 3.", "-3", False),
        ("The answer is 0.50.", "0.5", True),
        ("The answer is 460.", "46", False),
        ("I do not know.", "46", False),
        ("", "46", False),
    ],
)
def test_only_the_exact_last_number_counts(reply, answer, right):
    assert is_correct(reply, answer) is right


def test_final_number_is_the_last_one():
    assert final_number("first 1, then 2.5.") == "2.5"
    assert final_number("none") is None


def test_expressions_are_found_in_text():
    assert expressions_in("see 12 + 34, or 5x6; (1+2) * 3, but not 7") == {"12+34", "5*6", "(1+2)*3"}


def _integers(text):
    import re

    return re.findall(r"\d+", text)
