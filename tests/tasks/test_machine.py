"""The machine in words, and its stored probe: the same machine gives the same plan, another one is measured."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from tasks import _devices, _machine
from tests.contracts.import_closure import ROOT

PROBE: dict[str, Any] = {
    "kind": "cpu",
    "device_name": "",
    "threads": 2,
    "noisy": False,
    "fp32_flops_per_second": 4.0e11,
    "fp32_flops_per_second_spread": 1.02,
    "bf16_flops_per_second": 1.4e12,
    "copy_bytes_per_second": 2.7e10,
    "disk_write_bytes_per_second": 7.0e8,
    "memory_bytes": 2**34,
    "probe_seconds": 0.9,
    "import_seconds": 0.8,
}
XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU E5 @ 2.60GHz\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1\n"


@pytest.fixture
def probes(monkeypatch):
    """Probes made so far; each takes no time and differs from the one before."""
    made = []

    def fake(folder):
        made.append(folder)
        return {**PROBE, "copy_bytes_per_second": 2.7e10 + len(made)}

    monkeypatch.setattr(_machine, "_probe", fake)
    return made


def made_machine(monkeypatch, folder, cpuinfo="", cores=2, gpus=(), limits=None):
    """Point the readers at files of a made-up Linux machine."""
    (folder / "cgroup").mkdir(parents=True)
    (folder / "cpuinfo").write_text(cpuinfo)
    for number, name in enumerate(gpus):
        gpu = folder / "driver/nvidia/gpus" / f"0000:0{number}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 88\n")
    for name, text in (limits or {}).items():
        (folder / "cgroup" / name).write_text(text)
    monkeypatch.setattr(_devices, "PROC", folder)
    monkeypatch.setattr(_devices, "CONTROL_GROUP", folder / "cgroup")
    monkeypatch.setattr(_devices.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(_devices, "_names_from_driver", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_this_machine_has_a_stable_name():
    name = _machine.fingerprint()
    assert name == _machine.fingerprint()
    assert name.split(" x ")[0].isdigit() and len(name) > 5


def test_the_name_costs_milliseconds_and_no_torch():
    """Every stage writes it into the ledger."""
    started = time.perf_counter()
    for _ in range(3):
        _machine.fingerprint()
    assert (time.perf_counter() - started) / 3 < 0.25, "50 ms on a quiet machine; five times that on a busy one"
    code = "import sys; from tasks._machine import fingerprint; fingerprint(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx512f avx512_bf16 amx_bf16 amx_tile", "2 x Intel Xeon E5 (avx512_bf16, amx)"),
        ("avx512f", "2 x Intel Xeon E5 (avx512f)"),
        ("", "2 x Intel Xeon E5 (avx2)"),
    ],
)
def test_a_cpu_is_named_with_what_makes_it_fast(monkeypatch, tmp_path, flags, expected):
    made_machine(monkeypatch, tmp_path, XEON.format(flags))
    assert _machine.fingerprint() == expected


def test_gpus_come_first_and_are_counted(monkeypatch, tmp_path):
    made_machine(monkeypatch, tmp_path, XEON.format("amx_bf16"), 16, ["NVIDIA H100 80GB HBM3"] * 2)
    assert _machine.fingerprint() == "2 x NVIDIA H100 80GB HBM3 + 16 x Intel Xeon E5 (amx)"
    for visible, expected in [("1", "1 x NVIDIA H100"), ("", "16 x Intel"), ("-1", "16 x Intel"), ("GPU-ab", "1 x NV")]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert _machine.fingerprint().startswith(expected), visible


def test_a_machine_without_proc_has_a_name_too(monkeypatch, tmp_path):
    made_machine(monkeypatch, tmp_path / "nothing")
    (tmp_path / "nothing" / "cpuinfo").unlink()
    monkeypatch.setattr(_devices.platform, "processor", lambda: "")
    monkeypatch.setattr(_devices.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(_devices.platform, "system", lambda: "Linux")
    assert _machine.fingerprint() == "2 x riscv64"


def test_macos_is_asked_for_its_chip(monkeypatch, tmp_path):
    made_machine(monkeypatch, tmp_path)
    answer = subprocess.CompletedProcess([], 0, stdout="Apple M3 Max\n")
    monkeypatch.setattr(_devices.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(_devices.subprocess, "run", lambda *_, **__: answer)
    assert _machine.fingerprint() == "2 x Apple M3 Max"


def test_a_container_counts_only_what_it_may_use(monkeypatch, tmp_path):
    made_machine(monkeypatch, tmp_path, cores=64, limits={"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"})
    assert _devices.usable_cores() == 2
    assert _devices.memory_bytes() == 2**30


def test_a_container_without_limits_has_the_machine(monkeypatch, tmp_path):
    made_machine(monkeypatch, tmp_path, cores=64, limits={"cpu.max": "max 100000\n", "memory.max": "max\n"})
    assert _devices.usable_cores() == 64
    assert (_devices.memory_bytes() or 0) > 2**30


def test_a_second_plan_does_not_measure_again(tmp_path, probes):
    store = tmp_path / "ledger" / "hardware.json"
    first = _machine.probed(store)
    content = store.read_bytes()
    assert _machine.probed(store) == first == json.loads(content)
    assert store.read_bytes() == content and len(probes) == 1
    assert first["machine"] == _machine.fingerprint()


def test_another_machine_or_torch_is_measured(tmp_path, probes, monkeypatch):
    store = tmp_path / "hardware.json"
    notes: list[str] = []
    _machine.probed(store, notes.append)
    monkeypatch.setattr(_machine, "fingerprint", lambda: "96 x Other")
    assert _machine.probed(store, notes.append)["machine"] == "96 x Other"
    monkeypatch.setattr(_machine, "_torch_version", lambda: "99.0")
    assert _machine.probed(store, notes.append)["torch"] == "99.0"
    assert len(probes) == 3
    assert len(notes) == 2 and "this machine is probed anew" in notes[0] and "96 x Other" in notes[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ('{"kind": "cpu"', "Expecting"),
        ("[1, 2]", "a list instead of an object"),
        ("{}", "kind=None"),
        (json.dumps({**PROBE, "copy_bytes_per_second": -1}), "copy_bytes_per_second=-1"),
    ],
)
def test_a_damaged_store_is_replaced_and_named(tmp_path, probes, text, reason):
    store = tmp_path / "hardware.json"
    notes: list[str] = []
    store.write_text(text)
    values = _machine.probed(store, notes.append)
    assert len(probes) == 1 and json.loads(store.read_text()) == values
    assert len(notes) == 1 and "is damaged" in notes[0] and reason in notes[0] and str(store) in notes[0]


def test_a_disturbed_probe_is_kept_but_mentioned(tmp_path, probes, monkeypatch):
    """Measuring anew by itself would change the plan of a machine that did not change."""
    monkeypatch.setitem(PROBE, "noisy", True)
    store = tmp_path / "hardware.json"
    notes: list[str] = []
    _machine.probed(store, notes.append)
    _machine.probed(store, notes.append)
    assert len(probes) == 1 and "next, on a quiet machine: " in notes[-1]
    _machine.probed(store, notes.append, again=True)
    assert len(probes) == 2


def test_nonsense_is_not_stored(tmp_path, probes, monkeypatch):
    monkeypatch.setitem(PROBE, "fp32_flops_per_second", 0.0)
    with pytest.raises(ValueError, match=r"fp32_flops_per_second=0\.0"):
        _machine.probed(tmp_path / "hardware.json")
    assert not (tmp_path / "hardware.json").exists()


def test_a_real_probe_is_stored_and_printed(tmp_path, capsys, monkeypatch):
    """The whole way, measured: `python -m tasks._machine`."""
    monkeypatch.setattr(_machine, "SECONDS_LIMIT", 0.8)
    store = tmp_path / "ledger" / "hardware.json"
    assert _machine.main(["--store", str(store)]) == 0
    printed = capsys.readouterr().out
    for words in ("fp32", "copy", "disk write", "nearest class", "seconds taken", _machine.fingerprint()):
        assert words in printed
    assert [file.name for file in store.parent.iterdir()] == ["hardware.json"]
    assert _machine.main(["--store", str(store)]) == 0
    assert capsys.readouterr().out == printed


def test_the_table_names_the_nearest_class():
    printed = _machine.describe({**PROBE, "machine": "m", "torch": "t"})
    assert "class cpu-2core" in printed and "1.40 TFLOP/s" in printed and "27.00 GB/s" in printed
    assert "1.70, 0.80 of them to import torch" in printed


def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_machine, "memory_bytes", lambda: None)
    monkeypatch.setattr(_machine, "SECONDS_LIMIT", 0.1)
    monkeypatch.setattr(_machine, "_LEAST_PROBE_SECONDS", 0.1)
    assert _machine.main(["--store", str(tmp_path / "hardware.json")]) == 2
    assert "next: name a class in budget.hardware" in capsys.readouterr().err
