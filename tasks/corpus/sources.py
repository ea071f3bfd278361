"""Sources of text, and the one place that turns their parameters into documents."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks._context import StageContext
from tasks._params import StageParams
from tasks.corpus.files import find_files, harvest_file
from tasks.corpus.python_docs import harvest_descriptions, harvest_files, harvest_topics, list_files, share_out
from tasks.corpus.records import BadRecord, Document, Harvest


class PythonDocs(StageParams):
    """Documentation of the standard library and of the packages in requirements.lock: text that needs no download."""

    kind: Literal["python_docs"]
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """UTF-8 bytes of documentation taken from this source, in hash order of the ids; None takes everything."""
    max_package_bytes: Annotated[int, Field(gt=0)] = 3_000_000
    """Bytes of Python source read per package, so that a few very large ones do not dominate."""


class Files(StageParams):
    """The user's own files below data/text."""

    kind: Literal["files"]
    glob: str
    """Pattern relative to data/text, such as "**/*.jsonl.gz"."""


Source = Annotated[PythonDocs | Files, Field(discriminator="kind")]
Job = tuple[Callable[..., Harvest], tuple[Any, ...]]


def collect(
    ctx: StageContext, sources: Sequence[PythonDocs | Files], max_record_bytes: int
) -> list[tuple[int, Harvest]]:
    """What each source holds, as (source number, harvest) in a fixed order, read by `ctx.cores` processes."""
    jobs: list[tuple[int, Job]] = []
    for number, source in enumerate(sources):
        if isinstance(source, PythonDocs):
            lock = ctx.input("requirements.lock")
            portions = share_out(list_files(lock, source.max_package_bytes))
            jobs += [(number, (harvest_files, (portion,))) for portion in portions]
            jobs += [(number, (harvest_topics, ())), (number, (harvest_descriptions, (lock,)))]
        else:
            root = ctx.input("data/text")
            for name in find_files(root, source.glob):
                jobs.append((number, (harvest_file, (root, name, max_record_bytes))))
    harvests: list[tuple[int, Harvest]] = []
    with ctx.progress("corpus: reading", len(jobs), "portions") as bar:
        for (number, _), harvest in zip(jobs, _work(ctx, [job for _, job in jobs]), strict=True):
            harvests.append((number, harvest))
            bar.update(1)
    return harvests


def _work(ctx: StageContext, jobs: list[Job]) -> Any:
    workers = min(ctx.cores, len(jobs))
    if workers <= 1:
        for function, arguments in jobs:
            ctx.check_stop()
            yield function(*arguments)
        return
    # "spawn" because the parent may already run threads of polars, which a forked child would inherit half-alive.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in jobs]
        try:
            for future in futures:
                ctx.check_stop()
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def end_with_parent() -> None:
    """Initializer of a worker: it ends as soon as its parent is gone, even when that was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def flatten(harvests: list[tuple[int, Harvest]]) -> tuple[list[tuple[int, Document]], list[BadRecord]]:
    """All documents with their source number, and all bad records."""
    documents = [(number, document) for number, harvest in harvests for document in harvest.documents]
    return documents, [bad for _, harvest in harvests for bad in harvest.bad]
