"""What was found at first is what counts."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks._errors import StageError
from tasks.corpus.sources.fetch import Patience, fetch_all
from tasks.corpus.sources.hub import Hub, Urls
from tasks.corpus.sources.pins import complete_pin, pin, pin_path
from tests.tasks.corpus.sources.hub_server import Answer, HubServer

QUICK = Patience(attempts=2, first_wait_seconds=0.01, max_wait_seconds=0.02, connect_seconds=2, read_seconds=1)
NAMES = [f"data/{i}.parquet" for i in range(5)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as running:
        for i, name in enumerate(NAMES):
            running.files[name] = bytes([i]) * 100
        yield running


def hub(server: HubServer, **options) -> Hub:
    return Hub(kind="hub", dataset="owner/name", **{"endpoint": server.url, **options})


def names(files) -> list[str]:
    return [file.name for file in files]


def content(source: Hub | Urls, folder: Path) -> dict:
    return json.loads(pin_path(source, folder).read_text())


def gather(source: Hub | Urls, root: Path) -> list[Path]:
    """As the stage does it."""
    pins, fetched = root / "pins", root / "fetched"
    paths = []
    for measured in fetch_all(pin(source, pins, QUICK), fetched, 2, patience=QUICK):
        complete_pin(source, pins, measured)
        paths.append(fetched / measured.name)
    return paths


def test_a_pinned_source_needs_no_hub_and_stays_what_it_was(server: HubServer, tmp_path: Path) -> None:
    source = hub(server)
    first = pin(source, tmp_path, QUICK)
    assert names(first) == NAMES
    assert pin_path(source, tmp_path).name == "".join(pin_path(source, tmp_path).stem) + ".json"
    assert len(pin_path(source, tmp_path).stem) == 16
    server.commit = "f" * 40
    server.files["data/new.parquet"] = b"new"
    asked = len(server.seen)
    assert pin(source, tmp_path, QUICK) == first
    assert len(server.seen) == asked
    assert [path.name for path in tmp_path.iterdir()] == [pin_path(source, tmp_path).name]


def test_list_pin_fetch_complete(server: HubServer, tmp_path: Path) -> None:
    server.plain = {NAMES[0]}
    source = hub(server, shards=2)
    assert content_of(gather(source, tmp_path)) == [server.files[name] for name in NAMES[:2]]
    pinned = content(source, tmp_path / "pins")
    assert [file["sha256"] for file in pinned["files"]] == [
        hashlib.sha256(server.files[name]).hexdigest() for name in NAMES[:2]
    ]
    assert (pinned["commit"], pinned["complete"]) == (server.commit, False)
    before = pin_path(source, tmp_path / "pins").stat().st_mtime_ns
    gather(source, tmp_path)
    assert pin_path(source, tmp_path / "pins").stat().st_mtime_ns == before


def content_of(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"shards": 1}, 1), ({"shards": 5}, 5), ({"shards": 9}, 5), ({"max_bytes": 1}, 1), ({"max_bytes": 100}, 1),
        ({"max_bytes": 101}, 2), ({"max_bytes": 500}, 5), ({"max_bytes": 501}, 5), ({}, 5),
        ({"shards": 3, "max_bytes": 150}, 2), ({"shards": 2, "max_bytes": 450}, 2),
    ],
)  # fmt: skip
def test_files_are_taken_up_to_a_number_or_until_a_size_is_reached(
    server: HubServer, tmp_path: Path, options: dict[str, int], count: int
) -> None:
    assert names(pin(hub(server, **options), tmp_path, QUICK)) == NAMES[:count]


def test_a_size_that_is_not_known_counts_from_the_first_download_on(server: HubServer, tmp_path: Path) -> None:
    source = hub(server, max_bytes=150)
    pin(source, tmp_path, QUICK)
    path = pin_path(source, tmp_path)
    pinned = json.loads(path.read_text())
    pinned["files"][0]["bytes"] = None
    path.write_text(json.dumps(pinned))
    without = pin(source, tmp_path, QUICK)
    assert names(without) == NAMES[:3]
    complete_pin(source, tmp_path, without[0]._replace(bytes=100))
    assert names(pin(source, tmp_path, QUICK)) == NAMES[:2]


def test_more_shards_extend_the_pin_at_its_commit_and_fewer_leave_it(server: HubServer, tmp_path: Path) -> None:
    pin(hub(server, shards=2), tmp_path, QUICK)
    before = content(hub(server), tmp_path)
    resolved = len([seen for seen in server.seen if "/revision/" in seen.path])
    assert names(pin(hub(server, shards=1), tmp_path, QUICK)) == NAMES[:1]
    assert content(hub(server), tmp_path) == before
    assert names(pin(hub(server, max_bytes=350), tmp_path, QUICK)) == NAMES[:4]
    after = content(hub(server), tmp_path)
    assert after["files"][:2] == before["files"]
    assert len(after["files"]) == 4
    assert len([seen for seen in server.seen if "/revision/" in seen.path]) == resolved  # the branch is not asked again
    assert names(pin(hub(server), tmp_path, QUICK)) == NAMES
    assert content(hub(server), tmp_path)["complete"]


def change_size(server: HubServer) -> None:
    server.files[NAMES[0]] += b"longer"


def change_content(server: HubServer) -> None:
    server.files[NAMES[0]] = b"x" * 100


def take_away(server: HubServer) -> None:
    del server.files[NAMES[0]]


def rewrite_history(server: HubServer) -> None:
    server.commit = "f" * 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_size, r"data/0.parquet differs: size 100 is pinned, 106 found"),
        (change_content, r"data/0.parquet differs: sha256 [0-9a-f]{64} is pinned, [0-9a-f]{64} found"),
        (take_away, r"data/0.parquet is pinned, and is not there any more"),
        (rewrite_history, r"no such revision.*commit is gone.*delete the pin"),
    ],
)
def test_a_difference_found_while_extending_is_an_error(
    server: HubServer, tmp_path: Path, change: Callable[[HubServer], None], message: str
) -> None:
    pin(hub(server, shards=2), tmp_path, QUICK)
    before = content(hub(server), tmp_path)
    change(server)
    with pytest.raises(StageError, match=message) as caught:
        pin(hub(server, shards=3), tmp_path, QUICK)
    assert "delete" in str(caught.value)
    assert content(hub(server), tmp_path) == before


@pytest.mark.parametrize("change", [change_size, change_content, take_away, rewrite_history])
def test_a_difference_found_while_fetching_is_an_error(
    server: HubServer, tmp_path: Path, change: Callable[[HubServer], None]
) -> None:
    pin(hub(server), tmp_path / "pins", QUICK)
    change(server)
    with pytest.raises(StageError, match=r"data/0\.parquet.*delete its pin"):
        gather(hub(server), tmp_path)


def test_a_measured_file_that_differs_from_its_pin_is_an_error(server: HubServer, tmp_path: Path) -> None:
    source = hub(server)
    file = pin(source, tmp_path, QUICK)[0]
    with pytest.raises(StageError, match=r"differs: size 100 is pinned, 99 found; sha256 .* next: delete .*\.json"):
        complete_pin(source, tmp_path, file._replace(bytes=99, sha256="0" * 64))
    with pytest.raises(StageError, match="lost its entry"):
        complete_pin(source, tmp_path, file._replace(name="data/other.parquet"))


def test_deleting_the_pin_accepts_the_new_content(server: HubServer, tmp_path: Path) -> None:
    source = hub(server, shards=1)
    gather(source, tmp_path)
    change_content(server)
    server.commit = "f" * 40
    assert content_of(gather(source, tmp_path)) == [b"\0" * 100]
    pin_path(source, tmp_path / "pins").unlink()
    assert content_of(gather(source, tmp_path)) == [b"x" * 100]


def test_what_does_not_change_the_content_does_not_change_the_pin(server: HubServer, tmp_path: Path) -> None:
    """A mirror must hold the same; a domain or a number of shards says nothing about content."""
    alike = [hub(server), hub(server, endpoint=None), hub(server, domain="web"), hub(server, shards=1, max_bytes=1)]
    different = [hub(server, glob="*.jsonl"), hub(server, revision="v1"), Hub(kind="hub", dataset="owner/other")]
    assert len({pin_path(source, tmp_path) for source in alike}) == 1
    assert len({pin_path(source, tmp_path) for source in [alike[0], *different]}) == 4


def test_a_mirror_is_held_to_the_pin(server: HubServer, tmp_path: Path) -> None:
    gather(hub(server, shards=1), tmp_path)
    with HubServer() as mirror:
        mirror.files = {**server.files, NAMES[0]: b"y" * 100}
        assert pin(hub(mirror, shards=1), tmp_path / "pins", QUICK)[0].url.startswith(mirror.url)
        (tmp_path / "fetched" / NAMES[0]).unlink()
        with pytest.raises(StageError, match="not the pinned file"):
            gather(hub(mirror, shards=1), tmp_path)


def urls(server: HubServer, *numbers: int, **options) -> Urls:
    return Urls(kind="url", urls=tuple(server.address(NAMES[i]) for i in numbers), **options)


def test_urls_are_pinned_one_by_one_when_first_fetched(server: HubServer, tmp_path: Path) -> None:
    assert content_of(gather(urls(server, 1, 0), tmp_path)) == [b"\1" * 100, b"\0" * 100]
    gather(urls(server, 0, 2), tmp_path)  # another list
    pinned = content(urls(server, 0), tmp_path / "pins")
    assert names_and_sizes(pinned) == [(server.address(NAMES[i]), 100) for i in range(3)]
    change_content(server)
    (tmp_path / "fetched" / "0.parquet").unlink()
    with pytest.raises(StageError, match=r"0\.parquet.*sha256 expected .*found"):
        gather(urls(server, 2, 0), tmp_path)


def names_and_sizes(pinned: dict) -> list[tuple[str, int]]:
    return [(file["name"], file["bytes"]) for file in pinned["files"]]


def test_a_given_sha256_must_agree_with_the_pin(server: HubServer, tmp_path: Path) -> None:
    address = server.address(NAMES[0])
    gather(urls(server, 0), tmp_path)
    pin(urls(server, 0, sha256={address: hashlib.sha256(b"\0" * 100).hexdigest()}), tmp_path / "pins")
    with pytest.raises(StageError, match=f"{address} differs: sha256 .* is pinned, {'0' * 64} found"):
        pin(urls(server, 0, sha256={address: "0" * 64}), tmp_path / "pins")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"source": {}, "files": [{"name": 1}]}', '{"files": [], "more": 1}'])
def test_a_damaged_pin_is_an_error_that_names_it(server: HubServer, tmp_path: Path, text: str) -> None:
    path = pin_path(hub(server), tmp_path)
    path.write_text(text)
    with pytest.raises(StageError, match=rf"{path} is not a pin: .*version control"):
        pin(hub(server), tmp_path, QUICK)
    assert path.read_text() == text


def test_a_name_edited_into_a_pin_cannot_lead_elsewhere(server: HubServer, tmp_path: Path) -> None:
    source = hub(server)
    pin(source, tmp_path, QUICK)
    path = pin_path(source, tmp_path)
    path.write_text(path.read_text().replace("data/0.parquet", "../../0.parquet"))
    with pytest.raises(StageError, match="a remote file is named"):
        pin(source, tmp_path, QUICK)


def test_nothing_is_pinned_when_the_listing_fails(server: HubServer, tmp_path: Path) -> None:
    server.always["tree"] = Answer(status=401)
    with pytest.raises(StageError):
        pin(hub(server), tmp_path, QUICK)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_pin_at_once_write_one_pin_and_lose_nothing(server: HubServer, tmp_path: Path) -> None:
    """Each process pins with another number of shards and completes the URLs it fetched; all of it must be there."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tasks.corpus.sources.hub import *; from tasks.corpus.sources.pins import *\n"
        "root, url, i = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])\n"
        "source = Hub(kind='hub', dataset='owner/name', endpoint=url, shards=i + 1)\n"
        "assert len(pin(source, root)) == i + 1\n"
        "urls = Urls(kind='url', urls=tuple(f'{url}/files/{i}-{k}.jsonl' for k in range(40)))\n"
        "for file in pin(urls, root): complete_pin(urls, root, file._replace(bytes=i, sha256='0' * 64))\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.url, str(i)]) for i in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert len(content(hub(server), tmp_path)["files"]) == 3
    found = content(Urls(kind="url", urls=("http://a/b.jsonl",)), tmp_path)["files"]
    assert len(found) == 120 and all(file["sha256"] for file in found)
    assert len([seen for seen in server.seen if "/revision/" in seen.path]) == 1
    assert len(list(tmp_path.iterdir())) == 2
