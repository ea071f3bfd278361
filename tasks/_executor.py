"""Where the work of the data stages runs: in this process, in processes of this machine, or on a Dask cluster.

One code path: everything is a `concurrent.futures.Executor`, everything submitted is a function importable by name with
small arguments (mostly paths), and every result that is large goes through files. Workers of a cluster must see the
repository's folder under the same path.
"""

import multiprocessing
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks._context import StageContext
from tasks._errors import StageError

AHEAD_PER_WORKER = 2
"""Units handed out beyond those being computed; more would only grow the queue."""
CLUSTER_SECONDS = 30
"""How long a scheduler may take to answer."""


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
    """The executor that runtime.yaml asks for: `cluster`, else `workers` processes (0: one per core)."""
    if ctx.runtime.cluster:
        with _cluster(ctx.runtime.cluster, ctx.cache) as executor:
            yield executor
        return
    if ctx.cores <= 1:
        yield InlineExecutor()
        return
    # "spawn" because the parent may already run threads of polars, which a forked child would inherit half-alive.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(ctx.cores, mp_context=spawn, initializer=prepare_worker)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _cluster(address: str, folder: Path) -> Iterator[Executor]:
    from distributed import Client

    try:
        client = Client(address, timeout=CLUSTER_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise StageError(
            f"runtime.yaml: cluster={address!r} does not answer within {CLUSTER_SECONDS} s: {error}; allowed: the "
            f"address of a Dask scheduler, such as tcp://node1:8786; next: start `dask scheduler` there, or set "
            f"cluster: null to work on this machine"
        ) from None
    try:
        if not client.ncores():
            raise StageError(
                f"runtime.yaml: the scheduler at {address} has no worker; next: start `dask worker {address}` in the "
                f"repository's folder on each machine"
            )
        _check_shared(client, folder)
        yield client.get_executor(pure=False)
    finally:
        client.close()


def _check_shared(client: Any, folder: Path) -> None:
    """Every worker must see the files of the others: results are handed over as paths."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    try:
        blind = sorted(worker for worker, seen in client.run(os.path.exists, str(mark)).items() if not seen)
    finally:
        mark.unlink()
    if blind:
        raise StageError(
            f"worker(s) {', '.join(blind)} do not see {folder}; allowed: a file system shared under the same path; "
            f"next: mount it there, or leave these workers out"
        )


def worker_count(ctx: StageContext, executor: Executor) -> int:
    """How many units the executor computes at once."""
    client = getattr(executor, "_client", None)
    return sum(client.ncores().values()) if client is not None else ctx.cores


def prepare_worker() -> None:
    """Initializer of a worker process: one thread for each library, since there is a process per core."""
    for variable in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    end_with_parent()


def end_with_parent() -> None:
    """This process ends as soon as its parent is gone, even when that was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_order(
    ctx: StageContext, executor: Executor, function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], what: str
) -> Iterator[Any]:
    """function(*job) for every job, results in the order of `jobs`; only a few are waiting at any time.

    StageError: a worker process died. Finished units stay in the cache, so the next run goes on behind them.
    """
    room = worker_count(ctx, executor) * (1 + AHEAD_PER_WORKER)
    pending: dict[int, Future[Any]] = {}
    done: dict[int, Any] = {}
    source, submitted, given = iter(jobs), 0, 0
    exhausted = False
    try:
        while True:
            while not exhausted and len(pending) + len(done) < room:
                try:
                    job = next(source)
                except StopIteration:
                    exhausted = True
                    break
                pending[submitted] = executor.submit(function, *job)
                submitted += 1
            while given in pending and pending[given].done():
                done[given] = pending.pop(given).result()
                yield done.pop(given)
                given += 1
            if exhausted and not pending and not done:
                return
            ctx.check_stop()
            if given in pending and not pending[given].done():
                wait([pending[given]], timeout=1.0, return_when=FIRST_COMPLETED)
    except BrokenExecutor:
        raise StageError(
            f"{ctx.stage}: a worker process ended while {what}: killed from outside, or for lack of memory; finished "
            f"units are kept; next: run again, with a smaller runtime.yaml workers (now {ctx.cores}) if memory is short"
        ) from None
    finally:
        for future in pending.values():
            future.cancel()
