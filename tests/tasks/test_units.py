"""Cached units: a folder counts whole or not at all, is computed once, is named after all it depends on."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Barrier
from typing import Any

import pytest

from tasks import _units
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._executor import InlineExecutor, open_executor
from tasks._params import StageParams
from tasks._runtime import Runtime
from tasks._units import Unit, code_version, compute, compute_all, digest_of, keep_only, unfinished, unit_key, unused
from tasks.run import disk_is_full
from tasks.stages import Stage
from tests.executor_jobs import fill, traced
from tests.stage_context import make_context

UNITS = 10


def _context(root: Path, workers: int) -> StageContext:
    return make_context(root, Stage.CORPUS, StageParams(), runtime=Runtime(workers=workers))


def _run(ctx: StageContext, deadly: str | None = None) -> list[Path]:
    log = str(ctx.root / "log")
    units = [Unit(ctx.cache / "pass" / unit_key(n), (log, n, 0.05, deadly if n == 4 else None)) for n in range(UNITS)]
    with open_executor(ctx) as executor:
        return list(compute_all(ctx, executor, fill, units, UNITS, "squaring"))


def _whole(folder: Path) -> bool:
    return sorted(path.name for path in folder.iterdir()) == ["first.txt", "second.txt"]


def test_a_killed_worker_costs_one_unit_per_worker_and_nothing_half_written_counts(tmp_path: Path) -> None:
    """Unit 4 kills its worker after its first file. The pool ends with it, and with it what the other worker did."""
    workers, deadly = 2, tmp_path / "deadly"
    deadly.touch()
    ctx = _context(tmp_path, workers)
    with pytest.raises(StageError, match="while squaring"):
        _run(ctx, str(deadly))
    begun = traced(tmp_path / "log")
    finished = [folder for folder in (ctx.cache / "pass").iterdir() if not folder.name.startswith(".")]
    halves = [folder for folder in (ctx.cache / "pass").iterdir() if folder.name.startswith(".")]
    assert 1 <= len(halves) <= workers
    assert all(_whole(folder) for folder in finished)
    assert len(begun) - len(finished) <= workers
    folders = _run(ctx)
    assert len(folders) == UNITS
    assert all(_whole(folder) for folder in folders)
    repeated = len(traced(tmp_path / "log")) - UNITS
    assert 1 <= repeated <= workers
    before = traced(tmp_path / "log")
    assert _run(ctx) == folders
    assert traced(tmp_path / "log") == before


def test_units_in_the_cache_ask_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = _context(tmp_path, 2)
    folders = _run(ctx)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", _never)
    assert _run(ctx) == folders


def _never(*_: object, **__: object) -> None:
    raise AssertionError("a worker was asked")


def test_two_workers_on_one_unit_end_with_one_folder(tmp_path: Path) -> None:
    barrier = Barrier(2, timeout=20)

    def meet(out: Path) -> None:
        (out / "value.txt").write_text("same")
        barrier.wait()

    target = tmp_path / "pass" / "unit"
    with ThreadPoolExecutor(2) as executor:
        both = [executor.submit(compute, meet, str(target), ()) for _ in range(2)]
        assert [future.result() for future in both] == [str(target)] * 2
    assert [path.relative_to(target.parent).as_posix() for path in target.parent.rglob("*")] == [
        "unit",
        "unit/value.txt",
    ]


def test_a_failing_unit_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("half")
        raise KeyError("defect")

    with pytest.raises(KeyError, match="defect"):
        compute(fail, str(tmp_path / "pass/unit"), ())
    assert list((tmp_path / "pass").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_nothing_half_written_counts(small_disk: Path, tmp_path: Path) -> None:
    """Two units fit, the third does not; once there is room the same call goes on behind the second."""
    ctx, reserve = _context(tmp_path, 1), small_disk / "reserve"
    reserve.write_bytes(bytes(500_000))
    written: list[int] = []

    def heavy(out: Path, value: int) -> None:
        for part in range(2):
            (out / f"{part}.bin").write_bytes(bytes([value]) * 100_000)
        written.append(value)

    units = [Unit(small_disk / "pass" / str(value), (value,)) for value in range(4)]
    with pytest.raises(OSError, match="No space left") as error:
        list(compute_all(ctx, InlineExecutor(), heavy, units, 4, "filling"))
    assert disk_is_full(error.value)
    assert error.value.errno == errno.ENOSPC
    assert sorted(path.name for path in (small_disk / "pass").iterdir()) == ["0", "1"]
    reserve.unlink()
    assert len(list(compute_all(ctx, InlineExecutor(), heavy, units, 4, "filling"))) == 4
    assert written == [0, 1, 2, 3]


def _fill_disk(out: Path, size: int) -> None:
    (out / "large.bin").write_bytes(bytes(size))


def test_a_full_disk_in_a_worker_process_is_the_same_error(small_disk: Path, tmp_path: Path) -> None:
    ctx = _context(tmp_path, 2)
    units = [Unit(small_disk / "pass" / str(size), (size,)) for size in (10, 3_000_000)]
    with pytest.raises(OSError, match="No space left") as error, open_executor(ctx) as executor:
        list(compute_all(ctx, executor, _fill_disk, units, 2, "filling"))
    assert disk_is_full(error.value)
    # The small unit is there or not, by whether the other worker had filled the disk already; nothing else is.
    assert {path.name for path in (small_disk / "pass").iterdir()} <= {"10"}


def test_everything_is_on_disk_before_a_unit_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may keep a rename and lose the bytes behind it: an empty file would count for ever."""
    events: list[tuple[str, str]] = []
    names: dict[int, str] = {}
    os_open, fsync, replace = os.open, os.fsync, os.replace

    def opened(path: Any, *arguments: Any, **options: Any) -> int:
        descriptor = os_open(path, *arguments, **options)
        names[descriptor] = Path(path).name
        return descriptor

    def synced(descriptor: int) -> None:
        events.append(("fsync", names[descriptor]))
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        events.append(("replace", target.name))
        replace(source, target)

    for name, function in (("open", opened), ("fsync", synced), ("replace", replaced)):
        monkeypatch.setattr(os, name, function)

    def nested(out: Path) -> None:
        (out / "deep").mkdir()
        for name in ("a", "deep/b"):
            (out / name).write_text(name)

    compute(nested, str(tmp_path / "pass/unit"), ())
    assert events[-1] == ("replace", "unit")
    assert {name for kind, name in events if kind == "fsync"} >= {"a", "b", "deep"}


