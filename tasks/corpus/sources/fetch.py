"""Download remote files: whole and verified under their final name, or resumable as <name>.part.

Promise  a file appears under its name only when its size and sha256 are those expected (where they are known)
         whatever ends a download (kill, full disk, server) leaves the bytes so far; the next attempt or run asks for
         the rest (Range), and only if the remote file is still the same one (If-Range, ETag)
         the hub token goes to the hub alone: not to `url` sources, not along a redirect to another host
Covered  dropped, stalled and short answers, temporary statuses and Retry-After, ignored or wrong ranges, lengths that
         are not true, corrupt bytes, a remote file that changes, a full disk, several processes with the same target
Not covered  a file of which neither size nor sha256 is known in advance is believed as its server describes it; a
         server that keeps sending, but very slowly, is waited for
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.corpus.sources.download import Download, Stop, sha256_of
from tasks.corpus.sources.partial_file import PartialFile
from tasks.corpus.sources.remote import Patience, RemoteFile, local_path

if TYPE_CHECKING:
    import httpx

__all__ = ["Patience", "RemoteFile", "fetch", "fetch_all"]

POLL_SECONDS = 0.2


def fetch(
    file: RemoteFile,
    target: Path,
    patience: Patience | None = None,
    client: "httpx.Client | None" = None,
    stop: Stop | None = None,
) -> RemoteFile:
    """Download `file` to `target`, unless that is there already with the expected sha256.

    Returns the file with measured size and sha256. StageError: given up, refused, not the expected content, disk full.
    """
    patience, stop = patience or Patience(), stop or Stop()
    if client is None:
        with _new_client(patience) as own:
            return fetch(file, target, patience, own, stop)
    if present := _present(file, target):
        return present
    with PartialFile(target, file.bytes, stop.sleep) as part:
        # Whoever held the lock before us may have finished the file.
        if present := _present(file, target):
            part.clear()
            return present
        return Download(file, part, patience, client, stop).run()


def fetch_all(
    files: Iterable[RemoteFile],
    folder: Path,
    workers: int,
    look_ahead: int | None = None,
    patience: Patience | None = None,
    check_stop: Callable[[], None] | None = None,
) -> Generator[RemoteFile, None, None]:
    """Fetch to folder/<name>; yields the measured files in order, each as soon as it and all before it are there.

    At most `look_ahead` files (default: two per worker) are fetched beyond the one yielded last, so a consumer that
    deletes each file after use never has more than that on disk. An error is raised in its file's place. Closing the
    generator ends the downloads; their parts stay. `check_stop` is called while waiting, and may raise.
    """
    patience, stop = patience or Patience(), Stop()
    ahead = 2 * workers if look_ahead is None else look_ahead
    source, waiting = iter(files), deque[Future[RemoteFile]]()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fetch")
    client = _new_client(patience)

    def start(file: RemoteFile) -> RemoteFile:
        return fetch(file, local_path(folder, file.name), patience, client, stop)

    def fill(length: int) -> None:
        while len(waiting) < length and (file := next(source, None)) is not None:
            waiting.append(pool.submit(start, file))

    try:
        fill(max(1, ahead))
        while waiting:
            while not wait(list(waiting)[:1], POLL_SECONDS).done:
                if check_stop:
                    check_stop()
            measured = waiting.popleft().result()
            fill(ahead)
            yield measured
            fill(max(1, ahead))
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        client.close()


def _new_client(patience: Patience) -> "httpx.Client":
    """Shared by threads. Takes proxies from the environment."""
    import httpx

    # httpx drops the Authorization header when a redirect leaves scheme, host or port of the first request.
    return httpx.Client(
        follow_redirects=True,
        timeout=httpx.Timeout(patience.read_seconds, connect=patience.connect_seconds, pool=None),
        limits=httpx.Limits(max_connections=None),
        headers={"Accept-Encoding": "identity", "User-Agent": "zero2chat"},
    )


def _present(file: RemoteFile, target: Path) -> RemoteFile | None:
    """A file of unknown sha256 does not count as present: it may belong to an older pin."""
    if file.sha256 is None or not target.is_file() or sha256_of(target) != file.sha256:
        return None
    return file._replace(bytes=target.stat().st_size)
