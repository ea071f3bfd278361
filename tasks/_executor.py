"""Where the work of the data stages runs: in this process, in processes of this machine, or on a Dask cluster.

One code path: everything is a `concurrent.futures.Executor`, everything submitted is a function importable by name with
small arguments (mostly paths), and every result that is large goes through files.

A cluster's workers need this folder under the same path and the same environment; that is checked before work begins.
Start them in the repository's folder, with one thread each, since Python code holds the interpreter's lock:
    python -m dask scheduler
    POLARS_MAX_THREADS=1 OMP_NUM_THREADS=1 python -m dask worker tcp://node1:8786 --nworkers 16 --nthreads 1
Workers may join and leave at any time; what a lost worker was computing is computed again by another. A stage that is
stopped leaves the workers of this machine dead at once, and those of a cluster busy with the unit they have begun.
"""

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from tasks._context import StageContext
from tasks._errors import StageError

ROOT = Path(__file__).resolve().parent.parent
AHEAD_PER_WORKER = 2
"""Units handed out beyond those being computed; more would only grow the queue."""
CLUSTER_SECONDS = 30.0
"""How long a scheduler may take to answer, and to be without any worker."""
RECOUNT_SECONDS = 5.0
"""How often the workers of a cluster are counted again."""
ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""A worker per core already keeps every core busy."""


class InlineExecutor(Executor):
    """Computes at once, in the caller: for one worker, and for tests that step through the code."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # it belongs to whoever asks for the result
            future.set_exception(error)
        return future


@contextmanager
def open_executor(ctx: StageContext) -> Iterator[Executor]:
    """The executor that runtime.yaml asks for: `cluster`, else `workers` processes (0: one per core).

    Leaving it by an error kills the processes: nothing goes on behind the caller's back.
    StageError: a worker died, the cluster cannot be used.
    """
    if ctx.runtime.cluster:
        opened: Any = _cluster(ctx, ctx.runtime.cluster)
    elif ctx.cores <= 1:
        opened = _inline()
    else:
        opened = _processes(ctx.cores)
    try:
        with opened as executor:
            yield executor
    except _lost_worker(ctx) as error:  # from Executor.map; `in_order` says more
        ctx.check_stop()
        raise _lost(ctx, error, "working") from None


