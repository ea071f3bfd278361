"""Documents left out by their address: blocked hosts, blocked beginnings of addresses, and words in the address.

Covered: hosts with everything below them (`example.com` also blocks `www.example.com`), without regard to case;
schemes, user names, ports and a final dot are ignored. A beginning of an address holds for its very host only.
Not covered: punycode and its Unicode form are different hosts, percent-encoding is left as it is, and a document
without an address is never blocked.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from tasks._errors import StageError
from tasks._params import StageParams

if TYPE_CHECKING:
    import polars as pl

BY_HOST, BY_PREFIX, BY_WORDS = "blocked_host", "blocked_address", "blocked_words"
_HOST = re.compile(r"[^\s/?#:@]+(?::\d+)?\.?")


class Blocklist(StageParams):
    """Section `blocklist`; without entries it blocks nothing."""

    domains: tuple[str, ...] = ()
    """Hosts such as example.com, or beginnings of addresses such as example.com/forum/."""
    words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Parts of addresses, counted without regard to case, wherever they stand."""
    min_words: Annotated[int, Field(ge=1)] = 2
    """Occurrences of `words` from which an address is blocked; one alone is often innocent."""
    file: str | None = None
    """File below data/text with one host or beginning of an address per line; # begins a comment."""


class Entries(NamedTuple):
    """What addresses are compared with, in lower case up to the host, without scheme."""

    hosts: frozenset[str]
    prefixes: tuple[str, ...]
    """Sorted; none is the beginning of another."""


def load_entries(blocklist: Blocklist, folder: Path) -> Entries:
    """The entries of params.yaml and of the file below `folder`; StageError names the bad one and its line."""
    found = [_parse(entry, f"corpus.blocklist.domains: {entry!r}") for entry in blocklist.domains]
    if blocklist.file is not None:
        found += _read(folder / blocklist.file)
    prefixes: list[str] = []
    for prefix in sorted({entry for entry in found if "/" in entry}):
        if not (prefixes and prefix.startswith(prefixes[-1])):
            prefixes.append(prefix)
    return Entries(frozenset(entry for entry in found if "/" not in entry), tuple(prefixes))


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise StageError(
            f"corpus: blocklist {path} cannot be read: {error.strerror}; next: put it there or correct "
            f"corpus.blocklist.file"
        ) from None
    except UnicodeDecodeError as error:
        raise StageError(f"corpus: blocklist {path} is not UTF-8 at byte {error.start}; next: convert it") from None
    found = []
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if entry:
            found.append(_parse(entry, f"{path}:{number}"))
    return found


def _parse(entry: str, where: str) -> str:
    """`host` or `host/path...`, normalised as addresses are."""
    normal = _strip(entry)
    host, slash, path = normal.partition("/")
    if not _HOST.fullmatch(host) or any(character.isspace() for character in path) or host.strip("*.") == "":
        raise StageError(
            f"corpus: {where}: {entry!r} is neither a host nor the beginning of an address; allowed: lines such as "
            f"example.com or https://example.com/forum/; next: correct or remove it"
        )
    host = host.partition(":")[0].removeprefix("*").strip(".")
    return f"{host}/{path}" if slash and path else host


def _strip(address: str) -> str:
    """Without scheme and user name, the host in lower case."""
    address = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*:)?//", "", address.strip())
    authority = re.split(r"[/?#]", address, maxsplit=1)[0]
    return authority.rpartition("@")[2].lower() + address[len(authority) :]


def blocked(urls: "pl.Series", blocklist: Blocklist, entries: Entries) -> "pl.Series":
    """Per address: blocked_host, blocked_address, blocked_words (the first that holds), or null."""
    import polars as pl

    frame = pl.DataFrame({"url": urls.cast(pl.String)})
    # With or without a scheme; then what precedes @, the host up to port, path, query or fragment, and the rest.
    parts = pl.col("url").str.strip_chars().str.replace(r"^(?:[A-Za-z][A-Za-z0-9+.-]*:)?//", "")
    parts = parts.str.replace(r"^[^/?#@]*@", "")
    frame = frame.with_columns(
        parts.str.extract(r"^([^/?#:]*)").str.to_lowercase().str.strip_chars(".").alias("host"),
        parts.str.extract(r"^[^/?#:]*(?::\d*)?(.*)$").alias("rest"),
    )
    host = pl.col("host").is_in(_hosts_below(frame["host"].unique(), entries.hosts).implode())
    beginning = pl.Series("beginning", _begins(frame, entries.prefixes), pl.Boolean)
    words = pl.lit(0)
    if blocklist.words:
        patterns = sorted({word.lower() for word in blocklist.words})
        words = pl.col("url").str.to_lowercase().str.extract_many(patterns, overlapping=True).list.len()
    reason = (
        pl.when(host)
        .then(pl.lit(BY_HOST))
        .when(beginning)
        .then(pl.lit(BY_PREFIX))
        .when(words >= blocklist.min_words)
        .then(pl.lit(BY_WORDS))
    )
    return frame.select(pl.when(pl.col("url").is_not_null()).then(reason).alias("reason")).to_series()


def _hosts_below(hosts: "pl.Series", chosen: frozenset[str]) -> "pl.Series":
    """Those of `hosts` that are, or lie below, a chosen one: label after label is taken off the front."""
    import polars as pl

    frame = pl.DataFrame({"host": hosts.drop_nulls()}).with_columns(pl.col("host").alias("suffix"))
    wanted = pl.Series(sorted(chosen), dtype=pl.String)
    found = [pl.Series("host", [], pl.String)]
    while chosen and frame.height:
        matches = pl.col("suffix").is_in(wanted.implode())
        found.append(frame.filter(matches)["host"])
        frame = frame.filter(~matches & pl.col("suffix").str.contains(".", literal=True))
        frame = frame.with_columns(pl.col("suffix").str.replace(r"^[^.]*\.", ""))
    return pl.concat(found)


def _begins(frame: "pl.DataFrame", prefixes: tuple[str, ...]) -> list[bool]:
    """Whether host and rest begin with a prefix; only addresses on hosts that have one are looked at one by one."""
    import polars as pl

    result = [False] * frame.height
    hosts = pl.Series(sorted({prefix.partition("/")[0] for prefix in prefixes}), dtype=pl.String)
    some = frame.with_row_index("row").filter(pl.col("host").is_in(hosts.implode()))
    rows: Iterable[tuple[int, str]] = some.select("row", pl.col("host") + pl.col("rest")).rows()
    for row, address in rows:
        # Of sorted prefixes none of which begins another, only the last one not behind the address can begin it.
        place = bisect_right(prefixes, address) - 1
        result[row] = place >= 0 and address.startswith(prefixes[place])
    return result
