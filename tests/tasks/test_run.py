"""The runner waits for its tracking child, and for no longer than that helps."""

import subprocess
import sys
import threading
import time

import pytest

from tasks import run
from tasks.stages import Stage

LONG = 30.0
"""Seconds a child sleeps that nobody waits for, and a limit that no test reaches."""


@pytest.fixture
def child():
    """A tracking child that lives, and is not yet ready."""
    process = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG})"])
    yield process
    process.kill()
    process.wait()


def waited(*arguments, **options) -> float:
    started = time.monotonic()
    run.wait_until_tracking(*arguments, **options)
    return time.monotonic() - started


def test_computing_begins_when_the_child_is_ready(child, tmp_path):
    ready = tmp_path / "events.ready"
    timer = threading.Timer(0.3, ready.touch)
    timer.start()
    seconds = waited(Stage.CHAT, child, ready, seconds=LONG)
    timer.join()
    assert ready.exists()
    assert 0.25 < seconds < LONG / 2


def test_a_child_that_died_is_not_waited_for(child, tmp_path):
    child.kill()
    child.wait()
    assert waited(Stage.CHAT, child, tmp_path / "events.ready", seconds=LONG) < LONG / 2


def test_a_child_that_hangs_is_waited_for_until_the_limit(child, tmp_path):
    seconds = waited(Stage.CHAT, child, tmp_path / "events.ready", seconds=0.2)
    assert 0.2 <= seconds < LONG / 2
    assert child.poll() is None


def test_a_stage_that_does_not_compute_waits_for_nobody(child, tmp_path, monkeypatch):
    monkeypatch.setattr(run.time, "sleep", lambda seconds: pytest.fail("it waited"))
    run.wait_until_tracking(Stage.GATE, child, tmp_path / "events.ready", seconds=LONG)


def test_torch_is_imported_meanwhile(child, tmp_path, monkeypatch):
    """Both take as long; the chat stage needs no torch, its server is a process of its own."""
    imported: list[str] = []
    monkeypatch.setattr(run.importlib, "import_module", imported.append)
    (tmp_path / "events.ready").touch()
    run.wait_until_tracking(Stage.CHAT, child, tmp_path / "events.ready")
    assert imported == []
    run.wait_until_tracking(Stage.PRETRAIN, child, tmp_path / "events.ready")
    assert imported == ["torch"]
