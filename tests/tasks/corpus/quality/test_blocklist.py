"""Addresses left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks._errors import StageError
from tasks.corpus.quality.blocklist import Blocklist, Entries, blocked, load_entries


def _blocked(urls: Sequence[str | None], folder: Path = Path(), **params: Any) -> list[str | None]:
    blocklist = Blocklist.model_validate(params)
    return blocked(pl.Series(urls, dtype=pl.String), blocklist, load_entries(blocklist, folder)).to_list()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/page", "http://EXAMPLE.com", "https://www.example.com:8080/?q", "example.com/x",
        "//a.b.example.com",
        "https://user:pw@example.com/", "https://example.com./", " https://example.com#top",
    ],
)  # fmt: skip
def test_a_host_and_everything_below_it_is_blocked(url: str) -> None:
    assert _blocked([url], domains=["Example.com"]) == ["blocked_host"]
    assert _blocked([url], domains=["*.example.com"]) == ["blocked_host"]


@pytest.mark.parametrize(
    "url",
    [
        None, "", "https://notexample.com/", "https://example.com.evil.org/", "https://other.org/example.com",
        "https://other.org/?u=https://example.com/", "https://other.org/@example.com", "https://com/",
    ],
)  # fmt: skip
def test_other_hosts_and_missing_addresses_are_not_blocked(url: str | None) -> None:
    assert _blocked([url], domains=["example.com"]) == [None]


def test_punycode_is_a_host_like_any_other() -> None:
    assert _blocked(["http://XN--E1AFMKFD.com/a", "http://пример.com/a"], domains=["xn--e1afmkfd.com"]) == [
        "blocked_host",
        None,
    ]


def test_beginnings_of_addresses_match_their_host_only() -> None:
    urls = [
        "https://a.org/forum/1",
        "http://A.org/forum/",
        "https://a.org/Forum/1",
        "https://a.org/",
        "https://www.a.org/forum/",
    ]
    assert _blocked(urls, domains=["https://a.org/forum/"]) == ["blocked_address", "blocked_address", None, None, None]


def test_words_count_occurrences_from_the_minimum_on() -> None:
    urls = ["http://casino.org/CASINO", "http://casino.org/poker", "http://casino.org", None]
    assert _blocked(urls, words=["casino", "Poker"], min_words=2) == ["blocked_words", "blocked_words", None, None]
    assert _blocked(urls, words=["casino"], min_words=1) == ["blocked_words"] * 3 + [None]


def test_a_file_has_comments_blank_lines_and_both_kinds_of_entries(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# bad hosts\n\nspam.org  # why\r\nhttp://b.org/x\n", encoding="utf-8-sig")
    found = load_entries(Blocklist(file="list.txt", domains=("c.org",)), tmp_path)
    assert found == Entries(frozenset({"spam.org", "c.org"}), ("b.org/x",))
    assert _blocked(["http://sub.spam.org/", "http://b.org/xy", None], tmp_path, file="list.txt") == [
        "blocked_host", "blocked_address", None,
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["two words", "http://", "/path", "a.org/with space", "..."])
def test_a_bad_line_is_an_error_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"good.org\n{line}\n")
    with pytest.raises(StageError, match=r"list\.txt:2: .*next: correct or remove it"):
        load_entries(Blocklist(file="list.txt"), tmp_path)


def test_a_missing_or_undecodable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"absent\.txt cannot be read"):
        load_entries(Blocklist(file="absent.txt"), tmp_path)
    (tmp_path / "list.txt").write_bytes(b"good.org\n\xff")
    with pytest.raises(StageError, match=r"not UTF-8 at byte 9"):
        load_entries(Blocklist(file="list.txt"), tmp_path)


def test_no_entries_block_nothing_and_no_addresses_are_fine() -> None:
    assert _blocked(["http://a.org", None]) == [None, None]
    assert _blocked([], domains=["a.org"], words=["x"]) == []
    assert (
        blocked(pl.Series([None, None]), Blocklist(domains=("a.org",)), Entries(frozenset({"a.org"}), ())).to_list()
        == [None] * 2
    )


labels = st.sampled_from(["a", "b", "ab", "x-y", "org"])
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
addresses = st.tuples(hosts, st.text("ab/", max_size=5)).map(lambda pair: f"{pair[0]}/{pair[1]}")


@settings(max_examples=100, deadline=None)
@given(st.lists(addresses, min_size=1, max_size=6), st.lists(hosts, max_size=3), st.lists(addresses, max_size=4))
def test_blocking_equals_a_plain_search(urls: list[str], chosen: list[str], beginnings: list[str]) -> None:
    beginnings = [b for b in beginnings if not b.endswith("/") or b.count("/") > 1]
    expected: list[str | None] = []
    for url in urls:
        host = url.partition("/")[0]
        if any(host == c or host.endswith("." + c) for c in chosen):
            expected.append("blocked_host")
        else:
            expected.append("blocked_address" if any(url.startswith(b) for b in beginnings) else None)
    assert _blocked([f"https://{url}" for url in urls], domains=[*chosen, *beginnings]) == expected
