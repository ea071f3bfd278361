"""One engine, many requests: a thread that decodes everything that waits, side by side.

Requests join the running batch between two steps in the order they came, so a long reply delays nobody else's start.
A full queue refuses; a cancelled request leaves the batch at the next step.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.engine.batch import RunningBatch
    from model.engine.engine import Engine
    from model.engine.row import Row, StreamEvent
    from model.engine.sampling import Sampling


log = logging.getLogger(__name__)


class EngineFailedError(Exception):
    """The request ended without a reply: the engine raised, or the server is stopping."""


class QueueFullError(Exception):
    """As many requests wait as the server is willing to keep waiting."""


@dataclass(eq=False)
class Ticket:
    """One request inside the worker; its events arrive in `events` on the event loop that submitted it."""

    prompt: list[int]
    rows: "list[Row]"
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[tuple[int, StreamEvent] | Exception]" = field(default_factory=asyncio.Queue)
    """(number of the sample, its event), or the exception that ended the request."""
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    first_token: float = 0.0
    cancelled: bool = False


class EngineWorker:
    """Owns the engine. `submit` and `cancel` may be called from any thread."""

    def __init__(self, engine: "Engine", max_waiting: int = 32) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self._waiting: deque[Ticket] = deque()
        self._active: dict[Row, tuple[Ticket, int]] = {}  # Row hashes by identity
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: list[int], sampling: "Sampling", n: int = 1) -> Ticket:
        """Queue a request; call it on a running event loop. ValueError: impossible prompt. QueueFullError."""
        ticket = Ticket(prompt, self.engine.new_rows(prompt, sampling, n), asyncio.get_running_loop())
        with self._changed:
            if len(self._waiting) >= self.max_waiting:
                raise QueueFullError(f"{self.max_waiting} requests are waiting already; try again in a few seconds")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for this request any more. Does no harm when it has ended."""
        with self._changed:
            ticket.cancelled = True
            self._changed.notify()

    def counts(self) -> dict[str, int]:
        """Sequences being decoded and requests waiting."""
        with self._changed:
            return {"running": len(self._active), "waiting": len(self._waiting)}

    def stop(self) -> None:
        """End the thread; requests in flight get an exception."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        batch = self.engine.new_batch()
        while True:
            with self._changed:
                while not (self._waiting or self._active or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    self._fail("the server is stopping")
                    return
                joining = self._admit(len(batch))
                leaving = [row for row, (ticket, _) in self._active.items() if ticket.cancelled]
                for row in leaving:
                    del self._active[row]
            try:
                for row in leaving:
                    batch.cancel(row)
                self._advance(batch, joining)
            except Exception as problem:  # the thread must outlive a failing request; its callers are told
                log.exception("the engine failed; its requests are answered with status 500")
                with self._changed:
                    self._fail(f"the engine failed: {problem}")
                batch = self.engine.new_batch()

    def _admit(self, running: int) -> list[Ticket]:
        """Waiting requests that fit beside `running` sequences, oldest first."""
        joining: list[Ticket] = []
        while self._waiting:
            ticket = self._waiting[0]
            if ticket.cancelled:
                self._waiting.popleft()
                continue
            if running and running + len(ticket.rows) > self.engine.max_rows:
                break
            running += len(ticket.rows)
            ticket.started = time.perf_counter()
            joining.append(self._waiting.popleft())
            for number, row in enumerate(ticket.rows):
                self._active[row] = (ticket, number)
        return joining

    def _advance(self, batch: "RunningBatch", joining: list[Ticket]) -> None:
        if joining:
            self._dispatch(batch.add([ticket.prompt for ticket in joining], [ticket.rows for ticket in joining]))
        self._dispatch(batch.step())

    def _dispatch(self, events: "list[tuple[Row, StreamEvent]]") -> None:
        now = time.perf_counter()
        per_loop: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, int, StreamEvent]]] = {}
        with self._changed:
            for row, event in events:
                if row not in self._active:
                    continue
                ticket, number = self._active[row]
                ticket.first_token = ticket.first_token or now
                per_loop.setdefault(ticket.loop, []).append((ticket, number, event))
                if event.finish_reason is not None:
                    del self._active[row]
        for loop, deliveries in per_loop.items():
            _call(loop, _deliver, deliveries)

    def _fail(self, reason: str) -> None:
        tickets = {id(ticket): ticket for ticket, _ in self._active.values()} | {id(t): t for t in self._waiting}
        self._active.clear()
        self._waiting.clear()
        for ticket in tickets.values():
            _call(ticket.loop, ticket.events.put_nowait, EngineFailedError(reason))


def _deliver(deliveries: "list[tuple[Ticket, int, StreamEvent]]") -> None:
    for ticket, number, event in deliveries:
        ticket.events.put_nowait((number, event))


def _call(loop: asyncio.AbstractEventLoop, function: object, *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
    except RuntimeError:  # the loop was closed: its requests are gone with it
        return
