"""A Markdown table made of numbers that know their sources."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline_math.documents.number import DocumentError, Number, change
from pipeline_math.documents.rules import digits_in
from pipeline_math.documents.show import show


@dataclass(frozen=True)
class Shown:
    """A number in a format of its own, as after the bar of a placeholder."""

    number: Number
    spec: str


@dataclass(frozen=True)
class Quoted:
    """Text taken from the ledger or from a function; digits in it were not typed."""

    text: str


Cell = str | Number | Shown | Quoted


@dataclass(frozen=True)
class Table:
    """Header, rows of cells, and one letter per column: l left, r right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str = ""

    def markdown(self, name: str) -> str:
        """The table; DocumentError for rows of another length or digits typed into a text cell."""
        align = self.align or "l" + "r" * (len(self.header) - 1)
        if not self.rows:
            raise DocumentError(f"table {name} has no rows")
        if any(len(row) != len(self.header) for row in self.rows) or len(align) != len(self.header):
            raise DocumentError(f"table {name}: every row and the alignment need {len(self.header)} columns")
        lines = [_line(self.header), _line(["--:" if letter == "r" else "---" for letter in align])]
        lines += [_line([_text(cell, name) for cell in row]) for row in self.rows]
        return "\n".join(lines)

    def numbers(self) -> Iterator[Number]:
        """All numbers in the cells."""
        for row in self.rows:
            for cell in row:
                if isinstance(cell, Shown):
                    yield cell.number
                elif isinstance(cell, Number):
                    yield cell


def levers(rows: Iterable[tuple[str, str, Number, Number]]) -> Table:
    """The table of optimisation targets: what to do, the cost it touches, before, after; the effect is computed."""
    lines: list[list[Cell]] = [
        [name, cost, old, new, Shown(change(new, old), "signed")] for name, cost, old, new in rows
    ]
    return Table(("lever", "cost", "before", "after", "effect"), lines, "llrrr")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(cell: Cell, name: str) -> str:
    if isinstance(cell, Number):
        return show(cell)
    if isinstance(cell, Shown):
        return show(cell.number, cell.spec)
    if isinstance(cell, Quoted):
        return escaped(cell.text)
    if typed := digits_in(cell):
        raise DocumentError(f"table {name}: {typed} typed in cell {cell!r}; make it a Number")
    return cell


def escaped(text: str) -> str:
    """Text that cannot end a table cell."""
    return text.replace("|", "\\|").replace("\n", " ")