def test_keys_depend_on_every_part_and_on_nothing_else() -> None:
    base = unit_key("read", ("a", 1), {"x": None, "y": 2.5}, Path("data/a"))
    assert base == unit_key("read", ["a", 1], {"y": 2.5, "x": None}, PurePosixPath("data/a"))
    others = [
        unit_key("read", ("a", 1), {"x": None, "y": 2.5}),
        unit_key("read", ("a", "1"), {"x": None, "y": 2.5}, Path("data/a")),
        unit_key("read", "a", 1, {"x": None, "y": 2.5}, Path("data/a")),
        unit_key("read", ("a", 1), {"x": 0, "y": 2.5}, Path("data/a")),
    ]
    assert len({base, *others}) == 5
    assert len(base) == 32


@pytest.mark.parametrize("part", [{"a", "b"}, object(), len, b"bytes"], ids=["set", "object", "function", "bytes"])
def test_what_is_written_differently_by_every_process_cannot_be_part_of_a_key(part: object) -> None:
    with pytest.raises(TypeError, match="cannot be part of a unit's key"):
        unit_key("pass", part)


def test_code_version_follows_the_listed_files_and_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_units, "ROOT", tmp_path)
    versions = {"numpy": "1", "polars": "1", "pyarrow": "1", "ftfy": "1"}
    monkeypatch.setattr(_units, "version", lambda name: versions[name])
    for name in ("one.py", "two.py", "other.py"):
        (tmp_path / name).write_text(name)

    def now(*libraries: str) -> str:
        code_version.cache_clear()  # what another process would say
        return code_version(("one.py", "two.py"), libraries)

    try:
        first = now("ftfy")
        (tmp_path / "other.py").write_text("changed")
        assert now("ftfy") == first
        (tmp_path / "two.py").write_text("changed")
        assert code_version(("one.py", "two.py"), ("ftfy",)) == first  # this process has loaded the old code
        assert now("ftfy") != first
        (tmp_path / "two.py").write_text("two.py")
        assert now("ftfy") == first
        for library in ("ftfy", "polars"):
            versions[library] = "2"
            assert now("ftfy") != first
            versions[library] = "1"
        versions["ftfy"] = "2"
        assert now() == now()
        assert now() != first
        monkeypatch.setattr("sys.version_info", (3, 99, 0))
        versions["ftfy"] = "1"
        assert now("ftfy") != first
    finally:
        code_version.cache_clear()


