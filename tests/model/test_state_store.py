"""States of a run: copied at once, written behind the training, as often as it pays; a full disk stops nothing."""

import errno
import shutil
import subprocess
import threading
import time

import pytest
import torch

from model import state_files, state_store
from model.checkpoint import save_state
from model.state_store import StateStore


def state(value, size=64):
    """Tensors that all tell the same value, of several types and shapes, one of them not contiguous."""
    return {
        "model/weight": torch.full((size, 3), float(value)).T,
        "optimizer/moment": torch.full((size,), float(value), dtype=torch.bfloat16),
        "rng/cpu": torch.full((5,), value, dtype=torch.uint8),
        "count": torch.tensor(float(value)),
    }


def value_of(loaded):
    """The one value that a whole state tells; fails on one that is mixed from two."""
    tensors, info = loaded
    assert tensors.keys() == state(0).keys()
    values = {float(value) for tensor in tensors.values() for value in tensor.aminmax()} | {float(info["value"])}
    assert len(values) == 1
    return values.pop()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def saved(folder, *steps, keep=3):
    """A store with whole states of these steps; what it notes is collected in `.told`."""
    told = []
    store = StateStore(folder, keep=keep, note=told.append)
    store.told = told
    for step in steps:
        store.save(step, state(step), {"value": step}, wait=True)
    return store


# --- in the background -----------------------------------------------------------------------------------------------


def test_the_step_goes_on_while_a_state_is_written_and_may_change_everything(tmp_path, monkeypatch):
    """Bug it catches: writing from the live tensors, or from the live info, mixes two steps in one file."""
    go, write = threading.Event(), state_store.write_state
    monkeypatch.setattr(state_store, "write_state", lambda *args: (go.wait(10), write(*args))[1])
    store, tensors, info = StateStore(tmp_path, mean_seconds_between_failures=1e-12, minimum_seconds=0), state(1), {}
    info["value"] = 1
    store.save(1, tensors, info)
    assert store.pending
    assert not store.due()
    for tensor in tensors.values():
        tensor.fill_(2)
    info["value"] = 2
    assert StateStore(tmp_path).load() is None
    go.set()
    store.wait()
    assert not store.pending
    assert store.due()
    assert value_of(store.load()) == 1


def test_host_memory_is_taken_once_and_given_back(tmp_path):
    store = StateStore(tmp_path)
    store.save(1, state(1), {"value": 1})
    first = {name: buffer.data_ptr() for name, buffer in store._buffers.items()}
    store.save(2, state(2), {"value": 2})
    assert {name: buffer.data_ptr() for name, buffer in store._buffers.items()} == first
    store.save(3, state(3, size=65) | {"new": torch.ones(1)}, {"value": 3})
    store.save(4, state(4, size=65), {"value": 4}, wait=True)
    assert store._buffers.keys() == state(0).keys()
    assert value_of(store.load()) == 4
    store.close()
    assert not store._buffers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_of_a_gpu_are_copied_to_pinned_memory(tmp_path):
    store = StateStore(tmp_path)
    tensors = {name: tensor.cuda() for name, tensor in state(1).items()}
    store.save(1, tensors, {"value": 1})
    for tensor in tensors.values():
        tensor.fill_(2)
    assert all(buffer.is_pinned() for buffer in store._buffers.values())
    assert value_of(store.load()) == 1


def test_an_info_that_is_no_json_is_an_error_of_the_caller_not_of_the_writer(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        StateStore(tmp_path).save(1, state(1), {"value": {1, 2}})


# --- when ------------------------------------------------------------------------------------------------------------


def test_the_interval_is_young_dalys_of_the_measured_cost(tmp_path, monkeypatch):
    """Two seconds of preparation and writing per save, a failure per day: every sqrt(2 * 2 * 86,400) seconds."""
    clock = [1000.0]
    monkeypatch.setattr(state_store.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(state_store.time, "thread_time", lambda: 0.0)
    store = StateStore(tmp_path, minimum_seconds=30)
    assert 30 < store.interval_seconds < 120  # the first comes soon: nothing is known, and nothing is safe yet
    for _ in range(2):
        started = clock[0]
        clock[0] += 2.0
        store.save(1, state(1), {"value": 1}, since=started, wait=True)
    assert store.cost_seconds == pytest.approx(2.0)
    assert store.interval_seconds == pytest.approx(587.9, abs=0.1)
    clock[0] += 587
    assert not store.due()
    clock[0] += 2
    assert store.due()


def test_cheap_saves_are_not_made_more_often_than_allowed(tmp_path):
    store = StateStore(tmp_path, mean_seconds_between_failures=1e-9, minimum_seconds=30)
    store.save(1, state(1), {"value": 1}, wait=True)
    assert store.interval_seconds == 30


def test_time_the_writer_takes_from_a_computing_cpu_is_cost(tmp_path, monkeypatch):
    write = state_store.write_state

    def hard_work(*args):
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
        return write(*args)

    monkeypatch.setattr(state_store, "write_state", hard_work)
    store = saved(tmp_path, 1)
    assert 0.1 <= store.cost_seconds < 1


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_failed_write_stops_nothing_is_told_once_and_raises_only_when_asked(tmp_path, monkeypatch):
    store = saved(tmp_path, 1)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(state_files, "save_file", full)
        for step in (2, 3):
            store.save(step, state(step), {"value": step})
            store._join()
            store.due()
            assert store.failed and not store.pending
        assert names(tmp_path) == ["step_000000001_0"]
        assert len(store.told) == 1
        assert "No space left on device" in store.told[0]
        assert "newest whole state is of step 1" in store.told[0]
        with pytest.raises(ValueError, match=rf"{tmp_path}.*No space left.*of step 1; next: free space") as error:
            store.wait()
        assert isinstance(error.value.__cause__, OSError)
        assert value_of(store.load()) == 1
        store.close()
    store.save(4, state(4), {"value": 4}, wait=True)
    assert "states are written again" in store.told[1]
    assert not store.failed
    assert value_of(store.load()) == 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_keeps_the_older_state_and_no_remains(small_disk):
    """300 kB a state: the first fits, the second not beside what else is there; once there is room it does."""
    store, reserve = StateStore(small_disk / "states", keep=1), small_disk / "reserve"
    reserve.write_bytes(bytes(500_000))
    store.save(1, state(1, size=25_000 - 1000), {"value": 1}, wait=True)
    store.save(2, state(2, size=25_000 - 1000), {"value": 2})
    with pytest.raises(ValueError, match="No space left on device"):
        store.wait()
    assert names(small_disk / "states") == ["step_000000001_0"]
    assert value_of(store.load()) == 1
    reserve.unlink()
    store.save(3, state(3, size=25_000 - 1000), {"value": 3}, wait=True)
    assert names(small_disk / "states") == ["step_000000003_0"]


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        StateStore(tmp_path, keep=0)
    with pytest.raises(ValueError, match="must not have the key 'checksums'"):
        save_state(tmp_path, 1, state(1), {"checksums": 1})
