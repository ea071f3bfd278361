"""Remote sources through the whole stage: a hub and plain addresses on loopback."""

import gzip
import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard

from tasks._errors import StageError
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.corpus import reading
from tasks.corpus.sources.portions import DOWNLOADS
from tasks.corpus.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.corpus.sources.hub_server import Answer, HubServer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FUNCTION_WORDS = ["the", "of", "and", "to", "that", "with", "have", "be"]
FILES = 5
ROWS = 6


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as running:
        for number in range(FILES):
            running.files[_name(number)] = _parquet(_rows(number))
        yield running


def _name(number: int) -> str:
    return f"data/{number:03d}.parquet"


def _rows(seed: int, count: int = ROWS, words: int = 80) -> list[dict[str, str]]:
    """Documents of made-up words, so that no two are near each other; they name their source themselves, since one
    without is named after its file."""
    source = random.Random(seed)
    made_up = ["".join(source.choices(LETTERS, k=source.randint(3, 8))) for _ in range(400)]
    return [
        {
            "id": f"{seed}-{row}",
            "text": " ".join(source.choices([*made_up, *FUNCTION_WORDS * 12], k=words)),
            "source": f"page {seed}-{row}",
        }
        for row in range(count)
    ]


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    content = io.BytesIO()
    pl.DataFrame(rows).write_parquet(content)
    return content.getvalue()


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _hub(server: HubServer, **options: Any) -> dict[str, Any]:
    return {"kind": "hub", "dataset": "owner/name", "endpoint": server.url, "domain": "web", **options}


def _url(server: HubServer, *names: str, **options: Any) -> dict[str, Any]:
    return {"kind": "url", "urls": [server.address(name) for name in names], "domain": "web", **options}


def _run(root: Path, *sources: dict[str, Any], workers: int = 1, **params: Any) -> Path:
    (root / "data/benchmarks").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "work/corpus/out", ignore_errors=True)
    values = validate(Params, {"sources": sources, **params}, "test")
    context = make_context(root, Stage.CORPUS, values, runtime=Runtime(workers=workers))
    run(context)
    return context.out


def _kept(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "documents/*.parquet")


def _report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def _same_content(one: Path, two: Path) -> None:
    for name in ("documents/00000.parquet", "rejected/00000.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def _raw(root: Path) -> list[Path]:
    """Downloaded files that lie on disk whole."""
    found = (root / "work/corpus/fetched").rglob("*.[jp]*")
    return [path for path in found if path.is_file() and not path.name.endswith((".part", ".part.json"))]


def _pins(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "data/pins").iterdir())]


def _fetched(server: HubServer, since: int = 0) -> list[str]:
    """Names of the files asked for."""
    return sorted(
        next(name for name in server.files if seen.path.endswith(name))
        for seen in server.seen[since:]
        if not seen.path.startswith("/api/")
    )


def _never(*_: object) -> None:
    raise AssertionError("a cached unit was computed again")


@pytest.mark.parametrize("workers", [1, 2])
def test_documents_of_a_hub_arrive_pinned_and_raw_files_go(server: HubServer, tmp_path: Path, workers: int) -> None:
    out = _run(tmp_path, _hub(server), workers=workers)
    kept = _kept(out)
    assert sorted(kept["id"]) == sorted(f"files:{number}-{row}" for number in range(FILES) for row in range(ROWS))
    assert set(kept["domain"]) == {"web"}
    (pin,) = _pins(tmp_path)
    assert (pin["commit"], pin["complete"]) == (server.commit, True)
    assert [file["name"] for file in pin["files"]] == [_name(number) for number in range(FILES)]
    assert all(len(file["sha256"]) == 64 for file in pin["files"])
    assert _fetched(server) == [_name(number) for number in range(FILES)]
    assert not (tmp_path / "work/corpus/fetched").exists()
    assert [shard["name"] for shard in _report(out)["shards"]] == [_name(number) for number in range(FILES)]


