"""Refusal of numbers that count nothing: every public function here takes finite numbers, most of them not negative."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def positive(**values: float) -> None:
    """ValueError that names the first value which is not finite and above 0."""
    _refuse(values, lambda value: value > 0, "finite numbers above 0")


def not_negative(**values: float) -> None:
    """ValueError that names the first value which is not finite and at least 0."""
    _refuse(values, lambda value: value >= 0, "finite numbers of at least 0")


def share(**values: float) -> None:
    """ValueError that names the first value outside 0..1."""
    _refuse(values, lambda value: 0 <= value <= 1, "shares from 0 to 1")


def whole(minimum: int = 0, **values: float) -> None:
    """ValueError that names the first value which is no whole number of at least `minimum`."""
    _refuse(values, lambda value: value >= minimum and value == int(value), f"whole numbers of at least {minimum}")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose every numeric argument must be finite and at least 0; ValueError names the argument."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def refusing(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        not_negative(**{name: value for name, value in given.items() if isinstance(value, int | float)})
        return function(*args, **kwargs)

    return refusing


def _refuse(values: dict[str, float], allowed: Callable[[float], bool], words: str) -> None:
    for name, value in values.items():
        if not math.isfinite(value) or not allowed(value):
            raise ValueError(f"{name}={value}: allowed are {words}")
