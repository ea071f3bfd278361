"""One download from a server that does everything wrong that servers do."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks._errors import StageError
from tasks.corpus.sources.fetch import Patience, fetch
from tests.tasks.corpus.sources.hub_server import Answer, HubServer

SIZE = 100_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
OTHER = np.random.default_rng(1).bytes(SIZE)
QUICK = Patience(
    attempts=3, progress_bytes=1000, first_wait_seconds=0.01, max_wait_seconds=0.02, connect_seconds=2, read_seconds=0.3
)
NAME = "x.bin"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer() as running:
        running.files[NAME] = CONTENT
        yield running


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("expected", [HubServer.known, HubServer.unknown])
def test_a_file_is_fetched_and_measured(server: HubServer, tmp_path: Path, expected) -> None:
    target = tmp_path / "deep" / NAME
    measured = fetch(expected(server, NAME), target, QUICK)
    assert target.read_bytes() == CONTENT
    assert (measured.bytes, measured.sha256) == (SIZE, sha256(CONTENT))
    assert measured.etag
    assert left_behind(tmp_path) == [NAME]


def test_an_empty_file(server: HubServer, tmp_path: Path) -> None:
    server.files[NAME] = b""
    assert fetch(server.known(NAME), tmp_path / NAME, QUICK).bytes == 0
    assert fetch(server.unknown(NAME), tmp_path / NAME, QUICK).sha256 == sha256(b"")


@pytest.mark.parametrize("expected", [HubServer.known, HubServer.unknown])
def test_a_connection_that_breaks_again_and_again_is_resumed_where_it_broke(
    server: HubServer, tmp_path: Path, expected
) -> None:
    """More breaks than `attempts`: each brings new content, so the count starts again."""
    server.script[NAME] = [Answer(drop_after=15_000)] * 6
    fetch(expected(server, NAME), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert server.offsets(NAME) == [None, *range(15_000, 90_001, 15_000)]
    assert all(seen.headers["if-range"] for seen in server.requests(NAME)[1:])


def test_a_server_that_brings_nothing_new_is_given_up_and_the_part_stays(server: HubServer, tmp_path: Path) -> None:
    server.script[NAME] = [Answer(drop_after=50_000)]
    server.always[NAME] = Answer(drop_after=10)
    with pytest.raises(StageError, match=r"given up after 3 failure.*50,0\d0 bytes of 100,000 are kept in x.bin.part"):
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert len(server.requests(NAME)) == 1 + 2  # the first brought progress, and is the first of three failures
    assert left_behind(tmp_path) == ["x.bin.part", "x.bin.part.json"]
    server.always.clear()
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert server.offsets(NAME)[-1] == 50_020
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_and_breaks_each_time_is_not_asked_for_ever(
    server: HubServer, tmp_path: Path
) -> None:
    """Starting again from zero is no progress, however many bytes arrive."""
    server.script[NAME] = [Answer(drop_after=50_000, ignore_range=True), Answer(drop_after=0, ignore_range=True)] * 10
    with pytest.raises(StageError, match="given up"):
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert len(server.requests(NAME)) == 3


@pytest.mark.parametrize("expected", [HubServer.known, HubServer.unknown])
def test_a_server_that_ignores_ranges_sends_everything_again(server: HubServer, tmp_path: Path, expected) -> None:
    server.script[NAME] = [Answer(drop_after=50_000), Answer(ignore_range=True)]
    fetch(expected(server, NAME), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("lie", [-30_000, 30_000])
def test_a_length_that_is_not_true_does_not_matter_where_the_size_is_known(
    server: HubServer, tmp_path: Path, lie: int
) -> None:
    server.script[NAME] = [Answer(declare=lie)]
    # All bytes are there when a connection ends before its announced length: no second attempt is needed.
    fetch(server.known(NAME), tmp_path / NAME, QUICK._replace(attempts=2 if lie < 0 else 1))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert server.offsets(NAME) == ([None, 70_000] if lie < 0 else [None])


def test_a_length_that_is_too_long_is_an_error_where_nothing_is_known(server: HubServer, tmp_path: Path) -> None:
    server.always[NAME] = Answer(declare=30_000)
    with pytest.raises(StageError, match="given up"):
        fetch(server.unknown(NAME), tmp_path / NAME, QUICK)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("shift", [-100, 100])
def test_an_answer_with_another_range_than_asked_is_not_used(server: HubServer, tmp_path: Path, shift: int) -> None:
    """No sha256 is known here: nothing else would notice bytes in the wrong place."""
    server.script[NAME] = [Answer(drop_after=50_000), Answer(shift_range=shift)]
    fetch(server.known(NAME)._replace(sha256=None), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert server.offsets(NAME) == [None, 50_000, None]


def test_a_range_the_server_cannot_satisfy_is_asked_from_zero(server: HubServer, tmp_path: Path) -> None:
    server.script[NAME] = [Answer(drop_after=50_000), Answer(status=416)]
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert server.offsets(NAME) == [None, 50_000, None]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_pause_the_server_asks_for_is_kept(server: HubServer, tmp_path: Path) -> None:
    for header in (
        (("Retry-After", "1"),),
        (("Retry-After", "Wed, 21 Oct 2015 07:28:01 GMT"), ("Date", "Wed, 21 Oct 2015 07:28:00 GMT")),
    ):
        server.script[NAME] = [Answer(status=429, headers=header)]
        before = time.monotonic()
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
        assert 1 <= time.monotonic() - before < 3
        (tmp_path / NAME).unlink()


def test_a_pause_beyond_the_limit_is_an_error_at_once(server: HubServer, tmp_path: Path) -> None:
    server.always[NAME] = Answer(status=503, headers=(("Retry-After", "7200"),))
    with pytest.raises(StageError, match="asks to wait 7,200 s, allowed: 3,600 s"):
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert len(server.requests(NAME)) == 1


def test_a_burst_of_503_is_waited_out_and_a_longer_one_reported(server: HubServer, tmp_path: Path) -> None:
    server.script[NAME] = [Answer(status=503), Answer(status=500)]
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    (tmp_path / NAME).unlink()
    server.always[NAME] = Answer(status=503)
    with pytest.raises(StageError, match=r"given up after 3 .*answers 503 Service Unavailable"):
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert len(server.requests(NAME)) == 3 + 3
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "on_hub", "advice"),
    [(404, True, "data/pins"), (401, True, "HF_TOKEN is not set"), (403, True, "HF_TOKEN"), (403, False, "not sent"),
     (418, True, "leave this file out")],
)  # fmt: skip
def test_a_final_refusal_is_not_tried_again_and_says_what_to_do(
    server: HubServer, tmp_path: Path, status: int, on_hub: bool, advice: str
) -> None:
    server.always[NAME] = Answer(status=status, headers=(("X-Error-Message", "because"),))
    with pytest.raises(StageError, match=f"x.bin: .* answers {status} because.*{advice}"):
        fetch(server.known(NAME)._replace(hub=on_hub), tmp_path / NAME, QUICK)
    assert len(server.requests(NAME)) == 1
    assert left_behind(tmp_path) == []


def test_corrupt_bytes_are_thrown_away_and_fetched_once_more(server: HubServer, tmp_path: Path) -> None:
    server.script[NAME] = [Answer(flip=True)]
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert server.offsets(NAME) == [None, None]


@pytest.mark.parametrize("answer", [Answer(flip=True), Answer(body=CONTENT + b"!"), Answer(body=CONTENT + CONTENT)])
def test_wrong_content_twice_is_an_error_with_what_was_expected_and_found(
    server: HubServer, tmp_path: Path, answer: Answer
) -> None:
    server.always[NAME] = answer
    with pytest.raises(StageError, match=r"x.bin .*(sha256|size) expected .*found .*data/pins") as caught:
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
    if answer.flip:
        assert sha256(CONTENT) in str(caught.value)
        assert sha256(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])) in str(caught.value)
    else:
        assert "found at least" in str(caught.value)  # the rest was not waited for, however much it may be
    assert server.offsets(NAME) == [None, None]
    assert left_behind(tmp_path) == []


def test_a_file_that_became_shorter_is_not_the_pinned_one(server: HubServer, tmp_path: Path) -> None:
    """It once ended in "given up after 6 failures", as if the connection were to blame."""
    server.always[NAME] = Answer(body=CONTENT[:-1000])
    with pytest.raises(
        StageError, match=f"not the pinned file.*size expected {len(CONTENT)}, found {len(CONTENT) - 1000}"
    ):
        fetch(server.known(NAME), tmp_path / NAME, QUICK._replace(attempts=6))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("ignore_if_range", [False, True])
def test_a_file_that_changes_between_two_attempts_is_fetched_from_zero(
    server: HubServer, tmp_path: Path, ignore_if_range: bool
) -> None:
    """Nothing is known of the file, so the end of the new one behind the start of the old one would go unnoticed."""
    server.script[NAME] = [Answer(drop_after=50_000)]
    server.always[NAME] = Answer(body=OTHER, ignore_if_range=ignore_if_range)
    measured = fetch(server.unknown(NAME), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == OTHER
    assert measured.etag == f'"{hashlib.md5(OTHER).hexdigest()}"'
    assert server.requests(NAME)[1].headers["if-range"] == f'"{hashlib.md5(CONTENT).hexdigest()}"'


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_version_only_a_known_sha256_allows_to_resume(server: HubServer, tmp_path: Path, etag: str) -> None:
    server.always[NAME] = Answer(etag=etag)
    server.script[NAME] = [Answer(drop_after=50_000, etag=etag)]
    fetch(server.unknown(NAME), tmp_path / NAME, QUICK)
    server.script[NAME] = [Answer(drop_after=50_000, etag=etag)]
    fetch(server.known(NAME), tmp_path / "again", QUICK)
    assert server.offsets(NAME) == [None, None, None, 50_000]
    assert "if-range" not in server.requests(NAME)[-1].headers


def test_bytes_of_another_address_are_not_resumed(server: HubServer, tmp_path: Path) -> None:
    """The same local name may stand for another commit by now; here even the size agrees."""
    server.files["y.bin"] = OTHER
    server.script[NAME] = [Answer(drop_after=SIZE - 1), Answer(status=404)]
    with pytest.raises(StageError, match="404"):
        fetch(server.unknown(NAME), tmp_path / NAME, QUICK)
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    fetch(server.known("y.bin")._replace(sha256=None), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == OTHER


def test_the_bytes_are_asked_for_as_they_are_and_compression_is_refused(server: HubServer, tmp_path: Path) -> None:
    server.always[NAME] = Answer(gzip=True)
    with pytest.raises(StageError, match=r"encoded as 'gzip'.*compression off"):
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert [seen.headers["accept-encoding"] for seen in server.requests(NAME)] == ["identity"]
    assert left_behind(tmp_path) == []


def test_a_connection_that_stalls_is_left_after_the_read_time_and_resumed(server: HubServer, tmp_path: Path) -> None:
    server.script[NAME] = [Answer(stall_after=40_000)]
    before = time.monotonic()
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert QUICK.read_seconds <= time.monotonic() - before < 10 * QUICK.read_seconds
    assert server.offsets(NAME) == [None, 40_000]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_sent_in_chunks_has_no_size_but_an_end(server: HubServer, tmp_path: Path) -> None:
    server.always[NAME] = Answer(chunked=True)
    server.script[NAME] = [Answer(chunked=True, drop_after=40_000)]
    assert fetch(server.unknown(NAME), tmp_path / NAME, QUICK).bytes == SIZE
    assert server.offsets(NAME) == [None, 40_000]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_whose_end_nobody_can_tell_needs_a_sha256(server: HubServer, tmp_path: Path) -> None:
    server.always[NAME] = Answer(unsized=True)
    with pytest.raises(StageError, match=r"does not say how long the file is.*give its sha256"):
        fetch(server.unknown(NAME), tmp_path / NAME, QUICK)
    fetch(server.known(NAME)._replace(bytes=None), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_the_token_goes_to_the_hub_and_neither_elsewhere_nor_along_a_redirect(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer() as elsewhere:
        server.cdn, elsewhere.files = elsewhere, server.files
        url = f"{server.url}/datasets/owner/name/resolve/{server.commit}/{NAME}"
        fetch(server.known(NAME)._replace(url=url, hub=True), tmp_path / "a", QUICK)
        fetch(elsewhere.known(NAME), tmp_path / "b", QUICK)
        assert [seen.headers.get("authorization") for seen in server.seen] == ["Bearer hf_secret"]
        assert [seen.headers.get("authorization") for seen in elsewhere.seen] == [None, None]
        elsewhere.always[NAME] = Answer(status=403)
        with pytest.raises(StageError, match="is set but not enough") as caught:
            fetch(server.known(NAME)._replace(url=url, hub=True), tmp_path / "c", QUICK)
        assert "secret" not in str(caught.value)  # the token, and the signature in the redirect


def test_a_redirect_to_something_else_than_http_is_refused(server: HubServer, tmp_path: Path) -> None:
    server.always[NAME] = Answer(status=302, headers=(("Location", "file:///etc/hostname"),))
    with pytest.raises(StageError, match="allowed: http and https"):
        fetch(server.known(NAME), tmp_path / NAME, QUICK)


def test_a_host_that_is_not_there_is_given_up(tmp_path: Path, server: HubServer) -> None:
    file = server.known(NAME)
    server.close()
    with pytest.raises(StageError, match=r"given up after 3 .*ConnectError"):
        fetch(file, tmp_path / NAME, QUICK)
    assert left_behind(tmp_path) == []


def scripted(fields: dict[str, Any]) -> Answer:
    return Answer(**fields)


ANSWERS = st.fixed_dictionaries(
    {
        "drop_after": st.none() | st.integers(0, SIZE),
        "ignore_range": st.booleans(),
        "shift_range": st.sampled_from([0, 0, -7, 7]),
        "declare": st.sampled_from([0, 0, -500, 500]),
        "chunked": st.booleans(),
        "status": st.sampled_from([None, None, None, 503, 416]),
    }
).map(scripted)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(ANSWERS, max_size=8), is_known=st.booleans())
def test_whatever_happens_on_the_way_the_content_is_right(
    server: HubServer, tmp_path: Path, script: list[Answer], is_known: bool
) -> None:
    """A length that is too short cannot be noticed by someone who knows nothing: left out for unknown files."""
    server.script[NAME] = [a if is_known else a._replace(declare=max(0, a.declare or 0)) for a in script]
    target = tmp_path / NAME
    target.unlink(missing_ok=True)
    fetch(server.known(NAME) if is_known else server.unknown(NAME), target, QUICK._replace(attempts=20))
    assert target.read_bytes() == CONTENT
    assert left_behind(tmp_path) == [NAME]
