"""What remote sources held when they were first fetched: data/pins/<key>.json, kept under version control.

Promise  a source that is pinned yields the same files for ever, or an error that names the file, what is pinned and
         what was found; without a pin nothing would tell that a dataset changed between two runs
         more `shards` or `max_bytes` extend a pin, at the pinned commit, and touch no entry; fewer leave it as it is
         two processes that pin at once write one pin
Covered  a hub is asked only when a pin is made or extended: later runs work without it
Layout   a hub source has a pin of its own, whatever its endpoint (a mirror must hold the same) or domain; all sources
         of kind url share one, an entry per URL
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from tasks._errors import StageError
from tasks._files import write_json
from tasks._params import StageParams
from tasks.corpus.sources.hub import Hub, Urls, list_remote, resolve
from tasks.corpus.sources.hub_repository import Repository
from tasks.corpus.sources.remote import Patience, RemoteFile, check_name


class PinnedFile(StageParams):
    """What was found at first; None: not known yet, filled in after the first download."""

    name: str
    """Path in the repository, or the URL."""
    bytes: int | None = None
    sha256: str | None = None
    etag: str | None = None
    """Git's hash of the file (hub) or the server's ETag (url)."""


class Pin(StageParams):
    """One file below data/pins."""

    source: dict[str, str]
    """What is pinned, for people; the file's name is its hash."""
    commit: str | None = None
    complete: bool = False
    """Whether every file that matches is listed; else the first ones, in the order of their names."""
    files: tuple[PinnedFile, ...]


def identity(source: Hub | Urls) -> dict[str, str]:
    """What makes two sources the same as far as their content goes."""
    if isinstance(source, Urls):
        return {"kind": "url"}
    return {"kind": "hub", "dataset": source.dataset, "revision": source.revision, "glob": source.glob}


def pin_path(source: Hub | Urls, pins_folder: Path) -> Path:
    """The source's pin; its stem is also a good name for the folder its files are fetched to."""
    text = json.dumps(identity(source), sort_keys=True)
    return pins_folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def pin(source: Hub | Urls, pins_folder: Path, patience: Patience | None = None) -> list[RemoteFile]:
    """The files to fetch, as pinned; what is not pinned yet is looked up and pinned now.

    StageError: the source cannot be listed, or differs from its pin.
    """
    path = pin_path(source, pins_folder)
    with _locked(pins_folder):
        pinned = _read(path)
        if isinstance(source, Urls):
            return _pin_urls(source, path, pinned)
        return _pin_hub(source, path, pinned, patience or Patience())


def complete_pin(source: Hub | Urls, pins_folder: Path, measured: RemoteFile) -> None:
    """Fill in what was not known before the first download. StageError: `measured` differs from what is pinned."""
    path = pin_path(source, pins_folder)
    key = measured.url if isinstance(source, Urls) else measured.name
    found = PinnedFile(name=key, bytes=measured.bytes, sha256=measured.sha256)
    with _locked(pins_folder):
        pinned = _read(path)
        at = next((i for i, file in enumerate(pinned.files) if file.name == key), None) if pinned else None
        if pinned is None or at is None:
            raise StageError(
                f"{path}: {key} has lost its entry while it was fetched; next: restore the pin or run again"
            )
        entry = pinned.files[at]
        _check_same(path, entry, found)
        etag = entry.etag or (measured.etag if isinstance(source, Urls) else None)
        filled = PinnedFile(name=key, bytes=measured.bytes, sha256=measured.sha256, etag=etag)
        if filled != entry:
            _write(path, pinned.model_copy(update={"files": (*pinned.files[:at], filled, *pinned.files[at + 1 :])}))


def _pin_urls(source: Urls, path: Path, pinned: Pin | None) -> list[RemoteFile]:
    entries = {file.name: file for file in pinned.files} if pinned else {}
    files = []
    for file in list_remote(source):
        given = PinnedFile(name=file.url, sha256=file.sha256)
        entry = entries.setdefault(file.url, given)
        _check_same(path, entry, given)
        files.append(file._replace(bytes=entry.bytes, sha256=entry.sha256 or file.sha256, etag=entry.etag))
    new = Pin(source=identity(source), files=tuple(entries[name] for name in sorted(entries)))
    if new != pinned:
        _write(path, new)
    return files


def _pin_hub(source: Hub, path: Path, pinned: Pin | None, patience: Patience) -> list[RemoteFile]:
    if pinned is None or pinned.commit is None or not _covers(pinned, source):
        commit = pinned.commit if pinned and pinned.commit else resolve(source, patience)
        listed = [
            PinnedFile(name=file.name, bytes=file.bytes, sha256=file.sha256, etag=file.etag)
            for file in list_remote(source, commit, patience)
        ]
        pinned = _extended(source, path, pinned, commit, listed)
        _write(path, pinned)
    repository = Repository.at(source.dataset, source.endpoint)
    files = []
    for file in _take(pinned.files, source):
        check_name(file.name)  # the pin may have been edited
        url = repository.url(file.name, str(pinned.commit))
        files.append(RemoteFile(file.name, url, file.bytes, file.sha256, file.etag, hub=True))
    return files


def _extended(source: Hub, path: Path, pinned: Pin | None, commit: str, listed: list[PinnedFile]) -> Pin:
    """The pin with what `source` asks for beyond it; entries that exist stay as they are."""
    entries = {file.name: file for file in pinned.files} if pinned else {}
    found = {file.name: file for file in listed}
    for name, entry in entries.items():
        if name not in found:
            raise StageError(f"{path}: {name} is pinned, and is not there any more; {_next(path)}")
        _check_same(path, entry, found[name])
    merged = [entries.get(file.name, file) for file in listed]
    taken = _take(merged, source)
    return Pin(source=identity(source), commit=commit, complete=len(taken) == len(listed), files=tuple(taken))


def _take(files: Sequence[PinnedFile], source: Hub) -> list[PinnedFile]:
    """The first `shards` files, or as many as it takes to reach `max_bytes`; a size not known yet counts as nothing."""
    taken: list[PinnedFile] = []
    total_bytes = 0
    for file in files:
        if _enough(source, len(taken), total_bytes):
            break
        taken.append(file)
        total_bytes += file.bytes or 0
    return taken


def _enough(source: Hub, files: int, total_bytes: int) -> bool:
    by_number = source.shards is not None and files >= source.shards
    return by_number or (source.max_bytes is not None and total_bytes >= source.max_bytes)


def _covers(pinned: Pin, source: Hub) -> bool:
    return pinned.complete or _enough(source, len(pinned.files), sum(file.bytes or 0 for file in pinned.files))


def _check_same(path: Path, entry: PinnedFile, found: PinnedFile) -> None:
    differences = [
        f"{what} {old} is pinned, {new} found"
        for what, old, new in (
            ("size", entry.bytes, found.bytes),
            ("sha256", entry.sha256, found.sha256),
            ("content", entry.etag, found.etag),
        )
        if old is not None and new is not None and old != new
    ]
    if differences:
        raise StageError(f"{path}: {entry.name} differs: {'; '.join(differences)}; {_next(path)}")


def _next(path: Path) -> str:
    return f"next: delete {path} (or this entry) to accept the new content, or restore the file at its origin"


def _read(path: Path) -> Pin | None:
    try:
        return Pin.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StageError(
            f"{path} is not a pin: {where}: {first['msg']}; next: restore it from version control, or delete it to pin "
            f"what is there now"
        ) from None


def _write(path: Path, content: Pin) -> None:
    write_json(path, content.model_dump(mode="json"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time. The lock is on the folder itself, so nothing is left in it; a kill frees it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