def test_a_changed_file_never_has_its_old_digest(tmp_path: Path) -> None:
    """Also if it has the same size and time as before: rewritten within one tick, or copied with its time."""
    path = tmp_path / "a.txt"
    digests = set()
    for value in range(50):  # faster than the clock of a file system
        path.write_text(f"{value:04d}")
        digests.add(digest_of(path))
    assert len(digests) == 50
    old = time.time() - 1000
    os.utime(path, (old, old))
    first = digest_of(path)
    path.write_text("same")
    os.utime(path, (old, old))
    assert digest_of(path) != first


def test_a_file_at_rest_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    monkeypatch.setattr(_units, "SETTLED_NS", -(10**9))
    first = digest_of(path)
    monkeypatch.setattr(_units, "_file_digest", _never)
    assert digest_of(path) == first
    path.write_text("texts")
    with pytest.raises(AssertionError, match="a worker was asked"):
        digest_of(path)


def _unit(cache: Path, name: str, used_at: float) -> Path:
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a" * 10)
    for path in (folder / "a.bin", folder):
        os.utime(path, (used_at, used_at))
    return folder


def test_unused_is_what_no_finished_or_unfinished_run_will_want(tmp_path: Path) -> None:
    now = time.time()
    old, fresh = now - 10_000, now - 10
    used, dropped = _unit(tmp_path, "read/used", old), _unit(tmp_path, "read/dropped", old)
    left, busy = _unit(tmp_path, "read/.half.1", old), _unit(tmp_path, "sign/.half.2", fresh)
    keep_only(tmp_path, [used])
    finished = now - 5000
    os.utime(tmp_path / _units.USED, (finished, finished))
    interrupted = _unit(tmp_path, "sign/interrupted", fresh)
    assert unused(tmp_path) == [left, dropped]
    assert unfinished(tmp_path) == [interrupted]
    os.utime(left / "a.bin")  # a worker writes into it again
    assert unused(tmp_path) == [dropped]
    assert busy.exists()


def test_an_unfinished_run_keeps_the_older_units_it_used(tmp_path: Path) -> None:
    """A threshold goes back to an earlier value and that run is interrupted: its units are older than the last finished
    run, and only their time says that they are wanted."""
    ctx = _context(tmp_path, 1)
    folders = _run(ctx)
    other = _unit(ctx.cache, "pass/other", time.time())
    keep_only(ctx.cache, [other])
    past = time.time() - 100
    for folder in folders:
        os.utime(folder, (past, past))
    assert unused(ctx.cache) == sorted(folders)
    assert _run(ctx) == folders  # does not finish: no keep_only
    assert unused(ctx.cache) == []
    assert unfinished(ctx.cache) == sorted(folders)


def test_before_the_first_finished_run_nothing_is_unused(tmp_path: Path) -> None:
    unit = _unit(tmp_path, "read/a", 1.0)
    assert unused(tmp_path) == []
    assert unfinished(tmp_path) == [unit]
    assert unused(tmp_path / "missing") == unfinished(tmp_path / "missing") == []


def test_a_unit_that_never_appears_is_an_error_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a cluster that writes to a disk of its own."""
    monkeypatch.setattr(_units, "VISIBLE_SECONDS", 0.1)
    monkeypatch.setattr(_units, "compute", lambda function, folder, arguments: folder)
    units = [Unit(tmp_path / "pass" / "far", ())]
    with pytest.raises(StageError, match=r"measuring: a worker has written .*pass/far, which does not appear here"):
        list(compute_all(_context(tmp_path, 1), InlineExecutor(), _never, units, 1, "measuring"))
