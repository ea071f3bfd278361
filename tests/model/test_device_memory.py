"""Free and taken memory as Linux tells them, within a container's limit."""

import pytest
import torch

from model import device_memory
from model.device_memory import allocated_bytes, free_bytes, free_unused_memory, peak_bytes, reset_peak

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 1,000 kB available and no container."""
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:   1000 kB\n", encoding="utf-8")
    (tmp_path / "self" / "status").write_text("Name:\tpython\nVmHWM:\t  500 kB\nVmRSS:\t  300 kB\n", encoding="utf-8")
    monkeypatch.setattr(device_memory, "PROC", tmp_path)
    monkeypatch.setattr(device_memory, "CONTROL_GROUP", tmp_path / "group")
    return tmp_path


def test_free_memory_is_shared_by_the_ranks_of_a_device(system):
    assert free_bytes(CPU) == 1000 * 1024
    assert free_bytes(CPU, ranks=4) == 250 * 1024


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("600000", "100000", 500000), ("100", "400", 0), ("max", "5", 1024000), ("9" * 15, "0", 1024000)],
)
def test_the_limit_of_a_container_counts_where_it_is_smaller(system, limit, used, free):
    (system / "group").mkdir()
    (system / "group" / "memory.max").write_text(limit + "\n", encoding="utf-8")
    (system / "group" / "memory.current").write_text(used + "\n", encoding="utf-8")
    assert free_bytes(CPU) == free


def test_resident_memory_and_its_high_water_mark(system):
    reset_peak(CPU)
    assert (allocated_bytes(CPU), peak_bytes(CPU)) == (300 * 1024, 500 * 1024)


def test_a_system_that_does_not_say_is_not_guessed_at(system):
    for file in (system / "meminfo", system / "self" / "status"):
        file.unlink()
    assert (free_bytes(CPU), allocated_bytes(CPU), peak_bytes(CPU)) == (None, 0, 0)
    assert free_bytes(torch.device("meta")) is None


def test_freeing_collects_cycles():
    import gc
    import weakref

    class Node:
        pass

    gc.disable()
    try:
        node = Node()
        node.itself, gone = node, weakref.ref(node)
        del node
        assert gone() is not None
        free_unused_memory()
        assert gone() is None
    finally:
        gc.enable()
