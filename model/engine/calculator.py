"""The calculator behind <|python_start|>: arithmetic on decimal numbers, by a parser of our own.

Covered      digits 0-9, a decimal point, + - * /, unary signs, parentheses, spaces; exact rational arithmetic
Not covered  names, calls, powers, // and %, exponents (1e9), digits of other scripts: all refused by returning None
Bounds       length of the expression, depth of nesting, size of every intermediate value; they bound time and memory
"""

import re
from decimal import Context, Decimal
from fractions import Fraction

MAX_CHARACTERS = 200
MAX_DEPTH = 20
"""Parentheses and unary signs open at once."""
MAX_BITS = 256
"""Size of the numerator and of the denominator of every intermediate value."""
SIGNIFICANT_DIGITS = 10
"""Digits of a decimal that are shown when they are the whole value."""
ROUNDED_DIGITS = 6
"""Digits shown of a value with more of them, such as 8/9; two decimals at least. A long run of equal digits says no
more to a reader, and a small model that copies it loses count."""

_TOKEN = re.compile(r"[ ]*([0-9]+(?:\.[0-9]*)?|\.[0-9]+|[-+*/()])[ ]*")


class _RefusedError(Exception):
    """The expression is not arithmetic we are willing to do."""


def evaluate(expression: str) -> str | None:
    """The value of an arithmetic expression as text, or None when it is refused.

    Integers are shown in full, decimals of at most `SIGNIFICANT_DIGITS` exactly; anything else is rounded to
    `ROUNDED_DIGITS`. Always the shortest plain decimal, without an exponent.
    """
    if len(expression) > MAX_CHARACTERS:
        return None
    try:
        tokens = _tokenise(expression)
        value, position = _sum(tokens, 0, 0)
        if position != len(tokens):
            return None
    except _RefusedError:
        return None
    return _text(value)


def _tokenise(expression: str) -> list[str]:
    tokens, position = [], 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise _RefusedError
        tokens.append(match[1])
        position = match.end()
    return tokens


def _sum(tokens: list[str], position: int, depth: int) -> tuple[Fraction, int]:
    value, position = _product(tokens, position, depth)
    while position < len(tokens) and tokens[position] in "+-":
        operator = tokens[position]
        right, position = _product(tokens, position + 1, depth)
        value = _bounded(value + right if operator == "+" else value - right)
    return value, position


def _product(tokens: list[str], position: int, depth: int) -> tuple[Fraction, int]:
    value, position = _factor(tokens, position, depth)
    while position < len(tokens) and tokens[position] in "*/":
        operator = tokens[position]
        right, position = _factor(tokens, position + 1, depth)
        if operator == "/" and right == 0:
            raise _RefusedError
        value = _bounded(value * right if operator == "*" else value / right)
    return value, position


def _factor(tokens: list[str], position: int, depth: int) -> tuple[Fraction, int]:
    if position >= len(tokens) or depth > MAX_DEPTH:
        raise _RefusedError
    token = tokens[position]
    if token in "+-":
        value, position = _factor(tokens, position + 1, depth + 1)
        return (-value if token == "-" else value), position
    if token == "(":
        value, position = _sum(tokens, position + 1, depth + 1)
        if position >= len(tokens) or tokens[position] != ")":
            raise _RefusedError
        return value, position + 1
    if token in "*/)":
        raise _RefusedError
    return _bounded(Fraction(token.rstrip(".") or "0")), position + 1


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _RefusedError
    return value


def _text(value: Fraction) -> str | None:
    if value.denominator == 1:
        return str(value.numerator)
    numerator, denominator = Decimal(value.numerator), Decimal(value.denominator)
    rounded = Context(prec=SIGNIFICANT_DIGITS).divide(numerator, denominator)
    if Fraction(rounded) != value:
        digits = max(ROUNDED_DIGITS, len(str(abs(value.numerator) // value.denominator)) + 2)
        rounded = Context(prec=digits).divide(numerator, denominator)
    text = format(rounded, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text if len(text) <= MAX_CHARACTERS else None
