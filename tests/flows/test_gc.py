"""`flows gc`: what it lists, what it removes, what it never touches."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import _gc
from tasks import _units
from tasks._units import keep_only


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_gc, "ROOT", tmp_path)
    monkeypatch.setattr(_gc._keys, "current", lambda stage, status: SimpleNamespace(resume_key="f" * 64))
    monkeypatch.setattr(_gc.subprocess, "run", lambda *_, **__: None)  # DVC's part
    return tmp_path


def _folder(root: Path, name: str, size: int, age: float) -> Path:
    folder = root / "work/corpus" / name
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(size))
    for path in (folder / "a.bin", folder):
        os.utime(path, (time.time() - age, time.time() - age))
    return folder


def test_gc_shows_sizes_by_pass_and_removes_only_when_told(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    current = _folder(repository, "f" * 16, 100, 9000)
    former = _folder(repository, "0" * 16, 1_000_000, 9000)
    used = _folder(repository, "cache/read/used", 100, 9000)
    gone = [_folder(repository, f"cache/read/{name}", 2_000_000, 9000) for name in ("a", "b", ".half")]
    other = _folder(repository, "cache/sign/c", 500_000, 9000)
    cache = repository / "work/corpus/cache"
    keep_only(cache, [used])
    os.utime(cache / _units.USED, (time.time() - 8000, time.time() - 8000))
    precious = _folder(repository, "cache/sign/interrupted", 3_000_000, 60)
    busy = _folder(repository, "cache/sign/.busy", 100, 60)

    _gc.collect(remove_them=False)
    shown = capsys.readouterr().out
    assert f"would remove work/corpus/{'0' * 16} (1.0 MB)" in shown
    assert "would remove 3 unit(s) of work/corpus/cache/read (6.0 MB)" in shown
    assert "would remove 1 unit(s) of work/corpus/cache/sign (0.5 MB)" in shown
    assert "kept 1 unit(s) of a run of corpus that has not finished (3.0 MB)" in shown
    assert "work/: 7.5 MB can be freed" in shown
    assert all(folder.exists() for folder in (current, former, used, *gone, other, precious, busy))

    _gc.collect(remove_them=True)
    assert "work/: 7.5 MB freed" in capsys.readouterr().out
    assert not any(folder.exists() for folder in (former, *gone, other))
    assert all(folder.exists() for folder in (current, used, precious, busy))
    _gc.collect(remove_them=True)
    assert "work/: 0.0 MB freed" in capsys.readouterr().out


def test_gc_before_any_stage_has_run_finds_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _gc.collect(remove_them=True)
    assert "work/: 0.0 MB freed" in capsys.readouterr().out
