"""Names of remote files, and what headers mean."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks._errors import StageError
from tasks.corpus.sources.remote import (
    check_name,
    content_range,
    hub_token,
    local_path,
    retry_after_seconds,
    shown,
    version_of,
)

BAD_NAMES = (
    "", ".", "..", "../x", "a/../../x", "a/..", "/etc/x", "a//b", "a/", "./a", "a\\b", "..\\x", "a\0b", "a\nb",
    "\ud800", "x" * 241, "é" * 121, "a.part", "a.part.json", "\u202ea",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_elsewhere_or_cannot_be_a_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="a remote file is named"):
        local_path(tmp_path, name)


@given(st.text(max_size=12) | st.lists(st.sampled_from(["..", ".", "", "a", "b.jsonl", "\\"])).map("/".join))
def test_whatever_name_is_accepted_lies_below_the_folder(name: str) -> None:
    folder = Path("/data/fetched")
    try:
        path = local_path(folder, name)
    except StageError:
        return
    assert Path(*path.parts) == path and ".." not in path.parts
    assert path.relative_to(folder).as_posix() == name


def test_names_that_datasets_use_are_accepted() -> None:
    for name in ("a.parquet", "data/CC-MAIN-2013-20/train-00000-of-00014.parquet", "été/données 1.jsonl", "x" * 240):
        check_name(name)


def test_retry_after_is_a_number_or_a_date_by_the_servers_own_clock() -> None:
    date = {"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after_seconds(date) == 30
    assert retry_after_seconds({"Retry-After": " 120 "}) == 120
    assert retry_after_seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}) == 0  # past, by our own clock
    assert 3e9 < retry_after_seconds({"Retry-After": "Wed, 21 Oct 2199 07:28:30 GMT", "Date": "nonsense"}) < 6e9
    for nonsense in ("", "soon", "-5", "1.5", "٣"):
        assert retry_after_seconds({"Retry-After": nonsense}) == 0


def test_content_range_is_read_strictly() -> None:
    assert content_range("bytes 5-9/10") == (5, 10)
    assert content_range("bytes 5-9/*") == (5, None)
    for nonsense in ("", "bytes */10", "bytes 5-9", "items 5-9/10", "bytes -9/10"):
        assert content_range(nonsense) == (None, None)


def test_a_weak_etag_does_not_identify_bytes() -> None:
    assert version_of({"ETag": '"a"', "Last-Modified": "then"}) == '"a"'
    assert version_of({"ETag": 'W/"a"', "Last-Modified": "then"}) == "then"
    assert version_of({"ETag": 'W/"a"'}) == ""


def test_secrets_of_an_address_are_not_shown() -> None:
    assert shown("https://me:word@host:81/a/b.parquet?signature=s#f") == "https://host:81/a/b.parquet"


@pytest.mark.parametrize("token", ["hf_a b", "hf_a\nX-Evil: 1", "hf_ü"])
def test_a_token_that_cannot_be_sent_is_an_error_without_its_value(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(StageError, match="HF_TOKEN") as caught:
        hub_token()
    assert token[:4] not in str(caught.value)


def test_line_ends_around_a_token_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", " hf_abc\n")
    assert hub_token() == "hf_abc"
    monkeypatch.setenv("HF_TOKEN", "")
    assert hub_token() is None
