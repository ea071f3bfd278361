"""The probe of a machine: what it returns, that it leaves nothing behind, that a disturbed one says so."""

import json
import time
from pathlib import Path

import pytest
import torch

from model import machine_probe, timed_products
from model.machine_probe import ProbeResult, probe
from model.precision import cpu_multiplies_bf16
from model.timed_products import Rate, Trial
from pipeline_math.hardware import hardware_from_probe


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> ProbeResult:
    """One real probe of the CPU, shorter than in use."""
    return probe(tmp_path_factory.mktemp("disk"), seconds_limit=1.0, device="cpu")


def test_a_probe_measures_products_memory_and_disk(measured):
    expected = {"fp32_flops_per_second", "copy_bytes_per_second"}
    expected |= {"bf16_flops_per_second"} if cpu_multiplies_bf16() else set()
    assert {name for name in measured.rates if not name.startswith("disk")} == expected
    assert "disk_write_bytes_per_second" in measured.rates
    for rate in measured.rates.values():
        assert rate.per_second > 0 and rate.spread >= 1 and rate.samples >= 1
    assert (measured.kind, measured.device_name, measured.devices) == ("cpu", "", 1)
    assert measured.threads >= 1
    assert not any("fp16" in name for name in measured.rates), "hundreds of times slower than fp32 on a CPU"


def test_bf16_is_worth_using_where_the_cpu_reports_it(measured):
    if not cpu_multiplies_bf16():
        pytest.skip("this CPU has no bf16 products")
    # Between 2x and 4x faster on quiet cores; other work may fall on the samples of one of them.
    assert measured.rates["bf16_flops_per_second"].per_second > measured.rates["fp32_flops_per_second"].per_second


def test_the_values_are_plain_and_make_a_device(measured):
    values = json.loads(json.dumps(measured.values()))
    assert values == measured.values()
    found = hardware_from_probe({**values, "memory_bytes": 8 * 1024**3})
    assert found.peak_flops("fp32") == values["fp32_flops_per_second"]


def test_a_probe_ends_in_time(tmp_path):
    """Ten times the limit, since the test machine may be busy; a loop without a clock would run on."""
    started = time.perf_counter()
    found = probe(tmp_path, seconds_limit=0.3, device="cpu")
    assert found.seconds <= time.perf_counter() - started < 3.0


def test_a_probe_puts_everything_back(tmp_path):
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    state = torch.random.get_rng_state()
    found = probe(tmp_path, seconds_limit=0.2, device="cpu", threads=threads + 1)
    assert found.threads == threads + 1
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (threads, precision)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


def test_settings_come_back_after_a_failure(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    threads = torch.get_num_threads()
    monkeypatch.setattr(machine_probe, "make_trials", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        probe(tmp_path, device="cpu", threads=threads + 1)
    assert torch.get_num_threads() == threads


def test_a_full_disk_costs_only_the_disk_rates(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine_probe.os, "write", full)
    found = probe(tmp_path, seconds_limit=0.2, device="cpu")
    assert "No space left" in found.left_out["disk"]
    assert not any(name.startswith("disk") for name in found.rates)
    assert found.values()["left_out"] == "disk: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("rates", "waited_share", "noisy"),
    [
        ({"fp32_flops_per_second": Rate(1.0, 1.4, 9)}, 0.0, False),
        ({"fp32_flops_per_second": Rate(1.0, 1.6, 9)}, 0.0, True),
        ({"fp32_flops_per_second": Rate(1.0, 1.0, 9)}, 0.2, True),  # steady other work: every sample equally slow
        ({"fp32_flops_per_second": Rate(1.0, 1.0, 9)}, None, False),
        ({"fp32_flops_per_second": Rate(1.0, 1.0, 9), "disk_read_bytes_per_second": Rate(1.0, 9.0, 9)}, 0.0, False),
    ],
)
def test_other_work_is_noticed(rates, waited_share, noisy):
    found = ProbeResult("cpu", "", 1, 2, None, rates, waited_share, 1.0)
    assert found.noisy is noisy and found.values()["noisy"] is noisy


def test_the_best_sample_counts():
    trial = Trial("x", 10.0, lambda: None, seconds=[2.0, 1.0, 4.0])
    assert trial.rate() == Rate(per_second=10.0, spread=2.0, samples=3)


def test_products_grow_until_they_can_be_timed(monkeypatch):
    """A fast device would otherwise be timed by what it costs to start a product."""
    monkeypatch.setattr(timed_products, "timed", lambda run, device: run())
    trial = timed_products._large_enough("x", lambda device, size: lambda: (size / 4096) ** 3 * 1e-3, "cpu")
    assert trial.work == 2.0 * 4096**3


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seconds_limit=0: allowed are seconds above 0"):
        probe(tmp_path, seconds_limit=0)
    with pytest.raises(ValueError, match="allowed is an existing folder; next: create it"):
        probe(Path(tmp_path / "missing"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_is_measured_in_every_precision(tmp_path):
    found = probe(tmp_path, device="cuda")
    rates = {name: rate.per_second for name, rate in found.rates.items()}
    assert found.kind == "gpu" and found.device_name and found.device_memory_bytes
    assert rates["fp16_flops_per_second"] > rates["fp32_flops_per_second"]
    if torch.cuda.get_device_capability(0) >= (8, 0):
        assert rates["bf16_flops_per_second"] > rates["fp32_flops_per_second"]
