"""Remote sources when something goes wrong: errors, stops and kills in the middle of downloads."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks._errors import StageError
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.corpus import reading
from tasks.corpus.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.corpus.remote_corpora import (
    FILES,
    as_parquet,
    fetched_names,
    file_name,
    hub_source,
    make_rows,
    never,
    raw_files,
    read_pins,
    run_corpus,
    same_content,
    url_source,
)
from tests.tasks.corpus.sources.hub_server import Answer, HubServer


def test_without_its_pin_a_file_that_turns_out_to_be_cached_is_not_read_again(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub tells sha256, so nothing is fetched; for an address it is known only afterwards."""
    sources = (hub_source(server, shards=2), url_source(server, file_name(3), file_name(4), domain="single"))
    run_corpus(tmp_path, *sources)
    pins = read_pins(tmp_path)
    shutil.rmtree(tmp_path / "data/pins")
    asked = len(server.seen)
    monkeypatch.setattr(reading, "read", never)
    run_corpus(tmp_path, *sources)
    assert fetched_names(server, asked) == [file_name(3), file_name(4)]
    assert read_pins(tmp_path) == pins
    assert not (tmp_path / "work/corpus/fetched").exists()


def test_an_error_in_one_file_ends_the_downloads_of_others_at_once(server: HubServer, tmp_path: Path) -> None:
    """Threads that go on waiting for a server would keep a failed stage from ending."""
    server.files[file_name(0)] = as_parquet([{"body": "no column named text"}])
    for number in range(3, FILES):  # those before may be handed out until the error's turn comes
        server.always[file_name(number)] = Answer(stall_after=100)
    before = time.monotonic()
    with pytest.raises(StageError, match=r"000\.parquet has no column 'text'; found: body"):
        run_corpus(tmp_path, hub_source(server))
    assert time.monotonic() - before < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


def test_a_wish_to_stop_is_heard_while_a_download_waits(server: HubServer, tmp_path: Path) -> None:
    server.always[file_name(0)] = Answer(stall_after=100)
    values = validate(Params, {"sources": [hub_source(server)]}, "test")
    (tmp_path / "data/benchmarks").mkdir(parents=True)
    context = make_context(
        tmp_path,
        Stage.CORPUS,
        values,
        runtime=Runtime(workers=1),
        stop_requested=lambda: bool(server.requests(file_name(0))),
    )
    before = time.monotonic()
    with pytest.raises(Exception, match="stopped on request"):
        run(context)
    assert time.monotonic() - before < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


CHILD = """
import json, sys
from pathlib import Path
from tests.tasks.corpus.test_remote_sources import run_corpus
run_corpus(Path(sys.argv[1]), json.loads(sys.argv[2]))
"""


def test_a_stage_killed_during_a_download_goes_on_where_it_was(server: HubServer, tmp_path: Path) -> None:
    """The second file stalls, the stage is killed. The next run asks for the rest of that file, and for no other file
    a second time."""
    server.files = {file_name(number): as_parquet(make_rows(number, 12, 300)) for number in range(FILES)}
    undisturbed = run_corpus(tmp_path / "undisturbed", hub_source(server))
    server.seen.clear()
    stall = 4_000
    assert len(server.files[file_name(1)]) > 2 * stall
    server.script[file_name(1)] = [Answer(stall_after=stall)]
    root = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root), json.dumps(hub_source(server))])
    deadline = time.monotonic() + 15
    try:
        while not _is_waiting_for_the_second_file(server, root, stall):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    out = run_corpus(root, hub_source(server))
    same_content(undisturbed, out)
    assert server.offsets(file_name(1)) == [None, stall]
    assert sorted(set(fetched_names(server))) == [file_name(number) for number in range(FILES)]
    assert len(fetched_names(server)) == FILES + 1
    assert not (root / "work/corpus/fetched").exists()


def _is_waiting_for_the_second_file(server: HubServer, root: Path, size: int) -> bool:
    """All others are there: the first as a unit of the cache."""
    parts = [path.stat().st_size for path in (root / "work/corpus/fetched").rglob("001.parquet.part")]
    units = [path for path in (root / "work/corpus/cache/read").glob("*") if not path.name.startswith(".")]
    behind = {Path(file_name(number)).name for number in range(2, FILES)}
    return parts == [size] and len(units) == 1 and behind <= {path.name for path in raw_files(root)}
