"""What is known of a remote file, and what its server's answers mean."""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tasks._errors import StageError

TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
"""Statuses that may be gone at the next attempt."""
MAX_NAME_BYTES = 240
"""Of one component of a path; file systems allow 255, and the name of an unfinished file is longer."""


class RemoteFile(NamedTuple):
    """One file to fetch, and what is known of it."""

    name: str
    """Relative path with forward slashes; becomes the local path."""
    url: str
    bytes: int | None
    sha256: str | None
    etag: str | None
    """Version of the content in the server's own terms; for information."""
    hub: bool = False
    """HF_TOKEN may be sent to the host of `url`."""


class Patience(NamedTuple):
    """How long a server is asked again."""

    attempts: int = 6
    """Failures in a row; one that brought `progress_bytes` of new content starts the count again."""
    progress_bytes: int = 1 << 20
    first_wait_seconds: float = 1.0
    max_wait_seconds: float = 60.0
    max_retry_after_seconds: float = 3600.0
    """A server that asks for a longer pause (Retry-After) is an error."""
    connect_seconds: float = 15.0
    read_seconds: float = 30.0
    """Without a single byte."""


def check_name(name: str) -> None:
    """StageError unless `name` is a plain relative path that can be created below a folder."""
    parts = name.split("/")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        longest = MAX_NAME_BYTES + 1
    plain = name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)
    if not plain or longest > MAX_NAME_BYTES or name.endswith((".part", ".part.json")):
        raise StageError(
            f"corpus: a remote file is named {name!r}; allowed: a relative path of printable characters without "
            f"'..', '\\' and empty parts, each part at most {MAX_NAME_BYTES} bytes, not ending in .part; next: leave "
            f"the file out with a narrower `glob`, or rename it at its origin"
        )


def local_path(folder: Path, name: str) -> Path:
    """Where the remote file `name` lies below `folder`. StageError if the name leads elsewhere."""
    check_name(name)
    return folder / name


def shown(url: str) -> str:
    """The URL for people: without user, password and query, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def hub_token() -> str | None:
    """HF_TOKEN from the environment. StageError, without the value, if it cannot be sent."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise StageError(
            "environment variable HF_TOKEN holds characters that no token has; allowed: one line of letters, digits "
            "and '_'; next: copy it again from the hub's page 'Access Tokens'"
        )
    return token or None


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Seconds the server asks to wait: Retry-After, a number or a date; 0 if it asks for nothing sensible."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isdecimal() and asked.isascii():
        return float(asked)
    try:
        until = _date(asked)
    except ValueError:
        return 0.0
    try:
        now = _date(headers.get("Date", ""))  # of the same clock, if it tells it
    except ValueError:
        now = datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime:
    found = parsedate_to_datetime(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def content_range(header: str) -> tuple[int | None, int | None]:
    """First byte and size of the whole file from "bytes first-last/size"; None for what it does not say."""
    found = re.fullmatch(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", header, re.ASCII)
    if not found:
        return None, None
    return int(found[1]), None if found[3] == "*" else int(found[3])


def version_of(headers: Mapping[str, str]) -> str:
    """What identifies the content byte for byte: a strong ETag, else the time of change; "" if there is neither."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def remedy(status: int, hub: bool) -> str:
    """What to do about a final answer."""
    if status in (401, 403) and hub:
        given = "is set but not enough" if hub_token() else "is not set"
        return (
            f"environment variable HF_TOKEN {given}: accept the dataset's terms on its page with your account, make a "
            f"token that may read it, and set HF_TOKEN"
        )
    if status in (401, 403):
        return (
            "HF_TOKEN is not sent to a source of kind url: use an address that needs no login, or download it yourself"
        )
    if status in (404, 410):
        return (
            "if it was moved or its commit is gone for good, correct corpus.sources and delete its pin (the file below "
            "data/pins that names it); otherwise restore it at its origin"
        )
    return "run again later; if it stays, leave this file out of corpus.sources"
