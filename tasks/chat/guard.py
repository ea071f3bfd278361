"""What every request must pass before it reaches a route: Host, Origin, key, size. And the headers of every answer.

Covered: DNS rebinding (Host), pages of other sites (Origin), strangers (key), large or endlessly slow bodies, framing
and injected scripts (headers). Not covered: TLS and rate limits per client; put a reverse proxy in front for those.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tasks.chat.schema import RequestError

MAX_BODY_BYTES = 1_000_000
DISCARDED_BYTES, DISCARD_SECONDS = 8 * MAX_BODY_BYTES, 1.0
"""How much of a body that is too large, and for how long, is read on before it is refused."""
BODY_SECONDS = 15.0

_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware."""

    def __init__(self, app: Any, host: str, api_key: str | None) -> None:
        self.app, self.api_key = app, api_key
        # A key protects a public address already, and its names are not known to us; on loopback names are all we have.
        self.names = {"127.0.0.1", "localhost", "[::1]", host} if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope["path"], headers)
            body = await _read_body(headers, receive) if scope["method"] == "POST" else None
        except RequestError as problem:
            await _answer(problem, send_with_headers)
            return
        await self.app(scope, receive if body is None else _replay(body, receive), send_with_headers)

    def _check(self, path: str, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.names is not None and name not in self.names:
            raise RequestError(403, f"Host {host!r} is not this server; allowed: {', '.join(sorted(self.names))}")
        origin = headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != host:
            raise RequestError(403, f"requests from pages of {origin!r} are refused; allowed: pages of this server")
        if self.api_key and path.startswith("/v1/"):
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), self.api_key.encode()):
                raise RequestError(
                    401, "a valid API key is needed; send it as 'Authorization: Bearer KEY'", None, "invalid_api_key"
                )


async def _read_body(headers: dict[str, str], receive: Receive) -> bytes:
    too_large = RequestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes, the most this server reads")
    declared = headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
        await _discard(receive)
        raise too_large
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "the connection ended before the body did")
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    await _discard(receive)
                    raise too_large
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None


async def _discard(receive: Receive) -> None:
    """Read on, within limits, and keep nothing: a connection closed over unread bytes is reset, and the client sees
    that instead of the answer."""
    left = DISCARDED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then whatever the connection says (a disconnect)."""
    given = False

    async def replayed() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _answer(problem: RequestError, send: Send) -> None:
    body = json.dumps(problem.body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
