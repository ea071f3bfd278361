"""Cached units of work: a folder of results per unit, named after everything the result depends on.

A unit's folder appears by one rename of files that are on disk, so neither a killed worker nor a power cut leaves
anything that counts, and an interrupted run repeats at most the units its workers were computing. The key covers
content, options, code and library versions; the folder holds no markers that could go stale. Its time says when a run
last used it: `flows gc` removes what the last finished run did not use, and nothing that was used since, which an
unfinished run will want again.
"""

import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from tasks._context import StageContext
from tasks._errors import StageError
from tasks._executor import Known, in_order
from tasks._files import remove, write_json

ROOT = Path(__file__).resolve().parent.parent
USED = "used.json"
EVERY_PASS = ("numpy", "polars", "pyarrow")
"""Libraries through which every pass reads and writes."""
ABANDONED_SECONDS = 3600.0
"""A folder that nobody has written into for so long belongs to a killed worker, not to a busy one."""
VISIBLE_SECONDS = 60.0
"""How long a file system of several machines may take to show what a worker has written."""
SETTLED_NS = 2 * 10**9
"""A file changed less than this ago may change again within the same tick of its clock."""


class Unit(NamedTuple):
    """One call of `function(out, *arguments)`, which fills the folder `out`."""

    folder: Path
    arguments: tuple[Any, ...]


def unit_key(*parts: object) -> str:
    """32 hex digits of what a result depends on; parts are JSON values, tuples and paths count as lists and text."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=_path_text)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _path_text(part: object) -> str:
    if isinstance(part, PurePath):
        return str(part)
    # str() of a set or an object differs from process to process: nothing would ever be found again.
    raise TypeError(f"{type(part).__name__} {part!r} cannot be part of a unit's key")


@cache
def code_version(modules: tuple[str, ...], libraries: tuple[str, ...]) -> str:
    """Digest of source files (relative to the repository) and of the versions that decide a pass's result.

    Read once per process: a process goes on with the code it has loaded, whatever becomes of the files.
    """
    sources = [hashlib.sha256((ROOT / module).read_bytes()).hexdigest() for module in modules]
    names = sorted({*EVERY_PASS, *libraries})
    # Python's minor version brings its own tables of Unicode.
    return unit_key(sources, sys.version_info[:2], [f"{name}=={version(name)}" for name in names])


_DIGESTS: dict[Path, tuple[tuple[int, ...], str]] = {}


def digest_of(path: Path) -> str:
    """128-bit digest of a file's bytes; remembered in this process for as long as the file is not touched."""
    found = path.stat()
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    known = _DIGESTS.get(path)
    if known is not None and known[0] == state:
        return known[1]
    digest = _file_digest(path)
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_NS:
        _DIGESTS[path] = (state, digest)
    return digest


def _file_digest(path: Path) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def compute(function: Callable[..., None], folder: str, arguments: tuple[Any, ...]) -> str:
    """Fill `folder` unless it exists. Runs in a worker."""
    target = Path(folder)
    if target.exists():
        _mark_used(target)
        return folder
    target.parent.mkdir(parents=True, exist_ok=True)
    own = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    own.mkdir()
    try:
        function(own, *arguments)
        _flush(own)
        _mark_used(own)
        _rename(own, target)
    finally:
        remove(own)
    return folder


def _flush(folder: Path) -> None:
    """Have everything on disk before the folder gets its name: the name alone might survive a power cut."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(own: Path, target: Path) -> None:
    try:
        os.replace(own, target)
    except OSError:
        if not target.exists():  # otherwise another worker was first, with the same content
            raise


def _mark_used(unit: Path) -> None:
    with suppress(PermissionError):  # another user's unit in a shared cache: only its owner's `flows gc` counts
        os.utime(unit)


def compute_all(
    ctx: StageContext,
    executor: Executor,
    function: Callable[..., None],
    units: Iterable[Unit],
    total: int | None,
    what: str,
) -> Iterator[Path]:
    """The folders of all units in order, computing those that are missing. No worker is asked for the others."""

    def jobs() -> Iterator[tuple[Any, ...] | Known]:
        for unit in units:
            if unit.folder.exists():
                _mark_used(unit.folder)
                yield Known(str(unit.folder))
            else:
                yield function, str(unit.folder), unit.arguments

    with ctx.progress(f"{ctx.stage}: {what}", total, "units") as bar:
        for folder in in_order(ctx, executor, compute, jobs(), what):
            _wait_until_visible(Path(folder), what)
            bar.update(1)
            yield Path(folder)


def _wait_until_visible(folder: Path, what: str) -> None:
    """A network file system may remember for a while that a name did not exist; listing the parent reminds it."""
    until = time.monotonic() + VISIBLE_SECONDS
    while not folder.exists():
        if time.monotonic() > until:
            raise StageError(
                f"{what}: a worker has written {folder}, which does not appear here within {VISIBLE_SECONDS:g} s; "
                f"allowed: a file system shared under the same path; next: take that worker out of the cluster"
            )
        if folder.parent.exists():
            os.listdir(folder.parent)
        time.sleep(0.2)


def keep_only(cache_folder: Path, used: Iterable[Path]) -> None:
    """Note which units the finished run used, for `unused`."""
    write_json(cache_folder / USED, sorted(path.relative_to(cache_folder).as_posix() for path in set(used)))


def unused(cache_folder: Path) -> list[Path]:
    """Folders that no run will miss: units the last finished run did not use, unless a run has used them since and did
    not finish; and what killed workers left, once nobody has written into it for ABANDONED_SECONDS."""
    listed = cache_folder / USED
    used: set[str] = set()
    finished = -1.0  # before the first finished run every unit belongs to one that is not finished
    if listed.is_file():
        used, finished = set(json.loads(listed.read_text(encoding="utf-8"))), listed.stat().st_mtime

    def is_unused(path: Path) -> bool:
        if path.name.startswith("."):
            return time.time() - _last_written(path) > ABANDONED_SECONDS
        return path.relative_to(cache_folder).as_posix() not in used and path.stat().st_mtime <= finished

    return sorted(path for path in cache_folder.glob("*/*") if path.is_dir() and is_unused(path))


def unfinished(cache_folder: Path) -> list[Path]:
    """Units used since the last finished run: the work of one that was interrupted, or still runs."""
    listed = cache_folder / USED
    finished = listed.stat().st_mtime if listed.is_file() else -1.0
    units = (path for path in cache_folder.glob("*/*") if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in units if path.stat().st_mtime > finished)


def _last_written(folder: Path) -> float:
    return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
