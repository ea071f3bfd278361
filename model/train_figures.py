"""What is measured of every training step: means for a curve row, the figures of this moment, totals of the run.

Seconds are of three kinds: in steps (what the loop reports as a step's own), waiting for data (a part of those), and
between steps (evaluation, saving, samples), which is what the clock shows between two steps beyond the steps' own. So
nobody has to tell when an evaluation runs, and the time left accounts for it by its measured share.
MFU is training FLOPs per second over the peak of all devices together, with FLOPs per token as the caller counts them
(pipeline_math.model_flops_vram): recomputed work, wait and evaluation lower it, they never count as use.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

from model.device_memory import allocated_bytes, peak_bytes

RECENT_STEPS = 64
"""Steps whose mean loss, rate and time are shown while training."""
_TRIMMED_SHARE = 0.1
"""Of the recent step times at either end, left out of their mean: a pause to compile is not what a step takes."""
_TOTALS = (
    "tokens",
    "step_seconds",
    "data_wait_seconds",
    "between_seconds",
    "between_steps",
    "skipped_steps",
    "peak_memory_bytes",
)


class StepFigures:
    """Collects the figures of steps on the first rank. Host numbers only: it never makes a device wait."""

    def __init__(
        self,
        train_flops_per_token: float,
        peak_flops_per_second: float | None = None,
        *,
        device: torch.device | str = "cpu",
        steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`peak_flops_per_second`: of all devices together; None where it is not known, and then there is no MFU.

        `device`: whose memory is shown, this process's on a CPU. `steps`: of the whole run, for the time left.
        """
        if not (math.isfinite(train_flops_per_token) and train_flops_per_token > 0):
            raise ValueError(f"train_flops_per_token={train_flops_per_token}; allowed: a positive number")
        if peak_flops_per_second is not None and not peak_flops_per_second > 0:
            raise ValueError(f"peak_flops_per_second={peak_flops_per_second}; allowed: a positive number, or None")
        self.train_flops_per_token, self.peak_flops_per_second = train_flops_per_token, peak_flops_per_second
        self.device, self.steps, self._clock = torch.device(device), steps, clock
        self.step = 0
        self._total = dict.fromkeys(_TOTALS, 0.0)
        self._interval = _Interval()
        # Of this session only: another machine may have taken the run over.
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_STEPS)  # tokens, seconds
        self._recent_losses: deque[float] = deque(maxlen=RECENT_STEPS)
        self._last_ended: float | None = None

    def add(
        self,
        *,
        step: int,
        tokens: int,
        loss: float,
        seconds: float,
        data_wait_seconds: float = 0.0,
        norms: Mapping[str, float] | None = None,
        applied: bool = True,
    ) -> None:
        """One step has ended. `tokens`: over all ranks. `seconds`: of the step alone, wait for its data included.

        `norms`: the gradient's norm of each group of parameters. Loss and norms of a step that was not applied enter
        no mean: they are why it was not. Call it when the step ends: the clock tells the time between steps.
        """
        now = self._clock()
        total = self._total
        if self._last_ended is not None:
            total["between_seconds"] += max(0.0, now - self._last_ended - seconds)
            total["between_steps"] += 1
        self._last_ended, self.step = now, step
        total["tokens"] += tokens
        total["step_seconds"] += seconds
        total["data_wait_seconds"] += data_wait_seconds
        self._recent.append((tokens, seconds))
        self._interval.add(tokens, seconds, data_wait_seconds)
        if applied:
            self._recent_losses.append(loss)
            self._interval.add_applied(loss, norms or {})
        else:
            total["skipped_steps"] += 1

    def row(
        self, learning_rates: Mapping[str, float] | None = None, ratios: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Figures of the interval that ends here, which begins anew; all finite.

        loss, tokens_per_second, data_wait_share, memory_bytes, grad_norm_<group>: means of the steps since the last
        row. lr_<group>, update_ratio_<group>: as given. mfu where the peak is known, eta_seconds where `steps` is;
        skipped_steps (over the whole run) once there was one. Loss and norms are absent when every step was skipped.
        """
        interval, self._interval = self._interval, _Interval()
        figures = interval.means() | self._speed(interval.tokens, interval.seconds)
        figures["memory_bytes"] = self._memory()[0]
        if self.steps is not None and self._recent:
            figures["eta_seconds"] = self.eta_seconds(self.step, self.steps)
        figures |= {f"lr_{group}": float(rate) for group, rate in (learning_rates or {}).items()}
        figures |= {f"update_ratio_{group}": float(ratio) for group, ratio in (ratios or {}).items()}
        if self._total["skipped_steps"]:
            figures["skipped_steps"] = self._total["skipped_steps"]
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def live(self, step: int, steps: int) -> dict[str, float]:
        """The figures of this moment, over the last steps: what a live view and a progress line show."""
        tokens, seconds = (sum(part) for part in zip(*self._recent, strict=True)) if self._recent else (0, 0.0)
        now, peak = self._memory()
        figures: dict[str, float] = {"step": step, "steps": steps, **self._speed(tokens, seconds)}
        if self._recent_losses:
            figures["loss"] = math.fsum(self._recent_losses) / len(self._recent_losses)
        if self._recent:
            figures["eta_seconds"] = self.eta_seconds(step, steps)
        figures |= {"data_wait_share": self._wait_share(), "memory_bytes": now, "peak_memory_bytes": peak}
        figures["skipped_steps"] = self._total["skipped_steps"]
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def totals(self) -> dict[str, float]:
        """Of the whole run, over all its sessions: data_wait_share, between_share (time spent between steps over all
        time), skipped_steps, peak_memory_bytes, and mfu of the steps where the peak is known."""
        total = self._total
        all_seconds = total["step_seconds"] + total["between_seconds"]
        figures = {
            "data_wait_share": self._wait_share(),
            "between_share": total["between_seconds"] / all_seconds if all_seconds else 0.0,
            "skipped_steps": total["skipped_steps"],
            "peak_memory_bytes": self._memory()[1],
        }
        speed = self._speed(total["tokens"], total["step_seconds"])
        return figures | {name: value for name, value in speed.items() if name == "mfu"}

    def eta_seconds(self, step: int, steps: int) -> float:
        """Seconds left: a trimmed mean of the last steps, and the time between steps by its share so far."""
        times = sorted(seconds for _, seconds in self._recent)
        cut = max(int(_TRIMMED_SHARE * len(times)), int(len(times) > 2))
        kept = times[cut : len(times) - cut] or times
        total = self._total
        # Measured over whole runs, not over the last steps: evaluations are few and far between.
        between = total["between_seconds"] / total["step_seconds"] if total["step_seconds"] else 0.0
        return max(0, steps - step) * (math.fsum(kept) / len(kept)) * (1 + between) if kept else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON: the totals and the interval that has not become a row yet."""
        return {"step": self.step, "total": dict(self._total), "interval": self._interval.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, also back to one within a session: skipped steps and memory stay what they were."""
        former = self._total
        self._total = {name: float(state["total"].get(name, 0.0)) for name in _TOTALS}
        for name in ("skipped_steps", "peak_memory_bytes"):
            self._total[name] = max(self._total[name], former[name])
        self._interval = _Interval.from_state(state["interval"])
        self.step = int(state["step"])
        self._last_ended = None  # the time of loading is not time between steps

    def _speed(self, tokens: float, seconds: float) -> dict[str, float]:
        if seconds <= 0:
            return {}
        rate = tokens / seconds
        if self.peak_flops_per_second is None:
            return {"tokens_per_second": rate}
        return {"tokens_per_second": rate, "mfu": rate * self.train_flops_per_token / self.peak_flops_per_second}

    def _wait_share(self) -> float:
        total = self._total
        return total["data_wait_seconds"] / total["step_seconds"] if total["step_seconds"] else 0.0

    def _memory(self) -> tuple[float, float]:
        """Bytes (now, most so far over the run)."""
        now, peak = float(allocated_bytes(self.device)), float(peak_bytes(self.device))
        self._total["peak_memory_bytes"] = max(self._total["peak_memory_bytes"], now, peak)
        return now, self._total["peak_memory_bytes"]


class _Interval:
    """Sums since the last curve row."""

    def __init__(self) -> None:
        self.tokens = self.seconds = self.wait = self.loss = 0.0
        self.applied = 0
        self.norms: dict[str, tuple[float, int]] = {}
        """Group -> sum and count."""

    def add(self, tokens: int, seconds: float, data_wait_seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds
        self.wait += data_wait_seconds

    def add_applied(self, loss: float, norms: Mapping[str, float]) -> None:
        self.loss, self.applied = self.loss + loss, self.applied + 1
        for group, norm in norms.items():
            total, count = self.norms.get(group, (0.0, 0))
            self.norms[group] = (total + norm, count + 1)

    def means(self) -> dict[str, float]:
        figures = {"loss": self.loss / self.applied} if self.applied else {}
        if self.seconds > 0:
            figures["data_wait_share"] = self.wait / self.seconds
        return figures | {f"grad_norm_{group}": total / count for group, (total, count) in self.norms.items()}

    def state_dict(self) -> dict[str, Any]:
        return vars(self) | {"norms": {group: list(pair) for group, pair in self.norms.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "_Interval":
        interval = cls()
        for name, value in state.items():
            setattr(interval, name, {g: (pair[0], pair[1]) for g, pair in value.items()} if name == "norms" else value)
        return interval
