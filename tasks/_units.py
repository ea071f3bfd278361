"""Cached units of work: a folder of results per unit, named after everything the result depends on.

A unit's folder appears by one rename, so a killed worker leaves nothing that counts, and an interrupted run repeats at
most the units its workers were computing. The key covers content, options, code and library versions; the folder holds
no markers that could go stale. `flows gc` removes what the last finished run did not use.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tasks._context import StageContext
from tasks._executor import in_order
from tasks._files import remove, write_json

ROOT = Path(__file__).resolve().parent.parent
USED = "used.json"


class Unit(NamedTuple):
    """One call of `function(out, *arguments)`, which fills the folder `out`."""

    folder: Path
    arguments: tuple[Any, ...]


def unit_key(*parts: object) -> str:
    """32 hex digits of what a result depends on; parts are JSON values, tuples and paths count as lists and text."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def code_version(modules: Sequence[str], libraries: Sequence[str]) -> str:
    """Digest of source files (relative to the repository) and of library versions that decide a pass's result."""
    sources = [hashlib.sha256((ROOT / module).read_bytes()).hexdigest() for module in modules]
    return unit_key(sources, [f"{name}=={version(name)}" for name in libraries])


@cache
def file_digest(path: Path, size: int, modified_ns: int) -> str:
    """128-bit digest of a file's bytes; size and time only keep one process from using an old answer."""
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """128-bit digest of a file's bytes."""
    status = path.stat()
    return file_digest(path, status.st_size, status.st_mtime_ns)


def compute(function: Callable[..., None], folder: str, arguments: tuple[Any, ...]) -> str:
    """Fill `folder` unless it exists. Runs in a worker."""
    target = Path(folder)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        own = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        own.mkdir()
        try:
            function(own, *arguments)
            _rename(own, target)
        finally:
            remove(own)
    return folder


def _rename(own: Path, target: Path) -> None:
    try:
        os.replace(own, target)
    except OSError:
        if not target.exists():  # otherwise another worker was first, with the same content
            raise


def compute_all(
    ctx: StageContext,
    executor: Executor,
    function: Callable[..., None],
    units: Iterable[Unit],
    total: int | None,
    what: str,
) -> Iterator[Path]:
    """The folders of all units in order, computing those that are missing."""
    with ctx.progress(f"{ctx.stage}: {what}", total, "units") as bar:
        jobs = ((function, str(unit.folder), unit.arguments) for unit in units)
        for folder in in_order(ctx, executor, compute, jobs, what):
            bar.update(1)
            yield Path(folder)


def keep_only(cache_folder: Path, used: Iterable[Path]) -> None:
    """Note which units the finished run used, for `unused`."""
    write_json(cache_folder / USED, sorted(path.relative_to(cache_folder).as_posix() for path in set(used)))


def unused(cache_folder: Path) -> list[Path]:
    """Folders of units the last finished run did not use, and what killed workers left; all, if none has finished."""
    listed = cache_folder / USED
    used = set(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else set()
    units = [path for path in cache_folder.glob("*/*") if path.is_dir()]
    return sorted(path for path in units if path.relative_to(cache_folder).as_posix() not in used)
