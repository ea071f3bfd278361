"""<name>.part: the bytes of a download so far, and <name>.part.json: which remote content they belong to."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks._errors import StageError

LOCK_SECONDS = 0.1


class PartialFile:
    """The unfinished form of `target`, locked against other processes and threads while it is open."""

    def __init__(self, target: Path, expected_bytes: int | None, pause: Callable[[float], None]) -> None:
        self.target, self.expected_bytes = target, expected_bytes
        self.path = target.with_name(target.name + ".part")
        self._about = target.with_name(target.name + ".part.json")
        with self._disk():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._lock(pause)
        self.size = os.fstat(self._file).st_size

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.size == 0 and self._is_own(self._file):
                self.remove()
        finally:
            os.close(self._file)

    def _lock(self, pause: Callable[[float], None]) -> int:
        while True:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                while not _locked(file):
                    pause(LOCK_SECONDS)
            except BaseException:
                os.close(file)
                raise
            if self._is_own(file):
                return file
            os.close(file)  # whoever held the lock has finished, and the name is free or another file's

    def _is_own(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def version(self, url: str) -> str | None:
        """Version of the remote content the bytes belong to, "" if its server told none; None: not from this URL."""
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            return str(about["version"]) if about["url"] == url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def restart(self, url: str, version: str) -> None:
        """No bytes yet; those to come are of this version."""
        with self._disk():
            self.clear()
            self._about.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")

    def append(self, chunk: bytes) -> None:
        """Write at the end; every byte that could be written counts, even if the disk is full in the middle."""
        rest = memoryview(chunk)
        with self._disk():
            while rest:
                written = os.write(self._file, rest)
                self.size += written
                rest = rest[written:]

    def clear(self) -> None:
        """Throw the bytes away."""
        # Emptied before its description changes: a kill in between must not leave old bytes described as new ones.
        with self._disk():
            os.ftruncate(self._file, 0)
            self.size = 0
            self._about.unlink(missing_ok=True)

    def remove(self) -> None:
        self._about.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def publish(self) -> None:
        """The bytes become `target` in one step."""
        with self._disk():
            os.fsync(self._file)
            os.replace(self.path, self.target)
            self._about.unlink(missing_ok=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Errors of the local disk, told as StageError."""
        try:
            yield
        except OSError as error:
            folder = next(parent for parent in self.target.parents if parent.is_dir())
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise StageError(
                    f"corpus: {self.target.name} cannot be written to {folder}: {error.strerror or error}; next: make "
                    f"the folder writable and run again"
                ) from error
            have = self.path.stat().st_size if self.path.exists() else 0
            missing = "an unknown number of" if self.expected_bytes is None else f"{self.expected_bytes - have:,}"
            raise StageError(
                f"corpus: the disk is full: {folder} has {shutil.disk_usage(folder).free:,} bytes free, "
                f"{self.target.name} needs {missing} more; what has been fetched is kept in {self.path.name}; next: "
                f"free space, or take fewer bytes with `shards` or `max_bytes`, and run again"
            ) from error


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
