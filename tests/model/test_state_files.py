"""Which states stay, in which order, and what is done about damaged ones."""

import errno
import json
import os
import re
import threading

import pytest
from safetensors.torch import save_file

from model import state_files
from model.checkpoint import load_state_info, save_state
from model.state_files import best_name, state_folders
from model.state_store import StateStore
from tests.model.test_state_store import names, saved, state, value_of

# --- which stay ------------------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_stay(tmp_path):
    store = saved(tmp_path, 1, keep=2)
    store.save(2, state(2), {"value": 2}, best=True)
    for step in (3, 4, 5):
        store.save(step, state(step), {"value": step}, wait=True)
    assert names(tmp_path) == ["best.json", "step_000000002_0", "step_000000004_0", "step_000000005_0"]
    assert value_of(store.load()) == 5
    assert value_of(store.load(best=True)) == 2
    store.save(6, state(6), {"value": 6}, best=True, wait=True)
    assert names(tmp_path) == ["best.json", "step_000000005_0", "step_000000006_0"]
    assert json.loads((tmp_path / "best.json").read_text()) == {"state": "step_000000006_0", "step": 6}


def test_without_a_best_state_that_is_whole_it_is_the_newest(tmp_path):
    store = saved(tmp_path, 1, 2)
    assert value_of(store.load(best=True)) == 2
    (tmp_path / "best.json").write_text('{"state": "step_000000001_0"')
    assert best_name(tmp_path) is None
    (tmp_path / "best.json").write_text('{"state": "step_000000001_0", "step": 1}')
    assert value_of(store.load(best=True)) == 1
    (tmp_path / "step_000000001_0" / "state.safetensors").write_bytes(b"short")
    assert value_of(store.load(best=True)) == 2
    assert "damaged_step_000000001_0" in names(tmp_path)


def test_states_of_one_step_are_ordered_as_they_were_written(tmp_path):
    """Bug it catches: the eleventh state of a step sorted before the second, as text does."""
    for value in range(12):
        save_state(tmp_path, 7, state(value), {"value": value}, keep=3)
    assert [path.name for path in state_folders(tmp_path)] == [f"step_000000007_{n}" for n in (9, 10, 11)]
    assert load_state_info(tmp_path) == {"value": 11}


def test_a_rollback_goes_to_before_the_step_and_later_states_are_not_resumed_from(tmp_path):
    store = saved(tmp_path, 10, 20, 30)
    assert value_of(store.load(before=30)) == 20
    assert value_of(store.load()) == 20
    store.save(21, state(21), {"value": 21}, wait=True)
    assert value_of(store.load()) == 21
    assert "abandoned_step_000000030_0" in names(tmp_path)
    assert value_of(store.load(before=5)) == 10  # there is none of before: the oldest
    assert [name for name in names(tmp_path) if "abandoned" in name] == [
        "abandoned_step_000000020_0",
        "abandoned_step_000000021_0",
    ]


# --- damage ----------------------------------------------------------------------------------------------------------


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit of a tensor": (lambda s: flip_a_byte(s / "state.safetensors"), "sha256 is .*, written was"),
    "tensors cut short": (lambda s: os.truncate(s / "state.safetensors", 300), "has 300 bytes, written were"),
    "no tensors": (lambda s: (s / "state.safetensors").unlink(), "No such file"),
    "no info": (lambda s: (s / "state.json").unlink(), "No such file"),
    "info cut short": (lambda s: os.truncate(s / "state.json", 20), "not a readable JSON file"),
    "info emptied": (lambda s: (s / "state.json").write_text(""), "not a readable JSON file"),
    "another value": (
        lambda s: (s / "state.json").write_text((s / "state.json").read_text().replace('"value": 2', '"value": 3')),
        "its content is not what was written",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_state_is_set_aside_and_the_previous_one_used(tmp_path, kind):
    damage, reason = DAMAGES[kind]
    store = saved(tmp_path, 1, 2)
    damage(tmp_path / "step_000000002_0")
    if kind != "a bit of a tensor":  # that alone takes reading the tensors to see
        assert load_state_info(tmp_path) == {"value": 1}
    assert value_of(store.load()) == 1
    assert names(tmp_path) == ["damaged_step_000000002_0", "step_000000001_0"]
    assert len(store.told) == 1
    assert re.search(reason, store.told[0])
    assert "going on from step_000000001_0" in store.told[0]
    store.save(2, state(2), {"value": 2}, wait=True)
    assert value_of(store.load()) == 2


def test_if_no_state_is_whole_nothing_is_moved_and_nothing_starts_anew(tmp_path):
    """Bug it catches: taking "all damaged" for "none there" would train from the start without a word."""
    store = saved(tmp_path, 1, 2)
    for folder in state_folders(tmp_path):
        flip_a_byte(folder / "state.safetensors")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of 2 saved states can be used: .*next: put a whole one back"):
            store.load()
    assert names(tmp_path) == ["step_000000001_0", "step_000000002_0"]


def test_ranks_that_load_at_once_find_the_same_state(tmp_path):
    """All of them meet the damaged one, and only the fastest can move it."""
    for turn in range(10):
        folder, found = tmp_path / str(turn), []
        saved(folder, 1, 2)
        flip_a_byte(folder / "step_000000002_0" / "state.safetensors")
        ranks = [
            threading.Thread(target=lambda folder=folder, found=found: found.append(StateStore(folder).load()))
            for _ in range(4)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        assert [value_of(loaded) for loaded in found] == [1] * 4
        assert names(folder) == ["damaged_step_000000002_0", "step_000000001_0"]


def test_states_from_before_there_were_checksums_are_read(tmp_path):
    old = tmp_path / "step_000000003_0"
    old.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in state(3).items()}, old / "state.safetensors")
    (old / "state.json").write_text('{"value": 3}')
    store = StateStore(tmp_path)
    assert value_of(store.load()) == 3
    assert load_state_info(tmp_path) == {"value": 3}
    os.truncate(old / "state.safetensors", 100)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        store.load()


def test_an_unreadable_state_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    """Permissions and lost network drives come back; the run must not go on from an older state meanwhile."""
    store = saved(tmp_path, 1, 2)

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(state_files, "_sha256", denied)
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\); next: make it readable"):
        store.load()
    assert names(tmp_path) == ["step_000000001_0", "step_000000002_0"]
