import ctypes
import platform
import subprocess
import sys

import pytest

from model import allocator

FAULTS_OF_REPEATS = """
import resource, sys, threading
from model.allocator import keep_freed_memory

def work():
    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        b"x" * int(sys.argv[2])
    before = faults()
    for _ in range(4):
        b"x" * int(sys.argv[2])
    print((faults() - before) / 4)

if "keep" in sys.argv[1]:
    assert keep_freed_memory() and keep_freed_memory()
if "thread" in sys.argv[1]:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def faults_per_repeat(mode: str, megabytes: int) -> float:
    """Page faults of making and dropping one large string, in a process of its own."""
    command = [sys.executable, "-c", FAULTS_OF_REPEATS, mode, str(megabytes * 2**20)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch exists in glibc only")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_repeated_large_temporary_costs_no_page_faults_any_more(where):
    """80 MiB: above glibc's own moving threshold (32) and above what the arena of a thread can hold (64)."""
    megabytes = 80
    assert faults_per_repeat(where, megabytes) > megabytes * 20  # 256 per MiB, fewer where pages are larger
    assert faults_per_repeat(f"keep {where}", megabytes) < 5


def test_nothing_happens_where_the_library_is_not_glibc(monkeypatch):
    class OtherLibrary:
        def __init__(self, name):
            assert name is None

        @staticmethod
        def mallopt(option, value):
            raise AssertionError("a mallopt of another library must not be called")

    monkeypatch.setattr(ctypes, "CDLL", OtherLibrary)
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)  # not even opened
    assert not allocator.keep_freed_memory()
