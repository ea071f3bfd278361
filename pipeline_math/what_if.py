"""The difference of two plans, as a table: decisions, seconds of every stage, memory, dollars, energy and loss."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline_math.hardware_table import GIB
from pipeline_math.plan import readable
from pipeline_math.plan_text import quantity


@dataclass(frozen=True)
class Difference:
    """One line of the table; numbers have a difference and a ratio B / A, words have neither."""

    group: str
    name: str
    first: float | str
    second: float | str
    form: Callable[[float], str]

    @property
    def change(self) -> float | None:
        """B - A."""
        if isinstance(self.first, str) or isinstance(self.second, str):
            return None
        return self.second - self.first

    @property
    def ratio(self) -> float | None:
        """B / A; None without a number A to divide by."""
        if isinstance(self.first, str) or isinstance(self.second, str) or not self.first:
            return None
        return self.second / self.first


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[Difference]:
    """Lines for two plans, each with "decisions" and "forecast"."""
    return list(_lines(first, second))


def what_if_text(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The table for a terminal of 80 columns."""
    lines = [f"{'':20}{'A':>14}{'B':>14}{'B - A':>14}{'B / A':>9}"]
    group = ""
    for line in differences(first, second):
        if line.group != group:
            group = line.group
            lines += ["", f"{group}"]
        lines.append(_row(line))
    return "\n".join(lines) + "\n"


def _lines(first: dict[str, Any], second: dict[str, Any]) -> Iterator[Difference]:
    for name, value in first["decisions"].items():
        form = quantity if name in ("train_tokens", "batch_tokens") else _plain
        yield Difference("decisions", name, value, second["decisions"][name], form)
    a, b = first["forecast"], second["forecast"]
    for name, form in (("hours", _plain), ("tokens_per_scaling_parameter", _plain), ("total_parameters", quantity)):
        yield Difference("model and speed", _SHORT.get(name, name), a[name], b[name], form)
    for name, form in (("train_flops", "{:.3g}".format), ("mfu", "{:.1%}".format), ("tokens_per_second", quantity)):
        yield Difference("model and speed", name, a[name], b[name], form)
    for stage, own in a["predictions"].items():
        seconds = own["seconds"]["value"], b["predictions"][stage]["seconds"]["value"]
        yield Difference("seconds of stages", stage, *seconds, _signed_time)
    yield Difference("seconds of stages", "all", a["total"]["seconds"], b["total"]["seconds"], _signed_time)
    for name, value in a["memory"].items():
        if name.endswith("_bytes"):
            yield Difference("GiB per device", name.removesuffix("_bytes"), value, b["memory"][name], _gib)
    for name in ("ttft_seconds", "tpot_seconds"):
        yield Difference("ms of serving", name[:4], a["latency"][name], b["latency"][name], _milliseconds)
    costs = {"dollars": "usd", "kWh": "kwh"}
    for label, name in costs.items():
        yield Difference("cost and quality", label, a["total"][name], b["total"][name], "{:,.2f}".format)
    bpb = a["total"]["val_bpb"]["value"], b["total"]["val_bpb"]["value"]
    yield Difference("cost and quality", "bits per byte", *bpb, "{:.4f}".format)


_SHORT = {"tokens_per_scaling_parameter": "tokens/parameter"}


def _row(line: Difference) -> str:
    change, ratio = line.change, line.ratio
    cells = [value if isinstance(value, str) else line.form(value) for value in (line.first, line.second)]
    if change is None:
        cells += ["" if line.first == line.second else "differs", ""]
    else:
        sign = "+" if change > 0 else ""
        cells += ["0" if change == 0 else sign + line.form(change), "" if ratio is None else f"{ratio:.3f}"]
    return f"  {line.name:18}{cells[0]:>14}{cells[1]:>14}{cells[2]:>14}{cells[3]:>9}".rstrip()


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _gib(value: float) -> str:
    return f"{value / GIB:.2f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g}"


def _signed_time(seconds: float) -> str:
    if abs(seconds) < 10:
        return f"{seconds:.1f} s"
    return f"-{readable(-seconds)}" if seconds < 0 else readable(seconds)
