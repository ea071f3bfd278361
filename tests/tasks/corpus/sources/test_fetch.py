"""Downloads as the stage sees them: interrupted, side by side, on a full disk, many ahead."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks._errors import StageError
from tasks.corpus.sources import partial_file
from tasks.corpus.sources.fetch import Patience, RemoteFile, fetch, fetch_all
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


def test_what_is_there_with_the_right_sha256_is_not_fetched_again(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(server.known(NAME), tmp_path / NAME, QUICK).bytes == SIZE
    assert server.seen == []
    (tmp_path / NAME).write_bytes(OTHER)
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    (tmp_path / "old").write_bytes(OTHER)
    fetch(server.unknown(NAME), tmp_path / "old", QUICK)  # nothing tells that it is current
    assert (tmp_path / NAME).read_bytes() == (tmp_path / "old").read_bytes() == CONTENT


def test_several_threads_with_one_target_download_it_once(server: HubServer, tmp_path: Path) -> None:
    server.script[NAME] = [Answer(drop_after=30_000)] * 2
    with_one_target = [
        threading.Thread(target=fetch, args=(server.known(NAME), tmp_path / NAME, QUICK)) for _ in range(4)
    ]
    for thread in with_one_target:
        thread.start()
    for thread in with_one_target:
        thread.join()
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert server.offsets(NAME) == [None, 30_000, 60_000]
    assert left_behind(tmp_path) == [NAME]


def test_a_killed_download_goes_on_where_it_was(server: HubServer, tmp_path: Path) -> None:
    server.script[NAME] = [Answer(stall_after=40_000)]
    code = (
        "import sys; from pathlib import Path; from tasks.corpus.sources.fetch import *\n"
        "fetch(RemoteFile('x.bin', sys.argv[1], None, None, None), Path(sys.argv[2]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, server.address(NAME), str(tmp_path / NAME)])
    part = tmp_path / "x.bin.part"
    deadline = time.monotonic() + 20
    while not (part.is_file() and part.stat().st_size == 40_000):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / NAME).exists()
    fetch(server.unknown(NAME), tmp_path / NAME, QUICK)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert server.offsets(NAME) == [None, 40_000]
    assert left_behind(tmp_path) == [NAME]


def test_a_full_disk_is_reported_and_what_fitted_is_kept(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, [60_000]

    def into_little_room(handle: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(handle, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(partial_file.os, "write", into_little_room)
    with pytest.raises(StageError, match=r"disk is full: .* bytes free, x.bin needs 40,000 more.*x.bin.part") as caught:
        fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert str(tmp_path) in str(caught.value)
    assert len(server.requests(NAME)) == 1
    monkeypatch.undo()
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert server.offsets(NAME) == [None, 60_000]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_system_that_takes_little_at_a_time(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(partial_file.os, "write", lambda handle, data: write(handle, data[:999]))
    fetch(server.known(NAME), tmp_path / NAME, QUICK)
    assert server.offsets(NAME) == [None]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_really_full_disk(server: HubServer, tmp_path: Path) -> None:
    mount, small = shutil.which("mount"), tmp_path / "small"
    small.mkdir()
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode
    ):
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        with pytest.raises(StageError, match=r"disk is full: .*small has 0 bytes free, x.bin needs [34]\d,\d\d\d more"):
            fetch(server.known(NAME), small / NAME, QUICK)
        assert (small / "x.bin.part").stat().st_size > 50_000
        assert not (small / NAME).exists()
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_folder_that_cannot_be_written_is_named(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StageError, match=f"cannot be written to {tmp_path}"):
        fetch(server.known(NAME), tmp_path / "file" / NAME, QUICK)


def many(server: HubServer, number: int) -> list[RemoteFile]:
    for i in range(number):
        server.files[f"d/{i}.bin"] = CONTENT[: 1000 + i]
    return [server.known(f"d/{i}.bin") for i in range(number)]


def test_files_come_in_order_and_not_too_many_ahead(server: HubServer, tmp_path: Path) -> None:
    files = many(server, 20)
    server.script["d/0.bin"] = [Answer(status=503)] * 2  # the first is the last to be ready
    most = 0
    for i, measured in enumerate(fetch_all(files, tmp_path, workers=2, look_ahead=3, patience=QUICK)):
        assert measured.name == f"d/{i}.bin"
        assert (tmp_path / measured.name).read_bytes() == CONTENT[: 1000 + i]
        time.sleep(0.01)
        most = max(most, len({name.partition(".part")[0] for name in left_behind(tmp_path)}))
        (tmp_path / measured.name).unlink()
    assert i == 19 and len(server.seen) == 22
    assert 2 <= most <= 1 + 3


def test_nothing_is_asked_for_that_is_too_far_ahead(server: HubServer, tmp_path: Path) -> None:
    files = fetch_all(iter(many(server, 20)), tmp_path, workers=2, patience=QUICK)
    next(files)
    time.sleep(0.3)
    assert len(server.seen) == 1 + 4  # two workers, two files ahead for each
    files.close()


def test_an_error_comes_in_its_files_place(server: HubServer, tmp_path: Path) -> None:
    files = many(server, 8)
    server.always["d/3.bin"] = Answer(status=404)
    fetching = fetch_all(files, tmp_path, workers=4, patience=QUICK)
    assert [next(fetching).name for _ in range(3)] == ["d/0.bin", "d/1.bin", "d/2.bin"]
    with pytest.raises(StageError, match=r"d/3\.bin"):
        next(fetching)


def test_a_name_that_leads_elsewhere_is_refused_in_its_place(server: HubServer, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    files = [server.known(NAME), server.known(NAME)._replace(name="../outside.bin")]
    fetching = fetch_all(files, inside, workers=2, patience=QUICK)
    assert next(fetching).name == NAME
    with pytest.raises(StageError, match=r"'\.\./outside\.bin'"):
        next(fetching)
    assert left_behind(tmp_path) == [NAME]


def test_closing_ends_downloads_at_once_and_leaves_only_parts(server: HubServer, tmp_path: Path) -> None:
    """Also those that wait for a server which sends nothing: their connection is cut."""
    files = [server.known(NAME), *many(server, 8)]
    for i in range(8):
        server.always[f"d/{i}.bin"] = Answer(stall_after=500)
    fetching = fetch_all(files, tmp_path, workers=3, patience=QUICK._replace(read_seconds=60))
    next(fetching)
    deadline = time.monotonic() + 10
    while len(list(tmp_path.rglob("*.part"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    before = time.monotonic()
    fetching.close()
    assert time.monotonic() - before < 5
    names = left_behind(tmp_path)
    assert {name for name in names if not name.endswith((".part", ".part.json"))} == {NAME}
    assert sum(name.endswith(".part") for name in names) >= 3
    assert threading.active_count() < 20 and not [t for t in threading.enumerate() if t.name.startswith("fetch")]


def test_a_wish_to_stop_is_heard_while_waiting(server: HubServer, tmp_path: Path) -> None:
    server.always[NAME] = Answer(stall_after=500)

    def check_stop() -> None:
        raise KeyboardInterrupt

    fetching = fetch_all(
        [server.known(NAME)], tmp_path, 1, patience=QUICK._replace(read_seconds=60), check_stop=check_stop
    )
    with pytest.raises(KeyboardInterrupt):
        next(fetching)
    assert [name for name in left_behind(tmp_path) if not name.endswith((".part", ".part.json"))] == []


def test_no_files_and_one_worker(server: HubServer, tmp_path: Path) -> None:
    assert list(fetch_all([], tmp_path, workers=1)) == []
    assert [file.name for file in fetch_all(many(server, 3), tmp_path, 1, look_ahead=0)] == [
        "d/0.bin", "d/1.bin", "d/2.bin",
    ]  # fmt: skip
