"""A number in a document: its value, its unit and where it comes from. A number without a source cannot be made.

Four sources: a function of this package with the arguments it was called with, a constant of this package, a row of
the ledger, or arithmetic on other numbers. `check` of a source computes or reads the value again; tests call it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline_math.documents.resolve import PACKAGE, DocumentError, picked, resolve, short
from pipeline_math.ledger import Row


class Source(Protocol):
    """Where a value comes from."""

    def value(self) -> float:
        """The value, computed or read again."""

    def words(self) -> str:
        """The source in Markdown, for the table at the end of a document."""

    def origins(self) -> tuple[str, ...]:
        """Functions, constants or ledger stages behind it, without arguments."""


@dataclass(frozen=True)
class Number:
    """One number of a document. `value` is in `unit` without any prefix: "B" and not "GB", "s" and not "h"."""

    value: float
    unit: str
    """B, B/s, FLOP, FLOP/s, FLOP/token, s, tokens, tokens/s, share (1 = 100 %), ... or "" for a plain number."""
    source: Source

    def check(self) -> None:
        """DocumentError unless the source still gives this value."""
        again = self.source.value()
        if not math.isclose(again, self.value, rel_tol=1e-9, abs_tol=1e-12):
            raise DocumentError(f"{self.source.words()} gives {again}, the document has {self.value}")


def _plain(argument: Any) -> Any:
    """The value of a Number, as a whole number where it is one: counts are asked for as int."""
    if not isinstance(argument, Number):
        return argument
    value = argument.value
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else value


def _argument_words(argument: Any) -> str:
    argument = _plain(argument)
    if isinstance(argument, bool | str) or argument is None:
        return repr(argument)
    if isinstance(argument, int):
        return f"{argument:,}"
    if isinstance(argument, float):
        return f"{argument:.6g}"
    if hasattr(argument, "n_layers") and hasattr(argument, "vocab_size"):
        return f"shape d{argument.n_layers}"
    if isinstance(argument, list | tuple):
        return f"{len(argument)} values"
    return str(getattr(argument, "name", type(argument).__name__))


@dataclass(frozen=True)
class Computed:
    """A call of a public function of this package."""

    function: str
    """Dotted name below `pipeline_math`."""
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    pick: str | int | None
    """Attribute or index of the result, None for the result itself."""

    def value(self) -> float:
        call = resolve(self.function)
        result = call(*map(_plain, self.arguments), **{name: _plain(value) for name, value in self.keywords})
        return float(picked(result, self.pick))

    def words(self) -> str:
        shown = [_argument_words(argument) for argument in self.arguments]
        shown += [f"{name}={_argument_words(value)}" for name, value in self.keywords]
        text = f"{self.function}({', '.join(shown)})"
        if self.pick is None:
            return f"`{text}`"
        return f"`{text}.{self.pick}`" if isinstance(self.pick, str) else f"`{text}[{self.pick}]`"

    def origins(self) -> tuple[str, ...]:
        return (f"`{self.function}`",)


@dataclass(frozen=True)
class Constant:
    """A named constant of this package; mapping keys and attributes are parts of the dotted name."""

    path: str

    def value(self) -> float:
        found = resolve(self.path)
        return float(getattr(found, "value", found))

    def words(self) -> str:
        found = resolve(self.path)
        citation = getattr(found, "citation", "") or getattr(found, "source", "")
        return f"constant `{self.path}`" + (f": {citation}" if citation else "")

    def origins(self) -> tuple[str, ...]:
        return (f"`{self.path}`",)


@dataclass(frozen=True)
class Recorded:
    """One field of one ledger row."""

    row: Row
    column: str
    """predicted, low, high or measured; or `amounts.<key>`."""

    def value(self) -> float:
        from pipeline_math.documents.recorded import all_rows  # reads the file again

        if self.row not in all_rows():
            raise DocumentError(f"ledger row {self.row.stage} {self.row.quantity} of run {self.row.run} is gone")
        if self.column.startswith("amounts."):
            return float(self.row.amounts[self.column.removeprefix("amounts.")])
        return float(getattr(self.row, self.column))

    def words(self) -> str:
        row = self.row
        return f"{self.brief()}, K `{short(row.key)}`, {row.machine}, commit `{short(row.git)}`"

    def brief(self) -> str:
        """The row without K, machine and commit, which the table of runs names."""
        name = self.column if self.column.startswith("amounts.") else f"{self.row.quantity}, {self.column}"
        return f"ledger: {self.row.stage} {name}; run `{short(self.row.run)}`"

    def origins(self) -> tuple[str, ...]:
        return (f"the ledger's rows of {self.row.stage}",)


@dataclass(frozen=True)
class Derived:
    """Arithmetic on two numbers."""

    operation: str
    left: Number
    right: Number

    def value(self) -> float:
        return OPERATIONS[self.operation](self.left.source.value(), self.right.source.value())

    def words(self) -> str:
        sign = {"relative change": "relative to"}.get(self.operation, self.operation)
        return f"{_nested(self.left)} {sign} {_nested(self.right)}"

    def origins(self) -> tuple[str, ...]:
        return (*self.left.source.origins(), *self.right.source.origins())


def _nested(number: Number) -> str:
    source = number.source
    text = source.brief() if isinstance(source, Recorded) else source.words()
    return f"({text})" if isinstance(number.source, Derived) else text


OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "-": lambda left, right: left - right,
    "+": lambda left, right: left + right,
    "x": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "relative change": lambda left, right: left / right - 1.0,
}


def compute(
    function: Callable[..., Any], *arguments: Any, unit: str, pick: str | int | None = None, **keywords: Any
) -> Number:
    """Call a public function of this package and keep the call as the source. Arguments may be Numbers."""
    name = f"{function.__module__}.{function.__qualname__}"
    if not name.startswith(PACKAGE + ".") or "<" in name:
        raise DocumentError(f"{name} is no named function of {PACKAGE}; next: give the formula a function there")
    source = Computed(name.removeprefix(PACKAGE + "."), arguments, tuple(keywords.items()), pick)
    return Number(source.value(), unit, source)


def constant(path: str, unit: str) -> Number:
    """A constant by its dotted name below `pipeline_math`, such as "hardware.HARDWARE.h100.mfu"."""
    source = Constant(path)
    return Number(source.value(), unit, source)


def recorded_field(row: Row, column: str, unit: str) -> Number:
    """A field of a ledger row; `amounts.<key>` for what the stage processed."""
    source = Recorded(row, column)
    return Number(source.value(), unit, source)


def minus(left: Number, right: Number) -> Number:
    """left - right, in their common unit."""
    return _derived("-", left, right, _common_unit(left, right))


def plus(left: Number, right: Number) -> Number:
    """left + right, in their common unit."""
    return _derived("+", left, right, _common_unit(left, right))


def times(left: Number, right: Number, unit: str) -> Number:
    """left * right in a unit the caller names."""
    return _derived("x", left, right, unit)


def over(left: Number, right: Number, unit: str) -> Number:
    """left / right in a unit the caller names; "share" for parts of a whole."""
    return _derived("/", left, right, unit)


def change(new: Number, old: Number) -> Number:
    """new / old - 1 as a share: 0.17 is 17 % more."""
    _common_unit(new, old)
    return _derived("relative change", new, old, "share")


def _derived(operation: str, left: Number, right: Number, unit: str) -> Number:
    return Number(OPERATIONS[operation](left.value, right.value), unit, Derived(operation, left, right))


def _common_unit(left: Number, right: Number) -> str:
    if left.unit != right.unit:
        raise DocumentError(
            f"units differ: {left.unit!r} of {left.source.words()}, {right.unit!r} of {right.source.words()}"
        )
    return left.unit
