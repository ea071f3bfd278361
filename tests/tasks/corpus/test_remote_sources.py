"""Remote sources through the whole stage: a hub and plain addresses on loopback."""

import gzip
import hashlib
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks._errors import StageError
from tasks.corpus import reading
from tasks.corpus.sources.portions import DOWNLOADS
from tests.tasks.corpus.remote_corpora import (
    FILES,
    ROWS,
    as_json_lines,
    as_parquet,
    fetched_names,
    file_name,
    hub_source,
    make_rows,
    never,
    raw_files,
    read_kept,
    read_pins,
    read_report,
    run_corpus,
    same_content,
    url_source,
)
from tests.tasks.corpus.sources.hub_server import Answer, HubServer


@pytest.mark.parametrize("workers", [1, 2])
def test_documents_of_a_hub_arrive_pinned_and_raw_files_go(server: HubServer, tmp_path: Path, workers: int) -> None:
    out = run_corpus(tmp_path, hub_source(server), workers=workers)
    kept = read_kept(out)
    assert sorted(kept["id"]) == sorted(f"files:{number}-{row}" for number in range(FILES) for row in range(ROWS))
    assert set(kept["domain"]) == {"web"}
    (pin,) = read_pins(tmp_path)
    assert (pin["commit"], pin["complete"]) == (server.commit, True)
    assert [file["name"] for file in pin["files"]] == [file_name(number) for number in range(FILES)]
    assert all(len(file["sha256"]) == 64 for file in pin["files"])
    assert fetched_names(server) == [file_name(number) for number in range(FILES)]
    assert not (tmp_path / "work/corpus/fetched").exists()
    assert [shard["name"] for shard in read_report(out)["shards"]] == [file_name(number) for number in range(FILES)]


