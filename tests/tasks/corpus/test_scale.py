"""The corpus stage on a Dask cluster: a scheduler and workers as processes of their own, on this machine's loopback."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars
import psutil
import pytest

from tasks import _executor
from tasks._context import StageContext
from tasks._errors import Interrupted, StageError
from tasks._executor import in_order, library_versions, open_executor, worker_count, worker_problem
from tasks._params import StageParams, validate
from tasks._runtime import Runtime
from tasks.corpus.stage import Params, run
from tasks.stages import Stage
from tests.executor_jobs import kill_self, traced, work, work_or_fail
from tests.stage_context import make_context

ROOT = Path(__file__).resolve().parents[3]
FILES = 8
WORDS = [f"{a}{b}{c}" for a in ("plan", "cart", "mist", "port", "lamb") for b in ("er", "ing", "al") for c in ("", "s")]
COMMON = ["the", "of", "and", "to", "that", "which", "with"]


class Cluster:
    """A Dask scheduler with workers; every process can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        self.workers: list[subprocess.Popen[bytes]] = []
        until = time.monotonic() + 30
        while not (file.exists() and file.stat().st_size):
            assert self.scheduler.poll() is None and time.monotonic() < until, self.log("scheduler")
            time.sleep(0.05)
        self.address = str(json.loads(file.read_text())["address"])

    def add_worker(self, threads: int = 1, **environment: str) -> None:
        name = f"worker-{len(self.workers)}"
        arguments = ("--no-nanny", "--nthreads", str(threads), "--name", name, "--local-directory", str(self.folder))
        self.workers.append(self._start("worker", self.address, *arguments, **environment))

    def _start(self, kind: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", kind, *arguments, "--no-dashboard"]
        clean = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
        with (self.folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env={**clean, **environment}, stdout=log, stderr=log)

    def log(self, kind: str) -> str:
        return (self.folder / f"{kind}.log").read_text()

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait(10)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path / "cluster")
    yield started
    started.stop()


def _context(root: Path, address: str, **overrides: Any) -> StageContext:
    return make_context(root, Stage.CORPUS, StageParams(), runtime=Runtime(cluster=address), **overrides)


def _corpus(root: Path, address: str | None) -> StageContext:
    """The stage's context over FILES files of distinct documents, with some exact and near copies across files."""
    source, rows = random.Random(0), []
    for number in range(40 * FILES):
        text = " ".join(source.choices([*WORDS, *COMMON], k=90))
        rows.append({"id": f"a{number:04d}", "text": text, "domain": "one" if number % 2 else "two"})
    for number in range(0, 60, 5):
        rows.append({"id": f"b{number:04d}", "text": rows[number]["text"].upper(), "domain": "one"})
        rows.append({"id": f"c{number:04d}", "text": rows[number + 1]["text"] + " and more", "domain": "two"})
    for name in ("benchmarks", "earlier", "quality", "text"):
        (root / "data" / name).mkdir(parents=True)
    for number in range(FILES):
        lines = [json.dumps({**row, "source": f"page {row['id']}"}) for row in rows[number::FILES]]
        (root / f"data/text/{number}.jsonl").write_text("\n".join(lines) + "\n")
    values = validate(Params, {"sources": [{"kind": "files", "glob": "**/*.jsonl"}]}, "test")
    return make_context(root, Stage.CORPUS, values, runtime=Runtime(workers=1, cluster=address))


def _written(ctx: StageContext) -> dict[str, bytes]:
    return {path.relative_to(ctx.out).as_posix(): path.read_bytes() for path in ctx.out.rglob("*") if path.is_file()}


def _finished_units(ctx: StageContext) -> int:
    return sum(not path.name.startswith(".") for path in ctx.cache.glob("*/*"))


def _when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        until = time.monotonic() + 60
        while not condition() and time.monotonic() < until:
            time.sleep(0.002)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_cluster_that_loses_a_worker_midway_writes_the_same_bytes(tmp_path: Path, cluster: Cluster) -> None:
    """One worker is killed, without a chance to say so, while the shards are read; the other, of two threads, takes its
    work over; a third joins later. Compared with one process on this machine."""
    alone = _corpus(tmp_path / "alone", None)
    run(alone)
    cluster.add_worker()
    cluster.add_worker(threads=2)
    ctx = _corpus(tmp_path / "cluster-run", cluster.address)
    seen: list[int] = []

    def strike() -> None:
        seen.append(_finished_units(ctx))
        cluster.workers[0].kill()
        cluster.add_worker()

    killer = _when(lambda: _finished_units(ctx) >= 3, strike)
    run(ctx)
    killer.join()
    assert 3 <= seen[0] < 2 * FILES, "the worker was not killed midway"
    assert cluster.workers[0].wait(5) < 0
    written = _written(ctx)
    assert written == _written(alone)
    assert {"documents/00000.parquet", "rejected/00000.parquet", "report.json"} <= set(written)
    reasons = json.loads(written["report.json"])["dropped_by_reason"]
    assert reasons["exact_duplicate"] == reasons["near_duplicate"] == 12
    assert "worker-0" in cluster.log("worker")


