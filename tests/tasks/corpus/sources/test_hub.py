"""Listing what a hub and a list of URLs hold."""

import hashlib
import time
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from tasks._errors import StageError
from tasks.corpus.sources.fetch import Patience, fetch
from tasks.corpus.sources.hub import Hub, Urls, list_remote, resolve
from tests.tasks.corpus.sources.hub_server import COMMIT, Answer, HubServer

QUICK = Patience(attempts=3, first_wait_seconds=0.01, max_wait_seconds=0.02, connect_seconds=2, read_seconds=0.3)
FILES = {
    "README.md": b"about",
    "a.parquet": b"root",
    "data/b/0.parquet": b"b0",
    "data/b/1.parquet": b"b1",
    "data/c.jsonl.gz": b"c",
    "data/tr 1#é.parquet": b"strange",
    "data/x.bin": b"foreign",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as running:
        running.files.update(FILES)
        yield running


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library pauses between attempts, and cannot be told for how long."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def hub(server: HubServer, **options) -> Hub:
    return Hub(kind="hub", dataset="owner/name", **{"endpoint": server.url, **options})


def test_files_are_listed_page_by_page_in_order_with_size_and_sha256(server: HubServer) -> None:
    server.plain = {"a.parquet"}
    files = list_remote(hub(server), patience=QUICK)
    assert [file.name for file in files] == [
        "a.parquet", "data/b/0.parquet", "data/b/1.parquet", "data/tr 1#é.parquet",
    ]  # fmt: skip
    assert [file.bytes for file in files] == [len(FILES[file.name]) for file in files]
    digests = [hashlib.sha256(FILES[file.name]).hexdigest() for file in files]
    assert [file.sha256 for file in files] == [None, *digests[1:]]  # git itself keeps no sha256
    assert all(COMMIT in file.url and file.hub for file in files)
    assert len([seen for seen in server.seen if "/tree/" in seen.path]) == 4  # seven files, two a page


def test_listed_addresses_can_be_fetched(server: HubServer, tmp_path) -> None:
    for file in list_remote(hub(server), patience=QUICK):
        fetch(file, tmp_path / file.name, QUICK)
        assert (tmp_path / file.name).read_bytes() == FILES[file.name]


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.parquet", ["a.parquet"]),
        ("data/*.parquet", ["data/tr 1#é.parquet"]),
        ("data/**/*.parquet", ["data/b/0.parquet", "data/b/1.parquet", "data/tr 1#é.parquet"]),
        ("data/?/[1-9].parquet", ["data/b/1.parquet"]),
        ("data/c.jsonl.gz", ["data/c.jsonl.gz"]),
    ],
)
def test_a_glob_selects_as_in_a_folder(server: HubServer, glob: str, names: list[str]) -> None:
    assert [file.name for file in list_remote(hub(server, glob=glob), patience=QUICK)] == names


def test_only_the_folder_a_glob_begins_with_is_listed(server: HubServer) -> None:
    """A large dataset has tens of thousands of files; a sample of it lies in one folder."""
    list_remote(hub(server, glob="data/b/*.parquet"), patience=QUICK)
    assert [seen.path for seen in server.seen if "/tree/" in seen.path] == [
        f"/api/datasets/owner/name/tree/{COMMIT}/data%2Fb"
    ]


