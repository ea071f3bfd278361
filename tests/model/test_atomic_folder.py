"""Folders that are whole or not there: writers killed at every act, two writers at once, what they leave behind."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from model import atomic_folder, state_files
from model.state_files import state_folders
from model.state_store import StateStore
from tests.model.test_state_store import names, saved, state, value_of

ACTS = [
    (state_files, "save_file"),
    (state_files, "write_json"),
    (state_files, "replace_json"),
    (atomic_folder, "_flush_to_disk"),
    (atomic_folder.os, "rename"),
    (atomic_folder.os, "replace"),
    (atomic_folder.shutil, "rmtree"),
    (atomic_folder.os, "unlink"),
    (atomic_folder.os, "rmdir"),
]


def kill_before_act(number):
    """Have this process die by SIGKILL just before the `number`-th act on the disk from now on."""
    done = [0]

    def counted(act):
        def run(*args, **options):
            done[0] += 1
            if done[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*args, **options)

        return run

    for module, name in ACTS:
        setattr(module, name, counted(getattr(module, name)))


def killed_in_turn(folder):
    """Children that save state after state and are killed at every act of a save in turn, then at random moments."""
    torch.set_num_threads(1)
    store, number, finished = StateStore(folder), 0, False
    store.save(1, state(1), {"value": 1}, wait=True)
    while not finished:  # until a save has fewer acts than `number`
        number += 1
        child = os.fork()
        if child == 0:
            kill_before_act(number)
            before = value_of(store.load())
            store.save(2, state(int(before) + 1), {"value": int(before) + 1}, best=True, wait=True)
            os._exit(0)
        finished = os.waitpid(child, 0)[1] == 0
        assert min(value_of(state_files.read_state(path)) for path in state_folders(folder)) >= 1
    print("acts", number - 1)
    chance = random.Random(0)
    for _ in range(8):
        saving, child_saves = os.pipe()
        child = os.fork()
        if child == 0:
            value = int(value_of(store.load()))
            while True:
                value = value % 200 + 1
                store.save(3, state(value, size=300_000), {"value": value})
                os.write(child_saves, b"x")
        os.read(saving, 1)
        time.sleep(0.1 * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert min(value_of(state_files.read_state(path)) for path in state_folders(folder)) >= 1
    store.save(4, state(9), {"value": 9}, wait=True)
    assert not [path for path in folder.iterdir() if "unfinished" in path.name or "damaged" in path.name]
    assert len(state_folders(folder)) in (2, 3)  # the best one may be among the newest two


def test_a_kill_at_any_act_of_a_save_and_at_random_moments_leaves_a_whole_state(tmp_path):
    """One process imports torch and forks the ones that are killed; its own checks fail it."""
    code = "import sys, pathlib, tests.model.test_atomic_folder as t; t.killed_in_turn(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(ended.stdout.split()[1]) >= 10


def test_two_writers_in_one_folder_never_mix(tmp_path):
    """An orphan of an earlier attempt may still be saving; every state must come from one of them alone."""

    def write(first):
        store = StateStore(tmp_path, keep=50)
        for value in range(first, first + 20):
            store.save(5, state(value), {"value": value}, wait=True)

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [value_of(state_files.read_state(folder)) for folder in state_folders(tmp_path)]
    assert sorted(found) == [*range(20), *range(100, 120)]
    assert not [name for name in names(tmp_path) if "unfinished" in name]


def test_what_a_living_writer_has_not_finished_is_left_alone(tmp_path, monkeypatch):
    go, save = threading.Event(), state_files.save_file
    monkeypatch.setattr(state_files, "save_file", lambda *args: (save(*args), go.wait(10)))
    slow = StateStore(tmp_path)
    slow.save(1, state(1), {"value": 1})
    deadline = time.monotonic() + 10
    while not list(tmp_path.glob("*.unfinished/state.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.001)
    monkeypatch.undo()
    (tmp_path / "step_000000000_0.unfinished").mkdir()  # of a writer that was killed
    saved(tmp_path, 2)
    assert len(list(tmp_path.glob("*.unfinished"))) == 1
    go.set()
    slow.wait()
    assert [value_of(state_files.read_state(folder)) for folder in state_folders(tmp_path)] == [1, 2]
