"""Folders and JSON files that are written all or nothing: under a temporary name, flushed to the disk, renamed.

What has its final name was complete. Covered: a writer killed at any moment, a full disk, two writers at once. Not
covered: damage done later (checksums are for that), and a disk that acknowledges a flush it has not done.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY = ".unfinished"
"""End of the name of what is being written, or was when its writer was killed."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """Write a single JSON file all or nothing."""
    remove_left_behind(path.parent, path.name)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    lock = _make_locked(temporary, temporary.touch)
    try:
        write_json(temporary, content)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


def write_folder(target: Path | Callable[[], Path], write: Callable[[Path], None]) -> Path:
    """Have `write` fill a temporary folder, flush it, and rename it; -> its name, which replaces a folder of that name.

    `target` may be a function that names a free place: it is asked again should another writer have taken it.
    Every writer has a folder of its own and holds a lock on it, so two never mix, and what a killed one left behind
    is told apart from what is being written, and removed.
    """
    name = target if isinstance(target, Path) else target()
    name.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(name.parent, name.name if isinstance(target, Path) else "step_")
    temporary = name.with_name(f"{name.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    lock = _make_locked(temporary, temporary.mkdir)
    try:
        write(temporary)
        for path in temporary.iterdir():
            _flush_to_disk(path)
        _flush_to_disk(temporary)
        if isinstance(target, Path):
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        else:
            name = _rename_to_free(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # frees the disk; of a killed writer the next one removes it
        raise
    finally:
        os.close(lock)
    _flush_to_disk(name.parent)
    return name


def remove_left_behind(folder: Path, prefix: str) -> None:
    """Remove what writers that are gone left under names with this prefix: nobody holds its lock any more."""
    for path in folder.glob(f"{prefix}*{TEMPORARY}"):
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # finished meanwhile
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        except OSError:  # held: another writer is at work; or a file system without locks, where nothing is removed
            continue
        finally:
            os.close(lock)


def _make_locked(path: Path, make: Callable[[], None]) -> int:
    """Make a file or folder and lock it; -> the open descriptor. Anew if a cleaner was faster than the lock."""
    while True:
        with contextlib.suppress(FileExistsError):
            make()
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # a file system without locks: nothing is cleaned up there
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return lock
        os.close(lock)


def _rename_to_free(temporary: Path, free_name: Callable[[], Path]) -> Path:
    while True:
        name = free_name()
        try:
            os.rename(temporary, name)  # fails, and harms nothing, where a state is already
            return name
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