def test_the_way_a_file_came_does_not_show_in_the_result(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "local/data/text/data"
    folder.mkdir(parents=True)
    for name, content in server.files.items():
        (folder.parent / name).write_bytes(content)
    local = run_corpus(tmp_path / "local", {"kind": "files", "glob": "**/*.parquet", "domain": "web"})
    same_content(local, run_corpus(tmp_path / "hub", hub_source(server)))
    same_content(local, run_corpus(tmp_path / "url", url_source(server, *server.files)))


def test_what_is_cached_is_not_fetched_again_and_needs_no_server(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with the same parameters nor with other thresholds; and not even a listing is asked for."""
    sources = (hub_source(server), url_source(server, file_name(0), domain="single"))
    first = run_corpus(tmp_path / "a", *sources)
    shutil.copytree(first, tmp_path / "first")
    asked = len(server.seen)
    monkeypatch.setattr(reading, "read", never)
    second = run_corpus(tmp_path / "a", *sources)
    assert len(server.seen) == asked
    same_content(tmp_path / "first", second)
    server.close()
    third = run_corpus(tmp_path / "a", *sources, quality={"recipes": [], "min_characters": 475})
    dropped = read_report(third)["dropped_by_reason"]["min_characters"]
    assert 0 < dropped < FILES * ROWS


def test_another_cleaning_fetches_what_is_pinned_again(server: HubServer, tmp_path: Path) -> None:
    source = hub_source(server, glob="data/00[01].parquet")
    run_corpus(tmp_path, source)
    pins, asked = read_pins(tmp_path), len(server.seen)
    server.files["data/000a.parquet"] = as_parquet(make_rows(99))  # new since the pin
    out = run_corpus(tmp_path, source, text={"emails": False})
    assert fetched_names(server, asked) == [file_name(0), file_name(1)]
    assert all(f"/resolve/{server.commit}/" in seen.path for seen in server.seen[asked:])
    assert read_kept(out).height == 2 * ROWS
    assert read_pins(tmp_path) == pins


@pytest.mark.parametrize("kind", ["hub", "hub without sha256", "url"])
def test_content_that_changed_since_it_was_pinned_is_refused(server: HubServer, tmp_path: Path, kind: str) -> None:
    if kind == "hub without sha256":
        server.plain = set(server.files)
    source = url_source(server, file_name(0), file_name(1)) if kind == "url" else hub_source(server, shards=2)
    run_corpus(tmp_path, source)
    (pin,) = read_pins(tmp_path)
    before = server.files[file_name(1)]
    changed = server.files[file_name(1)] = before[:-6] + b"xx" + before[-4:]
    with pytest.raises(StageError) as caught:
        run_corpus(tmp_path, source, text={"emails": False})
    pinned = next(file["sha256"] for file in pin["files"] if file["name"].endswith(file_name(1)))
    found = hashlib.sha256(changed).hexdigest()
    for part in ("001.parquet", f"expected {pinned}", f"found {found}", "delete its pin"):
        assert part in str(caught.value)
    assert read_pins(tmp_path) == [pin]


def test_more_shards_fetch_only_the_new_ones(server: HubServer, tmp_path: Path) -> None:
    assert read_kept(run_corpus(tmp_path, hub_source(server, shards=2))).height == 2 * ROWS
    assert fetched_names(server) == [file_name(0), file_name(1)]
    asked = len(server.seen)
    assert read_kept(run_corpus(tmp_path, hub_source(server, shards=3))).height == 3 * ROWS
    assert fetched_names(server, asked) == [file_name(2)]
    asked = len(server.seen)
    assert read_kept(run_corpus(tmp_path, hub_source(server, shards=1))).height == ROWS
    assert len(server.seen) == asked


def test_a_large_dataset_is_never_on_disk_at_once(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On disk lie the portions handed out (at most three per worker) and what is fetched ahead (two per download)."""
    number = 30
    for extra in range(FILES, number):
        server.files[file_name(extra)] = as_parquet(make_rows(extra, 1))
    most, ahead, read = 0, 0, reading.read
    done = list[str]()

    def counting(out: Path, name: str, *rest: Any) -> None:
        nonlocal most, ahead
        assert any(path.name == Path(name).name for path in raw_files(tmp_path))
        read(out, name, *rest)
        time.sleep(0.02)  # so that downloads are as far ahead as they may be
        most, ahead = max(most, len(raw_files(tmp_path))), max(ahead, len(fetched_names(server)) - len(done))
        done.append(name)

    monkeypatch.setattr(reading, "read", counting)
    run_corpus(tmp_path, hub_source(server))
    assert done == [file_name(i) for i in range(number)]
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
        if names == [file_name(0), file_name(1)]:
            raise OSError("killed here")

    monkeypatch.setattr(reading, "read", failing)
    with pytest.raises(OSError, match="killed here"):
        run_corpus(tmp_path, hub_source(server))
    assert file_name(1).removeprefix("data/") in {path.name for path in raw_files(tmp_path)}
    asked = fetched_names(server)
    out = run_corpus(tmp_path, hub_source(server))
    assert names[2:].count(file_name(0)) == 0
    again = [name for name in fetched_names(server, len(server.seen)) if name in asked]
    assert again == []
    assert fetched_names(server).count(file_name(1)) == 1
    assert not (tmp_path / "work/corpus/fetched").exists()
    assert read_kept(out).height == FILES * ROWS


def test_several_files_are_fetched_at_once(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first requests are answered only when all of them are there."""
    together, answer = threading.Barrier(DOWNLOADS), server.next_answer
    first = {file_name(number) for number in range(DOWNLOADS)}

    def waiting(name: str) -> Answer:
        if name in first:
            together.wait(10)
        return answer(name)

    monkeypatch.setattr(server, "next_answer", waiting)
    assert read_kept(run_corpus(tmp_path, hub_source(server))).height == FILES * ROWS
    assert not together.broken


def test_every_format_and_a_folder_in_the_glob(server: HubServer, tmp_path: Path) -> None:
    server.files = {
        "a/0.jsonl.gz": gzip.compress(as_json_lines(make_rows(0))),
        "a/b/1.jsonl.zst": zstandard.compress(as_json_lines(make_rows(1))),
        "a/2.parquet": as_parquet(make_rows(2)),
        "a/3.jsonl": as_json_lines(make_rows(3)),
        "README.md": b"left out",
    }
    report = read_report(run_corpus(tmp_path, hub_source(server, glob="a/**/*")))
    assert {shard["name"]: shard["in"] for shard in report["shards"]} == {
        name: ROWS for name in server.files if name.startswith("a/")
    }


def test_bad_rows_count_under_the_name_of_their_file(server: HubServer, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *make_rows(0),
        {"id": "none", "text": None, "source": "page"},
        {"id": "blank", "text": " ", "source": "page"},
    ]
    server.files[file_name(0)] = as_parquet(rows)
    server.files["data/lines.jsonl"] = as_json_lines(make_rows(7)) + b"{broken\n"
    report = read_report(run_corpus(tmp_path, hub_source(server, glob="data/*"), max_bad_fraction=0.2))
    assert [(bad["file"], bad["line"]) for bad in report["unreadable_samples"]] == [
        (file_name(0), ROWS + 1), (file_name(0), ROWS + 2), ("data/lines.jsonl", ROWS + 1),
    ]  # fmt: skip
    assert report["records"] == report["unreadable"] + report["total"]["documents"]
    with pytest.raises(StageError, match=r"3 of \d+ records of source 0(.|\n)*data/000.parquet:7: "):
        run_corpus(tmp_path, hub_source(server, glob="data/*"))


def test_a_file_cut_short_at_its_origin_is_a_bad_record(server: HubServer, tmp_path: Path) -> None:
    server.files[file_name(1)] = server.files[file_name(1)][:500]
    report = read_report(run_corpus(tmp_path, hub_source(server), max_bad_fraction=0.2))
    assert [(bad["file"], bad["line"]) for bad in report["unreadable_samples"]] == [(file_name(1), 0)]
    assert report["total"]["documents"] == (FILES - 1) * ROWS


def test_one_file_in_two_sources_is_read_for_each(server: HubServer, tmp_path: Path) -> None:
    """Each source deletes its own copy; of the documents, those of the first source stay."""
    sources = (
        hub_source(server, domain="first"),
        hub_source(server, domain="second"),
        hub_source(server, domain="first", shards=2),
    )
    report = read_report(run_corpus(tmp_path, *sources, workers=2, guard={"allow_drop": ["second:exact_duplicate"]}))
    assert report["domains"]["first"]["kept"] == FILES * ROWS
    assert report["domains"]["second"]["dropped"] == {"exact_duplicate": FILES * ROWS}
    assert report["domains"]["first"]["dropped"] == {"exact_duplicate": 2 * ROWS}
    assert len(read_pins(tmp_path)) == 1


def test_files_of_one_name_from_two_addresses_do_not_mix(server: HubServer, tmp_path: Path) -> None:
    server.files["a/x.jsonl"], server.files["b/x.jsonl"] = as_json_lines(make_rows(1)), as_json_lines(make_rows(2))
    server.files["c/x.jsonl"] = as_json_lines(make_rows(3))
    out = run_corpus(
        tmp_path,
        url_source(server, "a/x.jsonl"),
        url_source(server, "b/x.jsonl", "c/x.jsonl", domain="other"),
        workers=2,
    )
    found = {(row["id"][6], row["domain"]) for row in read_kept(out).iter_rows(named=True)}
    assert found == {("1", "web"), ("2", "other"), ("3", "other")}
    assert read_kept(out).height == 3 * ROWS
    assert len(read_pins(tmp_path)[0]["files"]) == 3
