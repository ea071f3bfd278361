"""Long work as seen from outside: a bar or lines for whoever started it, and a file for whoever looks in later.

The file is work/<stage>/<resume key>/live.json: which process works, when it wrote, how far it is. It needs no server
and is read by `python -m flows status`; a stage that cannot write it goes on.
"""

import contextlib
import json
import math
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LIVE_FILE = "live.json"
_LIVE_SECONDS = 1.0
_RATE_SECONDS = 30.0
"""Time over which the rate is taken: long enough for units of unequal size, short enough to show a change."""
_COUNTS = (("T", 1e12), ("G", 1e9), ("M", 1e6))
_BYTES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


class LiveFile:
    """What a stage says of itself while it works. Values stay until they are replaced."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path = path
        self._about = {"stage": stage, "pid": os.getpid(), "host": platform.node(), "started": time.time()}
        self._values: dict[str, Any] = {}
        self._written = -math.inf

    def update(self, values: Mapping[str, Any]) -> None:
        """Show these values, together with earlier ones of other names. A full disk is not worth a stage.

        Written whole or not at all, and at most once a second, but for values that were not there before.
        """
        news = bool(values.keys() - self._values.keys())
        self._values.update(values)
        if not news and time.monotonic() - self._written < _LIVE_SECONDS:
            return
        self._written = time.monotonic()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        content = {**self._about, "time": time.time(), "values": self._values}
        with contextlib.suppress(OSError):  # no fsync: it is about this moment, and must not wait for the disk
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
            os.replace(temporary, self.path)


class Progress:
    """A bar in a terminal, a line every `every_seconds` in a log file; with a live file, both are in it, too."""

    def __init__(
        self,
        description: str,
        total: float | None,
        unit: str,
        every_seconds: float,
        live: LiveFile | None = None,
    ) -> None:
        self.description, self.total, self.unit, self.every_seconds = description, total, unit, every_seconds
        self.done, self.started = 0.0, time.monotonic()
        self.printed = self.started
        self._live = live
        self._figures: dict[str, float] = {}
        self._recent: deque[tuple[float, float]] = deque([(self.started, 0.0)])
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=description, leave=True, dynamic_ncols=True, bar_format=self._shape(""))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.bar_format = self._shape(", ".join(self._words({})))
            self.bar.close()
        elif self.printed > self.started:  # short work stays silent in a log
            self._line({})

    def update(self, amount: float, **postfix: object) -> None:
        """Count `amount` more units; keyword arguments are shown beside the rate, such as loss=2.13."""
        if not self._counts_steps():
            self.done += amount
        now = time.monotonic()
        self._recent.append((now, self.done))
        while len(self._recent) > 2 and now - self._recent[1][0] > _RATE_SECONDS:
            self._recent.popleft()
        if self._live is not None and not self._figures:  # whoever gives figures writes them to the file as well
            counted = {"done": self.done, "total": self.total, "unit": self.unit, "rate": self._rate()}
            self._live.update({"work": self.description, **counted})
        if self.bar is not None:
            self.bar.bar_format = self._shape(", ".join(self._words(postfix)))
            self.bar.update(self.done - self.bar.n)
        elif now - self.printed >= self.every_seconds:
            self.printed = now
            self._line(postfix)

    def show(self, figures: Mapping[str, float]) -> None:
        """Figures that say more than a count of units (`figures_in_words`): shown instead, from the next update on."""
        self._figures = dict(figures)
        if self._counts_steps():
            self.done = (self.total or 0.0) * figures.get("step", 0) / figures["steps"]

    def _counts_steps(self) -> bool:
        """Steps say how far it is: a resumed run does not begin at nothing, and units may be an estimate."""
        return self.total is not None and bool(self._figures.get("steps"))

    def _shape(self, words: str) -> str:
        """How tqdm draws: the same words as in a log file, and a bar as long as they leave room for."""
        words = words.replace("{", "{{").replace("}", "}}")
        return f"{{desc}}: {words}" if self.total is None else f"{{desc}} {{percentage:3.0f}}%|{{bar}}| {words}"

    def _line(self, postfix: Mapping[str, object]) -> None:
        share = [f"{self.done / self.total if self.total else 1.0:.0%}"] if self.total is not None else []
        print(f"{self.description}: {', '.join([*share, *self._words(postfix)])}", flush=True)

    def _words(self, postfix: Mapping[str, object]) -> list[str]:
        if self._figures:
            return figures_in_words(self._figures)
        return [
            *work_in_words(self.done, self.total, self.unit, self._rate()),
            *(f"{k} {v}" for k, v in postfix.items()),
        ]

    def _rate(self) -> float:
        """Units per second of the last while, from the beginning where there is no longer past."""
        (then, before), now = self._recent[0], time.monotonic()
        return (self.done - before) / max(now - then, 1e-9)


def figures_in_words(figures: Mapping[str, Any]) -> list[str]:
    """The figures of a training run that are there, each with its unit, the most telling first."""
    words = []
    if "step" in figures and "steps" in figures:
        words.append(f"step {int(figures['step']):,}/{int(figures['steps']):,}")
    if "loss" in figures:
        words.append(f"loss {figures['loss']:.3f}")
    if "tokens_per_second" in figures:
        words.append(f"{count(figures['tokens_per_second'])} tok/s")
    if "eta_seconds" in figures:
        words.append(f"{duration(figures['eta_seconds'])} left")
    if "mfu" in figures:
        words.append(f"MFU {figures['mfu']:.1%}")
    if figures.get("data_wait_share", 0) >= 0.005:
        words.append(f"waits for data {figures['data_wait_share']:.0%}")
    if figures.get("skipped_steps"):
        words.append(f"{int(figures['skipped_steps'])} steps skipped")
    if figures.get("memory_bytes"):
        words.append(f"memory {size(figures['memory_bytes'])}")
    return words


def work_in_words(done: float, total: float | None, unit: str, rate: float | None) -> list[str]:
    """Counted work: how much of it, how fast, how long still. Without a total only what has been done."""
    words = [f"{count(done)} {unit}" if total is None else f"{count(done)} of {count(total)} {unit}"]
    if rate is not None:
        words.append(f"{count(rate)} {unit}/s")
        if total is not None and rate > 0:
            words.append(f"{duration((total - done) / rate)} left")
    return words


def duration(seconds: float) -> str:
    """8.4 s, 45 s, 4 min 20 s, 3 h 05 min, 2 d 4 h."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60, round(whole / 3600)
    if minutes < 60:
        return f"{minutes} min {whole % 60:02d} s"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def count(value: float) -> str:
    """Three digits below a thousand, thousands separated up to ten million, then 12.3 M."""
    if abs(value) < 999.5:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) < 1e7 else _scaled(value, _COUNTS)


def size(value: float) -> str:
    """Bytes as 512 B, 1.2 GB."""
    return f"{value:.0f} B" if value < 1000 else _scaled(value, _BYTES)


def _scaled(value: float, units: Iterable[tuple[str, float]]) -> str:
    name, unit = next((name, unit) for name, unit in units if abs(value) >= unit)
    return f"{value / unit:.1f} {name}"