@contextmanager
def _inline() -> Iterator[Executor]:
    yield InlineExecutor()


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    others = set(multiprocessing.active_children())
    # "spawn" because the parent may already run threads of polars, which a forked child would inherit half-alive.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=prepare_worker)
    try:
        yield pool
    except BaseException:
        # The pool would first finish what is under way and what lies in its queue, up to three units per worker. It is
        # told to forget the rest before its processes die: its thread stumbles over cancelled futures afterwards.
        pool.shutdown(wait=False, cancel_futures=True)
        own = set(multiprocessing.active_children()) - others
        for child in own:
            child.kill()
        for child in own:
            child.join()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prepare_worker() -> None:
    """Initializer of a worker process: one thread for each library, and no life without its parent."""
    os.environ.update(ONE_THREAD)
    # Ctrl-C reaches the whole process group: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """This process ends as soon as its parent is gone, even when that was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        # The pipe from the parent signals its end; unlike a thread, a signal needs no interpreter lock, which one
        # regular expression can hold for minutes. The default action of SIGIO ends the process.
        with suppress(OSError):  # a sandbox may lack such signals: then the thread below is all there is
            signal.signal(signal.SIGIO, signal.SIG_DFL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


@contextmanager
def _cluster(ctx: StageContext, address: str) -> Iterator[Executor]:
    from distributed import Client

    try:
        client = Client(address, timeout=CLUSTER_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise StageError(
            f"runtime.yaml: cluster={address!r} does not answer within {CLUSTER_SECONDS:g} s: {error}; allowed: the "
            f"address of a Dask scheduler, such as tcp://node1:8786; next: start `python -m dask scheduler` there, or "
            f"set cluster: null to work on this machine"
        ) from None
    try:
        try:
            client.wait_for_workers(1, timeout=CLUSTER_SECONDS)
        except TimeoutError:
            raise _no_worker(address) from None
        _limit_threads(client)
        _check_workers(client, ctx.cache)
        several = [worker for worker, threads in client.ncores().items() if threads > 1]
        if several:
            ctx.note(f"{len(several)} worker(s) of {address} run several threads each: --nthreads 1 is faster")
        yield client.get_executor(pure=False)
    finally:
        client.close()


def _no_worker(address: str) -> StageError:
    return StageError(
        f"runtime.yaml: the scheduler at {address} has no worker for {CLUSTER_SECONDS:g} s; allowed: at least one; "
        f"next: `python -m dask worker {address} --nthreads 1` in the repository's folder on each machine"
    )


def _limit_threads(client: Any) -> None:
    """One thread for polars in every worker, also in those that join later, unless its own environment says more."""
    from distributed import WorkerPlugin

    class OneThread(WorkerPlugin):
        name = "one-thread-per-library"

        def setup(self, worker: Any) -> None:
            for variable, value in ONE_THREAD.items():
                os.environ.setdefault(variable, value)

    client.register_plugin(OneThread())


def _check_workers(client: Any, folder: Path) -> None:
    """Workers hand over results as paths and name them after the code: they must see the same files, run the same code.

    Not covered: workers that join later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    try:
        answers = client.run(worker_problem, str(mark), str(ROOT), library_versions(), on_error="return")
    finally:
        mark.unlink()
    problems = [f"{worker}: {found}" for worker, found in sorted(answers.items()) if found]
    if problems:
        raise StageError(
            f"runtime.yaml: {len(problems)} of {len(answers)} worker(s) of the cluster cannot do this work; allowed: "
            f"the repository and {folder} under the same path, the same environment; next: mend and restart these, or "
            f"leave them out:\n  " + "\n  ".join(problems[:20])
        )


def worker_problem(mark: str, root: str, versions: Mapping[str, str]) -> str:
    """What keeps this process from working for a stage whose cache holds `mark`; "" if nothing. Runs in a worker."""
    import psutil

    if not os.path.exists(mark):
        return f"does not see {os.path.dirname(mark)}"
    if str(ROOT) != root:
        return f"imports `tasks` from {ROOT}, not from {root}"
    own = library_versions()
    other = [f"{name} {own.get(name)}, here {asked}" for name, asked in versions.items() if own.get(name) != asked]
    if other:
        return f"has other versions: {'; '.join(other[:5])}"
    started = psutil.Process().create_time()
    loaded = [module.__file__ for name, module in list(sys.modules.items()) if name.startswith("tasks.")]
    changed = sorted(os.path.relpath(file, root) for file in loaded if file and os.stat(file).st_mtime > started)
    return f"may run old code: it started before {', '.join(changed[:5])} changed" if changed else ""


def library_versions() -> dict[str, str]:
    """Version of Python and of every package of requirements.lock that is installed."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for name in (line.partition("==")[0].strip() for line in lines if "==" in line and not line.startswith("#")):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # not needed where it is missing, or its import says so
            continue
    return versions


def worker_count(ctx: StageContext, executor: Executor) -> int:
    """How many units the executor computes at once; 0 for a cluster whose workers are all gone."""
    if isinstance(executor, InlineExecutor):
        return 1
    client = getattr(executor, "_client", None)
    return sum(client.ncores().values()) if client is not None else ctx.cores


class Known(NamedTuple):
    """A job whose result is there already: takes its turn, but no worker."""

    result: Any


class _Room:
    """How many jobs may be under way. Workers of a cluster come and go; without any for long, StageError."""

    def __init__(self, ctx: StageContext, executor: Executor) -> None:
        self.ctx, self.executor = ctx, executor
        self.counted = self.last_seen = -float("inf")
        self.room = 1

    def jobs(self) -> int:
        now = time.monotonic()
        client = getattr(self.executor, "_client", None)
        if client is not None and client.status != "running":
            # All futures are cancelled by then; most calls would wait for a connection that does not come.
            raise CancelledError("no connection to the scheduler")
        if isinstance(self.executor, InlineExecutor) or now - self.counted < RECOUNT_SECONDS:
            return self.room
        workers = worker_count(self.ctx, self.executor)
        if workers or self.last_seen < 0:
            self.last_seen = now
        if now - self.last_seen > CLUSTER_SECONDS:
            raise _no_worker(str(self.ctx.runtime.cluster))
        self.counted, self.room = now, max(1, workers) * (1 + AHEAD_PER_WORKER)
        return self.room


def in_order(
    ctx: StageContext,
    executor: Executor,
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...] | Known],
    what: str,
) -> Generator[Any, None, None]:
    """function(*job) for every job, results in the order of `jobs`, which is read only a few jobs ahead.

    An exception of a job reaches the caller when its turn comes; jobs that have not begun are then cancelled, and
    leaving `open_executor` ends the others. StageError: a worker died. Finished units stay in the cache, so the next
    run goes on behind them.
    """
    room, source = _Room(ctx, executor), iter(jobs)
    waiting: deque[Future[Any]] = deque()
    exhausted = False
    try:
        while True:
            while not exhausted and len(waiting) < room.jobs():
                ctx.check_stop()
                job = next(source, None)
                if job is None:
                    exhausted = True
                elif isinstance(job, Known):
                    waiting.append(InlineExecutor().submit(lambda known: known.result, job))
                else:
                    waiting.append(executor.submit(function, *job))
            if not waiting:
                return
            if waiting[0].done():
                yield waiting.popleft().result()
                continue
            wait([waiting[0]], timeout=1.0)
            ctx.check_stop()
            room.jobs()
    except _lost_worker(ctx) as error:
        waiting.clear()  # all lost
        ctx.check_stop()  # the signal that stops a stage may have reached its workers first
        raise _lost(ctx, error, what) from None
    finally:
        for future in waiting:
            future.cancel()


def _lost_worker(ctx: StageContext) -> tuple[type[BaseException], ...]:
    """What a future raises when its worker died."""
    if not ctx.runtime.cluster:
        return (BrokenExecutor,)
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    return (BrokenExecutor, CancelledError, CommClosedError, KilledWorker)


def _lost(ctx: StageContext, error: BaseException, what: str) -> StageError:
    if ctx.runtime.cluster:
        return StageError(
            f"{ctx.stage}: the cluster at {ctx.runtime.cluster} was lost while {what} ({type(error).__name__}: "
            f"{error}): its scheduler ended, or one unit ended several workers, as for lack of memory; finished units "
            f"are kept; next: look at the workers' logs, start what is missing, run again"
        )
    return StageError(
        f"{ctx.stage}: a worker process ended while {what}: killed from outside, or for lack of memory; finished "
        f"units are kept; next: run again, with a smaller runtime.yaml workers (now {ctx.cores}) if memory is short"
    )