def test_workers_take_one_thread_each_keep_order_and_hand_on_errors(tmp_path: Path, cluster: Cluster) -> None:
    cluster.add_worker()
    log = tmp_path / "log"
    ctx = _context(tmp_path, cluster.address)
    with open_executor(ctx) as executor:
        client = executor._client  # type: ignore[attr-defined]
        assert set(client.run(polars.thread_pool_size).values()) == {1}
        cluster.add_worker(threads=2, POLARS_MAX_THREADS="2")
        client.wait_for_workers(2, timeout=30)
        assert sorted(client.run(polars.thread_pool_size).values()) == [1, 2]  # its own environment counts
        assert worker_count(ctx, executor) == 3
        jobs = [(str(log), value, 0.1 * (value % 4 == 0)) for value in range(12)]
        assert list(in_order(ctx, executor, work, jobs, "working")) == list(range(12))
        failing = [(str(log), value, 0.0, 5) for value in range(100, 1000)]
        with pytest.raises(ValueError, match="job 5 has failed"):
            list(in_order(ctx, executor, work_or_fail, [*failing[:2], (str(log), 5, 0.0, 5), *failing], "working"))
        assert len(traced(log)) < 40
    stopping = _context(tmp_path, cluster.address, stop_requested=lambda: "7777" in traced(log))
    with pytest.raises(Interrupted), open_executor(stopping) as executor:
        list(in_order(stopping, executor, work, [(str(log), 7777, 0.2)] * 50, "working"))
    assert traced(log).count("7777") < 10


def test_a_unit_that_kills_every_worker_and_a_cluster_without_workers_are_errors(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask gives a unit up once it has ended several workers, and would wait for ever where none is left."""
    monkeypatch.setattr(_executor, "CLUSTER_SECONDS", 1.0)
    monkeypatch.setattr(_executor, "RECOUNT_SECONDS", 0.2)
    ctx = _context(tmp_path, cluster.address)
    with pytest.raises(StageError, match=r"has no worker for 1 s; allowed: at least one; next: .*dask worker tcp"):
        _open(ctx)
    monkeypatch.setattr(_executor, "CLUSTER_SECONDS", 20.0)
    for _ in range(4):  # one more than Dask forgives
        cluster.add_worker()
    with pytest.raises(StageError, match=r"corpus: the cluster at tcp.* was lost while dying \(KilledWorker"):
        _die(ctx, 4)
    cluster.add_worker()
    with pytest.raises(StageError, match="has no worker for 1 s"):
        _die(ctx, 1, lambda: monkeypatch.setattr(_executor, "CLUSTER_SECONDS", 1.0))


def _die(ctx: StageContext, workers: int, before: Callable[[], None] = lambda: None) -> None:
    with open_executor(ctx) as executor:
        executor._client.wait_for_workers(workers, timeout=30)  # type: ignore[attr-defined]
        before()
        list(in_order(ctx, executor, kill_self, [(0,)], "dying"))


def test_a_scheduler_that_ends_is_an_error_not_a_wait(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_executor, "CLUSTER_SECONDS", 4.0)
    cluster.add_worker()
    log = tmp_path / "log"
    ctx = _context(tmp_path, cluster.address)
    killer = _when(lambda: len(traced(log)) >= 2, cluster.scheduler.kill)
    with (
        pytest.raises(StageError, match=r"the cluster at tcp.* was lost while working"),
        open_executor(ctx) as executor,
    ):
        list(in_order(ctx, executor, work, [(str(log), value, 0.1) for value in range(200)], "working"))
    killer.join()
    assert len(traced(log)) < 100


def _open(ctx: StageContext) -> None:
    with open_executor(ctx):
        raise AssertionError("the executor must not open")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tcp://no-such-host.invalid:8786", "nonsense"])
def test_an_address_where_nobody_listens_is_an_error_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(_executor, "CLUSTER_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(StageError, match=r"does not answer within 0\.5 s"):
        _open(_context(tmp_path, address))
    assert time.monotonic() - started < 5


def test_workers_that_see_other_files_or_run_other_code_are_named(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_worker()
    ctx = _context(tmp_path, cluster.address)
    monkeypatch.setattr(_executor, "library_versions", lambda: {"polars": "0.1"})
    with pytest.raises(StageError, match=r"1 of 1 worker\(s\)(.|\n)*tcp://.*: has other versions: polars .*, here 0.1"):
        _open(ctx)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "touch", lambda path: None)  # the mark is not there for anybody
    monkeypatch.setattr(Path, "unlink", lambda path: None)
    with pytest.raises(StageError, match=r"cannot do this work(.|\n)*does not see .*work/corpus/cache"):
        _open(ctx)


def test_what_keeps_a_worker_from_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code changed since the worker started would be cached under the name of the new code."""
    mark, root, versions = tmp_path / "mark", str(_executor.ROOT), library_versions()
    assert "does not see" in worker_problem(str(mark), root, versions)
    mark.touch()
    assert "imports `tasks` from" in worker_problem(str(mark), "/elsewhere", versions)
    assert "has other versions: absent None, here 1" in worker_problem(str(mark), root, {**versions, "absent": "1"})
    assert len(versions) > 50
    started = [time.time()]
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: started[0])
    assert worker_problem(str(mark), root, versions) == ""
    started[0] = 0.0
    assert "may run old code: it started before tasks/" in worker_problem(str(mark), root, versions)
