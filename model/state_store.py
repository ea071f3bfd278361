"""The saved states of a training run: written in the background, checked when read, as often as it pays.

A state is everything the run needs to go on as if it had not stopped: weights, optimizer, random generators (tensors),
and position, loader, guard, options (JSON). What it consists of is the loop's business.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.state_files import best_name, load_newest, mark_best, remove_old, state_folders, step_of, write_state
from pipeline_math.pretrain_step import checkpoint_interval_seconds

_ASSUMED_COST_SECONDS = 0.02
"""Cost of a save before one was measured: the first comes after a minute, for the first minutes fail most often."""
_COSTS_KEPT = 5


class StateStore:
    """The states below one folder; the newest `keep` and the best one stay.

    Memory: one copy of the state in host memory, whose buffers are kept from save to save (pinned if the tensors are
    on a CUDA device). Disk: `keep` + 1 states and the best one. A save that comes while the previous one is still being
    written waits for it.

    When to save: every sqrt(2 c M) seconds (Young 1974, Daly 2006; `pipeline_math.pretrain_step`), M the mean seconds
    between failures, c what a save costs the training: the seconds for which the step stands still, and, where
    training computes on the CPU, also the CPU seconds of the writing thread. With as many threads as cores those are
    taken from one of them, and the others wait for it at the next barrier. Behind a GPU the host has idle cores, and
    writing costs nothing. c is the median of the last saves, so that one slow disk access does not count.

    A write that fails (full disk) is told once through `note`, leaves the older states and no remains, and is tried
    again at the next interval; only `wait` raises. Notes are passed on by the calling thread, never by the writer.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        mean_seconds_between_failures: float = 86400.0,
        minimum_seconds: float = 10.0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        if keep < 1 or not mean_seconds_between_failures > 0 or minimum_seconds < 0:
            raise ValueError(
                f"states in {folder}: keep={keep}, mean_seconds_between_failures={mean_seconds_between_failures}, "
                f"minimum_seconds={minimum_seconds}; allowed: at least 1, more than 0, at least 0"
            )
        self.folder, self.keep, self.minimum_seconds = folder, keep, minimum_seconds
        self.mean_seconds_between_failures = mean_seconds_between_failures
        self._note = note
        self._notes: deque[str] = deque()
        self._buffers: dict[str, Tensor] = {}
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None
        self._costs: deque[float] = deque(maxlen=_COSTS_KEPT)
        self._saved_at = time.monotonic()

    @property
    def pending(self) -> bool:
        """Whether a state is still being written."""
        return self._writer is not None and self._writer.is_alive()

    @property
    def failed(self) -> bool:
        """Whether the last state could not be written; not known while it is pending."""
        return self._failure is not None

    @property
    def cost_seconds(self) -> float:
        """What a save costs the training, in seconds: the median of the last few, or an assumption before the first."""
        return sorted(self._costs)[len(self._costs) // 2] if self._costs else _ASSUMED_COST_SECONDS

    @property
    def interval_seconds(self) -> float:
        """Seconds from one save to the next."""
        best = checkpoint_interval_seconds(self.cost_seconds, self.mean_seconds_between_failures)
        return max(self.minimum_seconds, best)

    def due(self) -> bool:
        """Whether the interval has passed and no state is being written. Costs nothing: ask after every step."""
        self._tell()
        return not self.pending and time.monotonic() - self._saved_at >= self.interval_seconds

    def save(
        self,
        step: int,
        tensors: dict[str, Tensor],
        info: dict[str, Any],
        *,
        wait: bool = False,
        best: bool = False,
        since: float | None = None,
    ) -> None:
        """Copy the state to host memory, then write it in the background; on return the tensors may change.

        best: this state is the best so far by the run's own measure. since: `time.monotonic()` when the caller began
        to prepare the tensors (a gather over ranks), if that is to count as cost. wait: return, or raise, when it is
        on the disk.
        """
        started = time.monotonic() if since is None else since
        info = json.loads(json.dumps(info))  # the caller may change it, too; and a defect shows up here, not there
        self._join()
        self._copy_to_buffers(tensors)
        on_cpu = all(tensor.device.type == "cpu" for tensor in tensors.values())
        self._saved_at = time.monotonic()
        stall = self._saved_at - started
        # No daemon: an interpreter that ends finishes the state first.
        self._writer = threading.Thread(
            target=self._write, args=(step, info, best, stall, on_cpu), name="state-writer", daemon=False
        )
        self._writer.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when everything is on the disk; ValueError if the last state could not be written."""
        self._join()
        self._tell()
        if self._failure is not None:
            raise ValueError(self._failure_text()) from self._failure

    def load(self, best: bool = False, before: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and info of the newest (or the best) state that is whole; None if there is no state at all.

        before: for a rollback, the newest of fewer steps than this, else the oldest; later ones are set aside. A
        damaged state is named in a note, with what is wrong, and set aside, and the one before it is used. Without a
        best one that is whole it is the newest. ValueError if there are states and none is whole: training from the
        start again is not for this class to decide.
        """
        self._join()
        choice = best_name(self.folder) if best else None
        try:
            return load_newest(self.folder, self._notes.append, first_choice=choice, before=before)
        finally:
            self._tell()

    def close(self) -> None:
        """Finish writing and give the buffers back. Raises nothing: `wait` does."""
        self._join()
        self._tell()
        self._buffers = {}

    def _copy_to_buffers(self, tensors: dict[str, Tensor]) -> None:
        streams = set()
        for name in self._buffers.keys() - tensors.keys():
            del self._buffers[name]
        for name, tensor in tensors.items():
            source, buffer = tensor.detach(), self._buffers.get(name)
            if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
                buffer = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=source.is_cuda)
                self._buffers[name] = buffer
            buffer.copy_(source, non_blocking=source.is_cuda)
            if source.is_cuda:
                streams.add(torch.cuda.current_stream(source.device))
        for stream in streams:
            stream.synchronize()

    def _write(self, step: int, info: dict[str, Any], best: bool, stall: float, on_cpu: bool) -> None:
        """Runs in the background. Any failure is kept for `wait`; a defect must not end in a silent thread."""
        started = time.thread_time()
        try:
            state = write_state(self.folder, step, self._buffers, info)
            if best:
                mark_best(state)
            remove_old(self.folder, self.keep)
        except Exception as error:
            if self._failure is None:
                self._failure = error
                self._notes.append(f"{self._failure_text()}; training goes on, and saving is tried again")
            self._failure = error
            return
        if self._failure is not None:
            self._failure = None
            self._notes.append(f"states are written again to {self.folder}, the newest is of step {step}")
        self._costs.append(stall + (time.thread_time() - started if on_cpu else 0.0))

    def _failure_text(self) -> str:
        states = state_folders(self.folder)
        older = f"the newest whole state is of step {step_of(states[-1])}" if states else "no state is on the disk"
        return (
            f"states in {self.folder}: the last one could not be written ({self._failure}); {older}; "
            f"next: free space on that disk"
        )

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _tell(self) -> None:
        while self._notes:
            self._note(self._notes.popleft())
