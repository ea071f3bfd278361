"""One code path over executors: order, bounded look-ahead, errors, stops, and processes that die. The cluster is in
corpus/test_scale.py."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from tasks._context import StageContext
from tasks._errors import Interrupted, StageError
from tasks._executor import AHEAD_PER_WORKER, InlineExecutor, Known, in_order, open_executor
from tasks._params import StageParams
from tasks._runtime import Runtime
from tasks.stages import Stage
from tests.executor_jobs import kill_self, traced, work, work_or_fail
from tests.stage_context import make_context


def _context(root: Path, workers: int, **overrides: Any) -> StageContext:
    return make_context(root, Stage.CORPUS, StageParams(), runtime=Runtime(workers=workers), **overrides)


def _assert_no_child_is_left() -> None:
    """The pool's own thread may be the one that collects a dead process, a moment later."""
    until = time.monotonic() + 2
    while multiprocessing.active_children():
        assert time.monotonic() < until, multiprocessing.active_children()
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs_whichever_finishes_first(tmp_path: Path, workers: int) -> None:
    ctx, log = _context(tmp_path, workers), str(tmp_path / "log")
    jobs = [(log, value, 0.05 * (value % 3 == 0)) for value in range(15)]
    with open_executor(ctx) as executor:
        assert isinstance(executor, InlineExecutor) == (workers == 1)
        assert list(in_order(ctx, executor, work, jobs, "working")) == list(range(15))
        assert list(in_order(ctx, executor, work, [], "working")) == []
    assert sorted(map(int, traced(Path(log)))) == list(range(15))
    _assert_no_child_is_left()


@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_are_read_only_a_few_ahead_of_the_results(tmp_path: Path, workers: int) -> None:
    """Endless jobs: only a bounded number is ever asked for; one at a time without other workers."""
    ctx, read = _context(tmp_path, workers), itertools.count()
    asked = [0]

    def jobs() -> Iterator[tuple[int, int]]:
        for value in read:
            asked[0] = value + 1
            yield value, 2

    with InlineExecutor() if workers == 1 else ThreadPoolExecutor(workers) as executor:
        results = in_order(ctx, executor, pow, jobs(), "squaring")
        assert asked == [0]
        for number in range(50):
            assert next(results) == number**2
            ahead = asked[0] - (number + 1)
            assert ahead <= (0 if workers == 1 else workers * (1 + AHEAD_PER_WORKER))
        results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_keeps_its_type_and_leaves_nothing_running(tmp_path: Path, workers: int) -> None:
    """The third job fails while the other worker sleeps for a minute over the fourth."""
    ctx, log = _context(tmp_path, workers), tmp_path / "log"
    jobs = [(str(log), value, 60.0 if value == 3 else 0.0, 2) for value in range(40)]
    results: list[int] = []
    started = time.monotonic()
    with pytest.raises(ValueError, match="job 2 has failed"), open_executor(ctx) as executor:
        results.extend(in_order(ctx, executor, work_or_fail, jobs, "working"))
    assert time.monotonic() - started < 20
    _assert_no_child_is_left()
    before = traced(log)
    time.sleep(0.2)
    assert traced(log) == before
    assert len(before) < 20


def test_results_before_the_failed_job_are_delivered(tmp_path: Path) -> None:
    results: list[int] = []
    jobs = [(str(tmp_path / "log"), value, 0.0, 4) for value in range(9)]
    with ThreadPoolExecutor(2) as executor, pytest.raises(ValueError, match="job 4"):
        results.extend(in_order(_context(tmp_path, 2), executor, work_or_fail, jobs, "working"))
    assert results == [0, 1, 2, 3]


def test_a_stop_is_honoured_between_jobs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ctx = _context(tmp_path, 1, stop_requested=lambda: len(traced(log)) >= 2)
    with pytest.raises(Interrupted), open_executor(ctx) as executor:
        list(in_order(ctx, executor, work, [(str(log), value, 0.0) for value in range(9)], "working"))
    assert traced(log) == ["0", "1"]