def test_the_way_a_file_came_does_not_show_in_the_result(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "local/data/text/data"
    folder.mkdir(parents=True)
    for name, content in server.files.items():
        (folder.parent / name).write_bytes(content)
    local = _run(tmp_path / "local", {"kind": "files", "glob": "**/*.parquet", "domain": "web"})
    _same_content(local, _run(tmp_path / "hub", _hub(server)))
    _same_content(local, _run(tmp_path / "url", _url(server, *server.files)))


def test_what_is_cached_is_not_fetched_again_and_needs_no_server(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with the same parameters nor with other thresholds; and not even a listing is asked for."""
    sources = (_hub(server), _url(server, _name(0), domain="single"))
    first = _run(tmp_path / "a", *sources)
    shutil.copytree(first, tmp_path / "first")
    asked = len(server.seen)
    monkeypatch.setattr(reading, "read", _never)
    second = _run(tmp_path / "a", *sources)
    assert len(server.seen) == asked
    _same_content(tmp_path / "first", second)
    server.close()
    third = _run(tmp_path / "a", *sources, quality={"recipes": [], "min_characters": 475})
    dropped = _report(third)["dropped_by_reason"]["min_characters"]
    assert 0 < dropped < FILES * ROWS


def test_another_cleaning_fetches_what_is_pinned_again(server: HubServer, tmp_path: Path) -> None:
    source = _hub(server, glob="data/00[01].parquet")
    _run(tmp_path, source)
    pins, asked = _pins(tmp_path), len(server.seen)
    server.files["data/000a.parquet"] = _parquet(_rows(99))  # new since the pin
    out = _run(tmp_path, source, text={"emails": False})
    assert _fetched(server, asked) == [_name(0), _name(1)]
    assert all(f"/resolve/{server.commit}/" in seen.path for seen in server.seen[asked:])
    assert _kept(out).height == 2 * ROWS
    assert _pins(tmp_path) == pins


@pytest.mark.parametrize("kind", ["hub", "hub without sha256", "url"])
def test_content_that_changed_since_it_was_pinned_is_refused(server: HubServer, tmp_path: Path, kind: str) -> None:
    if kind == "hub without sha256":
        server.plain = set(server.files)
    source = _url(server, _name(0), _name(1)) if kind == "url" else _hub(server, shards=2)
    _run(tmp_path, source)
    (pin,) = _pins(tmp_path)
    before = server.files[_name(1)]
    changed = server.files[_name(1)] = before[:-6] + b"xx" + before[-4:]
    with pytest.raises(StageError) as caught:
        _run(tmp_path, source, text={"emails": False})
    pinned = next(file["sha256"] for file in pin["files"] if file["name"].endswith(_name(1)))
    found = hashlib.sha256(changed).hexdigest()
    for part in ("001.parquet", f"expected {pinned}", f"found {found}", "delete its pin"):
        assert part in str(caught.value)
    assert _pins(tmp_path) == [pin]


def test_more_shards_fetch_only_the_new_ones(server: HubServer, tmp_path: Path) -> None:
    assert _kept(_run(tmp_path, _hub(server, shards=2))).height == 2 * ROWS
    assert _fetched(server) == [_name(0), _name(1)]
    asked = len(server.seen)
    assert _kept(_run(tmp_path, _hub(server, shards=3))).height == 3 * ROWS
    assert _fetched(server, asked) == [_name(2)]
    asked = len(server.seen)
    assert _kept(_run(tmp_path, _hub(server, shards=1))).height == ROWS
    assert len(server.seen) == asked


def test_a_large_dataset_is_never_on_disk_at_once(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On disk lie the portions handed out (three for one worker) and what is fetched ahead (two per download)."""
    number = 30
    for extra in range(FILES, number):
        server.files[_name(extra)] = _parquet(_rows(extra, 1))
    most, ahead, read = 0, 0, reading.read
    done = list[str]()

    def counting(out: Path, name: str, *rest: Any) -> None:
        nonlocal most, ahead
        assert any(path.name == Path(name).name for path in _raw(tmp_path))
        read(out, name, *rest)
        time.sleep(0.02)  # so that downloads are as far ahead as they may be
        most, ahead = max(most, len(_raw(tmp_path))), max(ahead, len(_fetched(server)) - len(done))
        done.append(name)

    monkeypatch.setattr(reading, "read", counting)
    _run(tmp_path, _hub(server))
    assert done == [_name(i) for i in range(number)]
    allowed = 3 + 2 * DOWNLOADS
    assert DOWNLOADS < most <= allowed
    assert ahead <= allowed


def test_a_raw_file_stays_until_its_unit_is_in_the_cache(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the second file fails after its last record; the next run neither fetches nor reads the first again."""
    read = reading.read
    names: list[str] = []

    def failing(out: Path, name: str, *rest: Any) -> None:
        names.append(name)
        read(out, name, *rest)
        if names == [_name(0), _name(1)]:
            raise OSError("killed here")

    monkeypatch.setattr(reading, "read", failing)
    with pytest.raises(OSError, match="killed here"):
        _run(tmp_path, _hub(server))
    assert _name(1).removeprefix("data/") in {path.name for path in _raw(tmp_path)}
    asked = _fetched(server)
    out = _run(tmp_path, _hub(server))
    assert names[2:].count(_name(0)) == 0
    again = [name for name in _fetched(server, len(server.seen)) if name in asked]
    assert again == []
    assert _fetched(server).count(_name(1)) == 1
    assert not (tmp_path / "work/corpus/fetched").exists()
    assert _kept(out).height == FILES * ROWS


def test_several_files_are_fetched_at_once(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first requests are answered only when all of them are there."""
    together, answer = threading.Barrier(DOWNLOADS), server.next_answer
    first = {_name(number) for number in range(DOWNLOADS)}

    def waiting(name: str) -> Answer:
        if name in first:
            together.wait(10)
        return answer(name)

    monkeypatch.setattr(server, "next_answer", waiting)
    assert _kept(_run(tmp_path, _hub(server))).height == FILES * ROWS
    assert not together.broken


def test_every_format_and_a_folder_in_the_glob(server: HubServer, tmp_path: Path) -> None:
    server.files = {
        "a/0.jsonl.gz": gzip.compress(_json_lines(_rows(0))),
        "a/b/1.jsonl.zst": zstandard.compress(_json_lines(_rows(1))),
        "a/2.parquet": _parquet(_rows(2)),
        "a/3.jsonl": _json_lines(_rows(3)),
        "README.md": b"left out",
    }
    report = _report(_run(tmp_path, _hub(server, glob="a/**/*")))
    assert {shard["name"]: shard["in"] for shard in report["shards"]} == {
        name: ROWS for name in server.files if name.startswith("a/")
    }


def test_bad_rows_count_under_the_name_of_their_file(server: HubServer, tmp_path: Path) -> None:
    rows = [*_rows(0), {"id": "none", "text": None, "source": "page"}, {"id": "blank", "text": " ", "source": "page"}]
    server.files[_name(0)] = _parquet(rows)
    server.files["data/lines.jsonl"] = _json_lines(_rows(7)) + b"{broken\n"
    report = _report(_run(tmp_path, _hub(server, glob="data/*"), max_bad_fraction=0.2))
    assert [(bad["file"], bad["line"]) for bad in report["unreadable_samples"]] == [
        (_name(0), ROWS + 1), (_name(0), ROWS + 2), ("data/lines.jsonl", ROWS + 1),
    ]  # fmt: skip
    assert report["records"] == report["unreadable"] + report["total"]["documents"]
    with pytest.raises(StageError, match=r"3 of \d+ records of source 0(.|\n)*data/000.parquet:7: "):
        _run(tmp_path, _hub(server, glob="data/*"))


def test_a_file_cut_short_at_its_origin_is_a_bad_record(server: HubServer, tmp_path: Path) -> None:
    server.files[_name(1)] = server.files[_name(1)][:500]
    report = _report(_run(tmp_path, _hub(server), max_bad_fraction=0.2))
    assert [(bad["file"], bad["line"]) for bad in report["unreadable_samples"]] == [(_name(1), 0)]
    assert report["total"]["documents"] == (FILES - 1) * ROWS


def test_one_file_in_two_sources_is_read_for_each(server: HubServer, tmp_path: Path) -> None:
    """Each source deletes its own copy; of the documents, those of the first source stay."""
    sources = _hub(server, domain="first"), _hub(server, domain="second"), _hub(server, domain="first", shards=2)
    report = _report(_run(tmp_path, *sources, workers=2))
    assert report["domains"]["first"]["kept"] == FILES * ROWS
    assert report["domains"]["second"]["dropped"] == {"exact_duplicate": FILES * ROWS}
    assert report["domains"]["first"]["dropped"] == {"exact_duplicate": 2 * ROWS}
    assert len(_pins(tmp_path)) == 1


def test_files_of_one_name_from_two_addresses_do_not_mix(server: HubServer, tmp_path: Path) -> None:
    server.files["a/x.jsonl"], server.files["b/x.jsonl"] = _json_lines(_rows(1)), _json_lines(_rows(2))
    server.files["c/x.jsonl"] = _json_lines(_rows(3))
    out = _run(tmp_path, _url(server, "a/x.jsonl"), _url(server, "b/x.jsonl", "c/x.jsonl", domain="other"), workers=2)
    found = {(row["id"][6], row["domain"]) for row in _kept(out).iter_rows(named=True)}
    assert found == {("1", "web"), ("2", "other"), ("3", "other")}
    assert _kept(out).height == 3 * ROWS
    assert len(_pins(tmp_path)[0]["files"]) == 3


def test_without_its_pin_a_file_that_turns_out_to_be_cached_is_not_read_again(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub tells sha256, so nothing is fetched; for an address it is known only afterwards."""
    sources = (_hub(server, shards=2), _url(server, _name(3), _name(4), domain="single"))
    _run(tmp_path, *sources)
    pins = _pins(tmp_path)
    shutil.rmtree(tmp_path / "data/pins")
    asked = len(server.seen)
    monkeypatch.setattr(reading, "read", _never)
    _run(tmp_path, *sources)
    assert _fetched(server, asked) == [_name(3), _name(4)]
    assert _pins(tmp_path) == pins
    assert not (tmp_path / "work/corpus/fetched").exists()


def test_an_error_in_one_file_ends_the_downloads_of_others_at_once(server: HubServer, tmp_path: Path) -> None:
    """Threads that go on waiting for a server would keep a failed stage from ending."""
    server.files[_name(0)] = _parquet([{"body": "no column named text"}])
    for number in range(1, FILES):
        server.always[_name(number)] = Answer(stall_after=100)
    before = time.monotonic()
    with pytest.raises(StageError, match=r"000\.parquet has no column 'text'; found: body"):
        _stopped_when_the_second_file_is_awaited(server, tmp_path)
    assert time.monotonic() - before < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


def _stopped_when_the_second_file_is_awaited(server: HubServer, root: Path) -> None:
    """With one worker results are looked at only when three portions are handed out; the stalled second one is let go
    on as soon as it was asked for."""
    server.always.pop(_name(1))
    server.always.pop(_name(2))
    _run(root, _hub(server))


def test_a_wish_to_stop_is_heard_while_a_download_waits(server: HubServer, tmp_path: Path) -> None:
    server.always[_name(0)] = Answer(stall_after=100)
    values = validate(Params, {"sources": [_hub(server)]}, "test")
    (tmp_path / "data/benchmarks").mkdir(parents=True)
    context = make_context(
        tmp_path,
        Stage.CORPUS,
        values,
        runtime=Runtime(workers=1),
        stop_requested=lambda: bool(server.requests(_name(0))),
    )
    before = time.monotonic()
    with pytest.raises(Exception, match="stopped on request"):
        run(context)
    assert time.monotonic() - before < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


CHILD = """
import json, sys
from pathlib import Path
from tests.tasks.corpus.test_remote_sources import _run
_run(Path(sys.argv[1]), json.loads(sys.argv[2]))
"""


def test_a_stage_killed_during_a_download_goes_on_where_it_was(server: HubServer, tmp_path: Path) -> None:
    """The second file stalls, the stage is killed. The next run asks for the rest of that file, and for no other file
    a second time."""
    server.files = {_name(number): _parquet(_rows(number, 12, 300)) for number in range(FILES)}
    undisturbed = _run(tmp_path / "undisturbed", _hub(server))
    server.seen.clear()
    stall = 4_000
    assert len(server.files[_name(1)]) > 2 * stall
    server.script[_name(1)] = [Answer(stall_after=stall)]
    root = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root), json.dumps(_hub(server))])
    deadline = time.monotonic() + 30
    try:
        while not _is_waiting_for_the_second_file(server, root, stall):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    out = _run(root, _hub(server))
    _same_content(undisturbed, out)
    assert server.offsets(_name(1)) == [None, stall]
    assert sorted(set(_fetched(server))) == [_name(number) for number in range(FILES)]
    assert len(_fetched(server)) == FILES + 1
    assert not (root / "work/corpus/fetched").exists()


def _is_waiting_for_the_second_file(server: HubServer, root: Path, size: int) -> bool:
    """All others are there: the first as a unit of the cache."""
    parts = [path.stat().st_size for path in (root / "work/corpus/fetched").rglob("001.parquet.part")]
    units = [path for path in (root / "work/corpus/cache/read").glob("*") if not path.name.startswith(".")]
    return parts == [size] and len(units) == 1 and len(_raw(root)) == FILES - 1