def test_the_endpoint_comes_from_the_source_then_from_the_environment(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    assert list_remote(hub(server, endpoint=None), patience=QUICK)[0].url.startswith(server.url + "/datasets/")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve(hub(server), QUICK) == COMMIT


def test_only_hf_token_is_sent(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    resolve(hub(server), QUICK)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    list_remote(hub(server), patience=QUICK)
    tokens = [seen.headers.get("authorization") for seen in server.seen]
    assert tokens[0] is None
    assert set(tokens[1:]) == {"Bearer hf_secret"}


def test_temporary_failures_of_the_hub_are_waited_out(server: HubServer, no_pause: None) -> None:
    server.script["info"] = [Answer(status=503), Answer(status=429, headers=(("Retry-After", "0"),))]
    server.script["tree"] = [Answer(drop_after=0), Answer(), Answer(drop_after=0)]
    assert len(list_remote(hub(server), patience=QUICK)) == 4


@pytest.mark.parametrize(
    ("answers", "advice"),
    [
        ({"info": Answer(status=503)}, "the hub answers 503"),
        ({"info": Answer(status=503, headers=(("Retry-After", "9999"),))}, "the hub answers 503"),
        ({"info": Answer(status=401)}, "HF_TOKEN is not set"),
        ({"info": Answer(status=403, headers=(("X-Error-Code", "GatedRepo"),))}, "gated; next: .*HF_TOKEN"),
        ({"info": Answer(status=404, headers=(("X-Error-Code", "RepoNotFound"),))}, "no such dataset"),
        ({"info": Answer(body=b"<html>")}, "does not answer like a hub"),
        ({"info": Answer(body=b"[1]")}, "does not answer like a hub"),
        ({"info": Answer(body=b'{"id": "x", "sha": "../../x"}')}, "commit '../../x'"),
        ({"tree": Answer(status=401)}, "HF_TOKEN is not set"),
        ({"tree": Answer(drop_after=0)}, "no connection"),
        ({"tree": Answer(status=503)}, "the hub answers 503"),
    ],
)
def test_what_the_hub_refuses_is_said_in_plain_words(
    server: HubServer, no_pause: None, answers: dict[str, Answer], advice: str
) -> None:
    server.always = answers
    with pytest.raises(StageError, match=rf"(?s)dataset owner/name at .* on {server.url}.*{advice}"):
        list_remote(hub(server), patience=QUICK)


def test_a_listing_that_stalls_is_not_waited_for_without_end(server: HubServer) -> None:
    server.script["tree"] = [Answer(), Answer(stall_after=0)]
    before = time.monotonic()
    with pytest.raises(StageError, match="no answer within 0 s"):
        list_remote(hub(server), patience=QUICK, page_seconds=0.4)
    assert time.monotonic() - before < 5


def test_a_hub_that_is_not_there(server: HubServer) -> None:
    server.close()
    with pytest.raises(StageError, match=r"no connection.*HF_ENDPOINT"):
        resolve(hub(server), QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "nope"}, "no such revision"),
        ({"glob": "*.jsonl"}, r"no file matches glob '\*.jsonl'; found: README.md, a.parquet"),
        ({"glob": "nowhere/*.parquet"}, "no folder"),
        ({"glob": "**/*"}, "kind that cannot be read, such as data/x.bin; allowed: .txt"),
    ],
)
def test_a_source_that_selects_nothing_usable(server: HubServer, options: dict[str, str], message: str) -> None:
    with pytest.raises(StageError, match=message):
        list_remote(hub(server, **options), patience=QUICK)


@pytest.mark.parametrize("name", ["../up.parquet", "/etc/x.parquet", "a\\b.parquet", "a/./b.parquet"])
def test_a_hub_cannot_name_a_file_outside_the_folder(server: HubServer, name: str) -> None:
    server.files[name] = b"x"
    with pytest.raises(StageError, match="a remote file is named"):
        list_remote(hub(server, glob="**/*.parquet"), patience=QUICK)


@pytest.mark.parametrize(
    "options",
    [
        {"dataset": "name"}, {"dataset": "../name"}, {"dataset": "owner/name/more"}, {"endpoint": "ftp://host"},
        {"endpoint": "host"}, {"glob": "/x"}, {"glob": "../*"}, {"glob": "a**.parquet"}, {"shards": 0},
        {"max_bytes": 0}, {"shard": 1},
    ],
)  # fmt: skip
def test_hub_parameters_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Hub.model_validate({"kind": "hub", "dataset": "owner/name", **options})


def urls(*addresses: str, **options) -> Urls:
    return Urls(kind="url", urls=addresses, **options)


def test_urls_are_named_by_their_last_component_and_never_alike() -> None:
    files = list_remote(
        urls(
            "https://a/x%20y.jsonl?download=1",
            "http://b/d/x%20y.jsonl",
            "http://c/z.parquet",
            sha256={"http://c/z.parquet": "0" * 64},
        )
    )
    first, second, third = files
    assert (first.name, third.name, third.sha256) == ("x y.jsonl", "z.parquet", "0" * 64)
    assert second.name != first.name and second.name.endswith("-x y.jsonl")
    assert not any(file.hub for file in files)
    assert files[:2] == list_remote(urls(*(file.url for file in files[:2])))  # not changed by what is added behind


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://a/", "without a file name"),
        ("http://a", "without a file name"),
        ("http://a/..", "named"),
        ("http://a/x%00.jsonl", "named"),
        ("http://a/..%5Cx.jsonl", "named"),
        ("http://a/x.exe", "kind that cannot be read"),
    ],
)
def test_a_url_without_a_usable_name_is_refused(address: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        list_remote(urls(address))


@pytest.mark.parametrize(
    "options",
    [
        {"urls": []}, {"urls": ["ftp://a/x.jsonl"]}, {"urls": ["file:///x.jsonl"]}, {"urls": ["x.jsonl"]},
        {"urls": ["http://a/x.jsonl"] * 2}, {"sha256": {"http://a/y.jsonl": "0" * 64}},
        {"sha256": {"http://a/x.jsonl": "0"}},
    ],
)  # fmt: skip
def test_url_parameters_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Urls.model_validate({"kind": "url", "urls": ["http://a/x.jsonl"], **options})
