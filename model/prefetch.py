"""Batches made ready by a background thread while the device works on the step before.

The position stays exact: `state_dict` is the one behind the last batch handed out, whatever has been read ahead.
"""

import queue
import threading
import weakref
from typing import Any

import torch

from model.batches import Batch
from model.train_options import Batches

_LOOK_FOR_STOP_SECONDS = 0.1


class Prefetcher:
    """A source of batches that reads `ahead` batches in advance, into pinned memory when they go to a CUDA `device`.

    Use the wrapped source through this object only. `close` gives it back at the exact position; `next` may follow.
    ValueError for a source whose batches depend on the model (its `prefetchable` is not True).
    """

    prefetchable = True

    def __init__(self, source: Batches, ahead: int = 2, device: torch.device | None = None) -> None:
        if not getattr(source, "prefetchable", False) or ahead < 1:
            raise ValueError(
                f"{type(source).__name__} with ahead={ahead}; allowed: sources whose batches do not depend on the "
                f"model, at least 1 batch ahead"
            )
        self.source, self.ahead = source, ahead
        self._pin_for = device if device is not None and device.type == "cuda" else None
        self._state = source.state_dict()
        self._thread: threading.Thread | None = None
        self._ready: queue.Queue[tuple[Batch, dict[str, Any]] | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()

    @property
    def step_shape(self) -> tuple[int, int] | None:
        """The source's, where all its batches have one."""
        return getattr(self.source, "step_shape", None)

    def next(self) -> Batch:
        """The next batch of the source; raises what the source raised, at the same place."""
        if self._thread is None:
            self._start()
        item = self._ready.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        batch, self._state = item
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Position behind the last batch that `next` returned."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; ValueError as the source raises it, and the position stays."""
        self.close()
        self.source.load_state_dict(state)
        self._state = self.source.state_dict()

    def close(self) -> None:
        """Stop reading ahead and put the source back behind the last batch handed out."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self.source.load_state_dict(self._state)

    def _start(self) -> None:
        self._stop, self._ready = threading.Event(), queue.Queue(self.ahead)
        # The thread knows the source but not this object, so that dropping this object ends it.
        arguments = (self.source, self._pin_for, self._ready, self._stop)
        self._thread = threading.Thread(target=_read_ahead, args=arguments, name="prefetch", daemon=True)
        weakref.finalize(self, self._stop.set)
        self._thread.start()


def _read_ahead(
    source: Batches, pin_for: torch.device | None, ready: "queue.Queue[Any]", stop: threading.Event
) -> None:
    item: Any = None
    if pin_for is not None:
        # The current device belongs to a thread; with the default one every rank would open a context on device 0.
        torch.cuda.set_device(pin_for)
    while not stop.is_set() and not isinstance(item, BaseException):
        try:
            batch = source.next()
            item = (batch.pinned() if pin_for is not None else batch, source.state_dict())
        except BaseException as error:
            item = error  # raised again where the batch is asked for
        while not stop.is_set():
            try:
                ready.put(item, timeout=_LOOK_FOR_STOP_SECONDS)
                break
            except queue.Full:
                continue
