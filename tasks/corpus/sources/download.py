"""One download: ask, receive, ask again for the rest, verify. What it promises stands in fetch.py."""

import hashlib
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from tasks._errors import StageError
from tasks.corpus.sources.partial_file import PartialFile
from tasks.corpus.sources.remote import (
    TEMPORARY,
    Patience,
    RemoteFile,
    content_range,
    hub_token,
    remedy,
    retry_after_seconds,
    shown,
    version_of,
)

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState


class _Cancelled(Exception):  # noqa: N818 - not an error: the caller wants no more
    pass


class _Again(Exception):  # noqa: N818 - the next attempt may succeed
    def __init__(self, message: str, pause_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class _Corrupt(Exception):  # noqa: N818 - the bytes so far are not those of the file
    pass


class Stop:
    """Ends the downloads of several threads: between chunks, in pauses, and in a read that waits for the server."""

    def __init__(self) -> None:
        self._event, self._lock = Event(), Lock()
        self._sockets: set[socket.socket] = set()

    def set(self) -> None:
        with self._lock:
            self._event.set()
            for waiting in self._sockets:
                with suppress(OSError):  # already closed by the other side
                    waiting.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        if self._event.is_set():
            raise _Cancelled

    def sleep(self, seconds: float) -> None:
        if self._event.wait(seconds):
            raise _Cancelled

    @contextmanager
    def reading(self, response: "httpx.Response") -> Iterator[None]:
        """While the body of `response` is read, `set` breaks its connection."""
        own = response.extensions["network_stream"].get_extra_info("socket")
        with self._lock:
            self._sockets.add(own)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._sockets.discard(own)


def sha256_of(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Download:
    """The attempts to complete one partial file."""

    def __init__(
        self, file: RemoteFile, part: PartialFile, patience: Patience, client: "httpx.Client", stop: Stop
    ) -> None:
        self.file, self.part, self.patience, self.client, self.stop = file, part, patience, client, stop
        self.failures = self.corrupt = 0
        self.furthest = part.size
        self.ranges = True
        self.etag: str | None = None

    def run(self) -> RemoteFile:
        from tenacity import Retrying, retry_if_exception_type

        attempts = Retrying(
            stop=lambda _: self.failures >= self.patience.attempts,
            wait=self._pause_seconds,
            retry=retry_if_exception_type(_Again),
            sleep=self.stop.sleep,
            reraise=True,
        )
        try:
            digest = attempts(self._attempt)
        except _Again as last:
            of = "unknown" if self.file.bytes is None else f"{self.file.bytes:,}"
            raise StageError(
                f"corpus: {self.file.name} from {shown(self.file.url)}: given up after {self.failures} failure(s) "
                f"without progress, the last: {last}; {self.part.size:,} bytes of {of} are kept in "
                f"{self.part.path.name}; next: run again later, it goes on from there"
            ) from None
        self.stop.check()
        self.part.publish()
        return self.file._replace(bytes=self.part.size, sha256=digest, etag=self.file.etag or self.etag)

    def _pause_seconds(self, state: "RetryCallState") -> float:
        """Exponential; a random share of it, so that many workers do not come back at the same moment."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.pause_seconds if isinstance(error, _Again) else 0.0
        first, longest = self.patience.first_wait_seconds, self.patience.max_wait_seconds
        pause = min(longest, first * 2.0 ** (self.failures - 1)) * random.uniform(0.5, 1.0)
        return max(pause, asked + random.uniform(0, first) if asked else 0.0)

    def _attempt(self) -> str:
        """Ask for what is missing, then verify everything; returns the sha256."""
        try:
            if self.part.size != self.file.bytes or self._usable_version() is None:
                self._transfer()
            return self._verify()
        except _Corrupt as wrong:
            self.part.clear()
            self.corrupt += 1
            self.failures += 1
            if self.corrupt > 1:
                raise StageError(
                    f"corpus: {self.file.name} from {shown(self.file.url)} is not the pinned file, fetched twice: "
                    f"{wrong}; nothing of it is kept; next: to accept the new content delete its pin (the file below "
                    f"data/pins that names it) and correct a sha256 given in params.yaml; otherwise restore the file "
                    f"at its origin"
                ) from None
            raise _Again(str(wrong)) from None
        except _Again:
            grown = self.part.size - self.furthest
            self.failures = 1 if grown >= self.patience.progress_bytes else self.failures + 1
            self.furthest = max(self.furthest, self.part.size)
            raise

    def _verify(self) -> str:
        digest = sha256_of(self.part.path)
        measured = (("size", self.file.bytes, self.part.size), ("sha256", self.file.sha256, digest))
        for name, expected, found in measured:
            if expected is not None and expected != found:
                raise _Corrupt(f"{name} expected {expected}, found {found}")
        return digest

    def _usable_version(self) -> str | None:
        """Version of the bytes so far; None if they may belong to other content and no sha256 would tell."""
        version = self.part.version(self.file.url)
        return version if version or self.file.sha256 else None

    def _transfer(self) -> None:
        import httpx

        try:
            with (
                self.client.stream("GET", self.file.url, headers=self._headers()) as response,
                self.stop.reading(response),
            ):
                self._receive(response)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects, httpx.InvalidURL) as error:
            raise StageError(
                f"corpus: {self.file.name}: {shown(self.file.url)} cannot be asked: {error}; allowed: http and https "
                f"addresses; next: correct it"
            ) from None
        except httpx.TransportError as error:
            self.stop.check()
            # A server may announce more than there is: what counts is what we expect.
            if self.file.bytes is None or self.part.size != self.file.bytes:
                raise _Again(f"{type(error).__name__}: {error}") from None

    def _headers(self) -> dict[str, str]:
        headers = {}
        if self.file.hub and (token := hub_token()):
            headers["Authorization"] = f"Bearer {token}"
        version = self._usable_version()
        too_long = self.file.bytes is not None and self.part.size >= self.file.bytes
        if version is None or too_long or not self.ranges:
            self.part.clear()
        if self.part.size:
            headers["Range"] = f"bytes={self.part.size}-"
            if version:
                headers["If-Range"] = version
        return headers

    def _receive(self, response: "httpx.Response") -> None:
        self._check_status(response)
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            raise StageError(
                f"corpus: {self.file.name}: {shown(self.file.url)} sends the file encoded as {encoding!r}; allowed: "
                f"its bytes as they are (Content-Encoding identity); next: switch the server's compression off for it"
            )
        declared = self._place(response)
        complete = declared if self.file.bytes is None else self.file.bytes
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if complete is None and not chunked and self.file.sha256 is None:
            raise StageError(
                f"corpus: {self.file.name}: {shown(self.file.url)} does not say how long the file is, so a broken "
                f"connection would look like its end; next: give its sha256 in corpus.sources"
            )
        for chunk in response.iter_raw():
            self.stop.check()
            self.part.append(chunk)
            if complete is not None and self.part.size > complete:
                raise _Corrupt(f"size expected {complete}, found at least {self.part.size}")
        self.stop.check()
        if complete is not None and self.part.size < complete:
            raise _Again(f"the answer ended at byte {self.part.size:,} of {complete:,}")

    def _place(self, response: "httpx.Response") -> int | None:
        """Make the part ready for the body of `response`; returns the size of the whole file as the server tells it."""
        version = version_of(response.headers)
        self.etag = response.headers.get("ETag")
        if response.status_code == 200:
            self.part.restart(self.file.url, version)
            length = response.headers.get("Content-Length", "")
            return int(length) if length.isdecimal() else None
        start, total = content_range(response.headers.get("Content-Range", ""))
        if not start or start != self.part.size:
            self.ranges = False
            answered = response.headers.get("Content-Range")
            raise _Again(f"asked for the bytes from {self.part.size} on, answered Content-Range {answered!r}")
        known = self.part.version(self.file.url)
        if known and version and version != known:
            self.part.clear()
            raise _Again(f"the file changed meanwhile: version {known} before, {version} now")
        return total

    def _check_status(self, response: "httpx.Response") -> None:
        status = response.status_code
        if status in (200, 206):
            return
        reason = response.headers.get("X-Error-Message", response.reason_phrase)[:200]
        answer = f"{shown(self.file.url)} answers {status} {reason}".rstrip()
        if status == 416:  # "bytes */N": the file ends at N, where we asked for what comes behind
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
            if self.file.bytes is not None and size.isdecimal() and int(size) != self.file.bytes:
                raise _Corrupt(f"size expected {self.file.bytes}, found {size}")
            self.ranges = False
            raise _Again(answer)
        if status in TEMPORARY:
            pause = retry_after_seconds(response.headers)
            if pause <= self.patience.max_retry_after_seconds:
                raise _Again(answer, pause)
            answer += f" and asks to wait {pause:,.0f} s, allowed: {self.patience.max_retry_after_seconds:,.0f} s"
        raise StageError(f"corpus: {self.file.name}: {answer}; next: {remedy(status, self.file.hub)}")