def test_a_stop_does_not_wait_for_what_is_under_way(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ctx = _context(tmp_path, 2, stop_requested=lambda: len(traced(log)) >= 2)
    started = time.monotonic()
    with pytest.raises(Interrupted), open_executor(ctx) as executor:
        list(in_order(ctx, executor, work, [(str(log), value, 60.0) for value in range(9)], "working"))
    assert time.monotonic() - started < 20
    assert len(traced(log)) == 2


@contextmanager
def _gated(workers: int) -> Iterator[tuple[Executor, Event, list[Future[Any]]]]:
    """Threads that wait for an event, and every future handed out."""
    gate, futures = Event(), list[Future[Any]]()

    class Recording(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            futures.append(super().submit(*args, **kwargs))
            return futures[-1]

    with Recording(workers) as executor:
        try:
            yield executor, gate, futures
        finally:
            gate.set()


def test_closing_the_results_early_cancels_what_has_not_begun(tmp_path: Path) -> None:
    done: list[int] = []
    with _gated(2) as (executor, gate, futures):

        def first_at_once(value: int) -> int:
            if value:
                gate.wait(20)
            done.append(value)
            return value

        results = in_order(_context(tmp_path, 2), executor, first_at_once, ((n,) for n in range(99)), "working")
        assert next(results) == 0
        results.close()
        assert len(futures) == 2 * (1 + AHEAD_PER_WORKER)
        running = [future for future in futures if not future.done()]
        assert len(running) <= 2
        assert sum(future.cancelled() for future in futures) >= len(futures) - 3
    assert len(done) <= 3


def test_known_results_take_their_turn_and_no_worker(tmp_path: Path) -> None:
    with _gated(1) as (executor, gate, futures):
        gate.set()
        jobs = [Known(10), (2, 3), Known(11), Known(12), (3, 3)]
        assert list(in_order(_context(tmp_path, 1), executor, pow, jobs, "raising")) == [10, 8, 11, 12, 27]
        assert len(futures) == 2


def test_a_killed_worker_is_an_error_that_says_what_was_going_on(tmp_path: Path) -> None:
    ctx = _context(tmp_path, 2)
    with pytest.raises(StageError, match=r"corpus: a worker process ended while counting stars.*workers \(now 2\)"):  # noqa: SIM117
        with open_executor(ctx) as executor:
            list(in_order(ctx, executor, kill_self, [(n,) for n in range(3)], "counting stars"))
    with pytest.raises(StageError, match="a worker process ended while working"), open_executor(ctx) as executor:
        list(executor.map(kill_self, range(3)))
    _assert_no_child_is_left()


def test_a_stop_that_reaches_the_workers_first_is_a_stop(tmp_path: Path) -> None:
    """A service manager signals every process of a group; the dead workers are no error then."""
    stopping = iter([False, False, False, False])
    ctx = _context(tmp_path, 2, stop_requested=lambda: next(stopping, True))
    with pytest.raises(Interrupted), open_executor(ctx) as executor:
        list(in_order(ctx, executor, kill_self, [(n,) for n in range(3)], "working"))


def test_ctrl_c_in_a_terminal_is_left_to_the_parent(tmp_path: Path) -> None:
    ctx = _context(tmp_path, 2)
    with open_executor(ctx) as executor:
        worker = executor.submit(os.getpid).result()
        os.kill(worker, signal.SIGINT)
        assert list(in_order(ctx, executor, pow, [(n, 2) for n in range(6)], "squaring")) == [n * n for n in range(6)]
        assert psutil.pid_exists(worker)


PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from tasks._executor import prepare_worker

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare_worker)
    print(pool.submit(os.getpid).result(), flush=True)
    if sys.argv[1] == "busy":
        pool.submit(pow, 7, 10**8)  # one long call that keeps the interpreter lock
    time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, state: str) -> None:
    """Catches idle workers that wait for ever on a queue nobody writes to any more, and busy ones whose threads do not
    get to run."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {"PYTHONPATH": ".", "PATH": ""}
    with subprocess.Popen([sys.executable, str(script), state], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        if state == "busy":
            until = time.monotonic() + 10
            used = worker.cpu_times().user
            while worker.cpu_times().user < used + 0.1:
                assert time.monotonic() < until
                time.sleep(0.02)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert worker in children
        parent.kill()
    gone, alive = psutil.wait_procs(children, timeout=2)
    assert worker in gone
    assert not alive
