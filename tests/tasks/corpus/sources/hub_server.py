"""A hub on loopback that misbehaves as told: the URL layout of a Hugging Face hub, with a script per file."""

import gzip
import hashlib
import json
import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tasks.corpus.sources.fetch import RemoteFile

COMMIT = "c0ffee" + "0" * 34


class Answer(NamedTuple):
    """How one request for a file is answered; the default is correct."""

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    """Another content than the file's."""
    etag: str | None = None
    """"" sends none."""
    drop_after: int | None = None
    """Bytes of the body before the connection breaks."""
    stall_after: int | None = None
    """Bytes of the body before nothing comes any more."""
    declare: int | None = None
    """Added to the true Content-Length."""
    ignore_range: bool = False
    ignore_if_range: bool = False
    shift_range: int = 0
    """Answer a range that begins so many bytes later than asked."""
    flip: bool = False
    """One wrong byte, right length."""
    gzip: bool = False
    chunked: bool = False
    unsized: bool = False
    """Neither Content-Length nor chunks: the end of the connection is the end of the file."""


class Seen(NamedTuple):
    """One request."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def first_byte(self) -> int | None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else None


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""


class HubServer:
    """Serves `files` as a dataset (any owner/name) and, below /files/, as plain addresses."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.plain: set[str] = set()
        """Files in git itself: the listing tells no sha256."""
        self.commit = COMMIT
        self.page_files = 2
        self.cdn: HubServer | None = None
        """Where downloads are redirected to."""
        self.script: dict[str, list[Answer]] = {}
        """Answers for the next requests of a file, or of "info" and "tree"."""
        self.always: dict[str, Answer] = {}
        """Answer when the script of a name is over."""
        self.seen: list[Seen] = []
        self.released = threading.Event()
        self.server = _Quiet(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def known(self, name: str) -> RemoteFile:
        """A file of known size and sha256, as a large one on a hub."""
        content = self.files[name]
        return RemoteFile(name, self.address(name), len(content), hashlib.sha256(content).hexdigest(), None)

    def unknown(self, name: str) -> RemoteFile:
        """A file of which nothing is known, as of a URL at first."""
        return RemoteFile(name, self.address(name), None, None, None)

    def offsets(self, name: str) -> list[int | None]:
        """First byte asked for by each request for a file; None: no range."""
        return [seen.first_byte for seen in self.requests(name)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def address(self, name: str) -> str:
        return f"{self.url}/files/{quote(name)}"

    def requests(self, name: str) -> list[Seen]:
        return [seen for seen in self.seen if unquote(seen.path).endswith("/" + name)]

    def next_answer(self, name: str) -> Answer:
        waiting = self.script.get(name)
        return waiting.pop(0) if waiting else self.always.get(name, Answer())

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # With Nagle's algorithm the small writes of headers and body would wait for delayed acknowledgements.
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.seen.append(Seen(parts.path, parse_qs(parts.query), headers))
            with suppress(BrokenPipeError, ConnectionResetError):
                self._route(parts.path)

        def _route(self, path: str) -> None:
            if found := re.fullmatch(r"/api/datasets/[^/]+/[^/]+/tree/([^/]+)(?:/(.+))?", path):
                self._tree(found[1], unquote(found[2] or ""))
            elif found := re.fullmatch(r"/api/datasets/[^/]+/[^/]+(?:/revision/(.+))?", path):
                self._info(unquote(found[1] or "main"))
            elif found := re.fullmatch(r"/datasets/[^/]+/[^/]+/resolve/([^/]+)/(.+)", path):
                if found[1] != hub.commit:
                    self._refuse(404, "RevisionNotFound")
                elif hub.cdn:
                    self._send(302, {"Location": f"{hub.cdn.url}/files/{found[2]}?signature=secret"}, b"")
                else:
                    self._file(unquote(found[2]))
            elif path.startswith("/files/"):
                self._file(unquote(path.removeprefix("/files/")))
            else:
                self._refuse(404, "RepoNotFound")

        def _info(self, revision: str) -> None:
            answer = hub.next_answer("info")
            if answer.status or answer.body is not None:
                self._send(answer.status or 200, dict(answer.headers), answer.body or b"")
            elif revision not in ("main", hub.commit):
                self._refuse(404, "RevisionNotFound")
            else:
                self._json({"id": "owner/name", "sha": hub.commit})

        def _tree(self, commit: str, folder: str) -> None:
            answer = hub.next_answer("tree")
            if answer.stall_after is not None:
                hub.released.wait(30)
            if answer.status:
                self._send(answer.status, dict(answer.headers), b"")
                return
            if answer.drop_after is not None:
                self.close_connection = True
                return
            if commit != hub.commit:
                self._refuse(404, "RevisionNotFound")
                return
            names = sorted(name for name in hub.files if name.startswith(folder + "/" if folder else ""))
            if folder and not names:
                self._refuse(404, "EntryNotFound")
                return
            query = parse_qs(urlsplit(self.path).query)
            start = int(query.get("cursor", ["0"])[0])
            page = names[start : start + hub.page_files]
            entries: list[dict[str, Any]] = (
                [{"type": "directory", "path": "data", "oid": "0" * 40}] if not start else []
            )
            for name in page:
                content = hub.files[name]
                oid = hashlib.sha1(b"blob" + content).hexdigest()
                entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": oid}
                if name not in hub.plain:
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
                entries.append(entry)
            more = start + hub.page_files
            link = f'<{hub.url}{urlsplit(self.path).path}?recursive=true&cursor={more}>; rel="next"'
            self._json(entries, {"Link": link} if more < len(names) else {})

        def _json(self, content: Any, headers: dict[str, str] | None = None) -> None:
            self._send(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(content).encode())

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, {"X-Error-Code": code}, b"")

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            (self.send_response_only if "Date" in headers else self.send_response)(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _file(self, name: str) -> None:
            answer = hub.next_answer(name)
            if answer.status or name not in hub.files:
                self._send(answer.status or 404, dict(answer.headers), b"no")
                return
            content = hub.files[name] if answer.body is None else answer.body
            etag = f'"{hashlib.md5(content).hexdigest()}"' if answer.etag is None else answer.etag
            headers = {"ETag": etag} if etag else {}
            first = self._first_byte(answer, etag)
            status = 200
            if first is not None and first >= len(content):
                self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            if first is not None:
                status, first = 206, first + answer.shift_range
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._body(answer, status, headers, content, first or 0)

        def _first_byte(self, answer: Answer, etag: str) -> int | None:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = answer.ignore_if_range or self.headers.get("If-Range", etag) == etag
            return int(found[1]) if found and same and not answer.ignore_range else None

        def _body(self, answer: Answer, status: int, headers: dict[str, str], content: bytes, first: int) -> None:
            if answer.flip:
                content = content[:-1] + bytes([content[-1] ^ 1])
            body = content[first:]
            if answer.gzip:
                body = gzip.compress(body)
                headers["Content-Encoding"] = "gzip"
            if answer.chunked:
                headers["Transfer-Encoding"] = "chunked"
            elif not answer.unsized:
                headers["Content-Length"] = str(len(body) + (answer.declare or 0))
            self.send_response(status)
            for name, value in {**headers, **dict(answer.headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            end = next((n for n in (answer.drop_after, answer.stall_after) if n is not None), len(body))
            self._write(body[:end], answer.chunked)
            self.wfile.flush()
            if answer.stall_after is not None:
                hub.released.wait(30)
            if answer.chunked and end >= len(body):
                self.wfile.write(b"0\r\n\r\n")
            if end < len(body) or answer.unsized or answer.declare:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_WR)

        def _write(self, body: bytes, chunked: bool) -> None:
            for start in range(0, len(body), 8192):
                piece = body[start : start + 8192]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if chunked else piece)

    return Handler
