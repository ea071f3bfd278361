"""Event logs on their way into MLflow: followed while a stage writes them, sent later where MLflow was not there.

A tracking server can be slow, refuse, die and come back: the stage does not notice, and no event is lost, for the log
in work/ keeps them all and beside it stands how far MLflow has come.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from tasks import _ledger, _tracking
from tasks._context import EventReader
from tasks.stages import Stage

POLL_SECONDS = 0.2
RETRY_SECONDS = (1.0, 30.0)
"""Pause after the first refusal of a server, and the longest: it doubles from one to the other."""


def follow_stage(log: Path, events_before: int) -> int:
    """The child of a stage that replays its log; -> exit code, 1 when MLflow has not taken every event."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage; the log's end event ends this process
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        follow(log, events_before)
    except Exception as problem:  # whatever MLflow or the disk refuses: the stage goes on, the log keeps the events
        print(f"tracking: {_first_line(problem)}", file=sys.stderr)
        return 1
    finally:
        with contextlib.suppress(OSError):  # a full disk: the next stage collects
            if Stage.CHAT in _ledger.collect():  # MLflow failed before it came to that
                _ledger.calibrate()
    return 0


def follow(log: Path, events_before: int) -> None:
    """Replay `log` until its end event or the death of the process that writes it, then older unsent logs.

    `events_before` is the length of the log before this run: that of a resumed stage holds the end of an earlier one.
    A server that refuses is asked again, ever less often, until the stage has ended and it refuses once more: that
    refusal is raised.
    """
    ready, writer = log.with_name(_ledger.TRACKING_READY), _Writer(log, events_before)
    replay: _tracking.Replay | None = None
    pause = RETRY_SECONDS[0]
    while True:
        over = writer.has_ended()  # asked before sending: what is sent then is everything
        wait, refused = POLL_SECONDS, pause > RETRY_SECONDS[0]
        try:
            replay = replay or _tracking.Replay(log)
            all_sent = replay.send_new() and replay.sent > events_before
            if refused:
                print("tracking: MLflow answers again", file=sys.stderr)
            if all_sent:
                break
            pause = RETRY_SECONDS[0]
        except Exception as problem:
            if over:
                raise
            if not refused:  # once, however long it stays away
                print(f"tracking: {_first_line(problem)}; it is asked again, nothing is lost", file=sys.stderr)
            wait, pause = pause, min(2 * pause, RETRY_SECONDS[1])
        ready.touch()  # MLflow is imported, and connected or refused: the rest costs little
        if not writer.wait(wait):
            return
    send_unsent()


def send_unsent() -> int:
    """Send the finished logs below work/ that MLflow has not taken completely; how many it took now.

    One that is refused does not keep the others; the last refusal is raised at the end.
    """
    sent, refusal = 0, None
    for log in sorted(_tracking.ROOT.glob("work/*/*/events.jsonl")):
        state = log.with_suffix(".sent.json")
        known = json.loads(state.read_text()) if state.exists() else {}
        if known.get("ended") and known.get("offset") == log.stat().st_size:
            continue  # not even read: old logs stay for as long as their work does
        events = EventReader(log, known.get("offset", 0)).new()
        if not events or events[-1]["event"] != "end":
            continue
        if "offset" not in known and known.get("sent") == len(events):
            continue  # taken by an earlier version
        try:
            _tracking.Replay(log).send_new()
            sent += 1
        except Exception as problem:
            refusal = problem
    if refusal is not None:
        raise refusal
    return sent


class _Writer:
    """The stage that writes a log: this process's parent."""

    def __init__(self, log: Path, events_before: int) -> None:
        self._pid, self._reader, self._events_before = os.getppid(), EventReader(log), events_before
        self._events, self._ended = 0, False

    def has_ended(self) -> bool:
        """Whether the log holds an end event of this run."""
        events = self._reader.new()
        self._events += len(events)
        self._ended = events[-1]["event"] == "end" if events else self._ended
        return self._ended and self._events > self._events_before

    def wait(self, seconds: float) -> bool:
        """Wait, no longer than until the stage ends; False if it died without saying so."""
        until = time.monotonic() + seconds
        while os.getppid() == self._pid:
            if (left := until - time.monotonic()) <= 0:
                return True
            time.sleep(min(POLL_SECONDS, left))
            if left > POLL_SECONDS and self.has_ended():
                return True
        return False


def _first_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {(str(problem) or '-').splitlines()[0][:200]}"
