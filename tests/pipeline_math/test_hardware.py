"""The device table: priors against the published sample, sane numbers everywhere; a probe becomes a device."""

import math
import statistics
from typing import Any

import pytest

from pipeline_math.hardware import (
    HARDWARE,
    MATMUL_CEILING_SHARE,
    USABLE_MAIN_MEMORY_SHARE,
    class_of_device,
    find_hardware,
    hardware_from_probe,
    nearest_class,
)
from pipeline_math.hardware_table import PUBLISHED_MFU
from pipeline_math.interval import Z_95

LAPTOP: dict[str, Any] = {
    "kind": "cpu",
    "device_name": "",
    "fp32_flops_per_second": 4.1e11,
    "bf16_flops_per_second": 1.5e12,
    "copy_bytes_per_second": 2.6e10,
    "disk_write_bytes_per_second": 7.0e8,
    "memory_bytes": 16 * 1024**3,
    "noisy": False,
}
H100: dict[str, Any] = {
    "kind": "gpu",
    "device_name": "NVIDIA H100 80GB HBM3",
    "fp32_flops_per_second": 5.0e13,
    "bf16_flops_per_second": 7.9e14,
    "copy_bytes_per_second": 2.9e12,
    "memory_bytes": 85_000_000_000,
}


def test_hopper_prior_is_that_of_the_published_runs():
    logs = [math.log(share) for share, _ in PUBLISHED_MFU["h100"]]
    assert len(logs) == 8
    assert find_hardware("h100").mfu == pytest.approx(math.exp(statistics.mean(logs)), abs=0.001)
    assert find_hardware("h100").mfu_log_sd == pytest.approx(statistics.stdev(logs), abs=0.002)


@pytest.mark.parametrize("name", sorted(PUBLISHED_MFU))
def test_published_runs_lie_within_their_prior(name):
    """Every run inside the 95 % interval of its class, and the sample's centre within one standard deviation."""
    device, shares = find_hardware(name), [share for share, _ in PUBLISHED_MFU[name]]
    assert len(shares) >= 4
    for share in shares:
        assert abs(math.log(share / device.mfu)) <= Z_95 * device.mfu_log_sd
    assert abs(math.log(statistics.geometric_mean(shares) / device.mfu)) <= device.mfu_log_sd


def test_table_is_plausible():
    """Catches a slipped power of ten in a new row."""
    assert len(HARDWARE) >= 14
    for device in HARDWARE.values():
        assert 0 < device.mfu <= MATMUL_CEILING_SHARE
        assert 0 < device.mfu_log_sd < 0.5
        assert device.kind in ("cpu", "gpu")
        assert device.source
        assert device.peak_flops("fp32") <= device.peak_flops()
        assert 10 < device.peak_flops() / device.bandwidth_bytes_per_second * 2 < 1000 or device.kind == "cpu"
        assert 5 * device.bandwidth_bytes_per_second < device.peak_flops() < 500 * device.bandwidth_bytes_per_second
        assert device.memory_bytes >= 8 * 1024**3
        assert device.usd_per_hour == 0 if device.kind == "cpu" else 0.1 < device.usd_per_hour < 20
        assert 1e8 < device.peak_flops() / device.watts < 1e13
        assert (device.interconnect_bytes_per_second or 0) < device.bandwidth_bytes_per_second


def test_halving_the_bits_at_least_keeps_the_peak():
    gpus = [device for device in HARDWARE.values() if device.kind == "gpu"]
    assert len(gpus) >= 9
    for device in gpus:
        peaks = device.peaks()
        assert peaks["fp32"] <= peaks["tf32"] <= peaks["bf16"] == peaks["fp16"]
        assert peaks.get("fp8", 2 * peaks["bf16"]) == pytest.approx(2 * peaks["bf16"], rel=0.01)


def test_a_precision_without_units_is_refused():
    assert find_hardware("cpu-2core-avx2").precision() == "fp32"
    with pytest.raises(ValueError, match="no bf16 units; allowed: fp32"):
        find_hardware("cpu-2core-avx2").peak_flops("bf16")
    with pytest.raises(ValueError, match="a100 has no fp8 units; allowed: fp32, tf32, bf16, fp16"):
        find_hardware("a100").peak_flops("fp8")


def test_unknown_names_say_what_to_do():
    with pytest.raises(ValueError, match=r"'rtx4091' is unknown; allowed: cpu-2core.*rtx4090"):
        find_hardware("rtx4091")
    with pytest.raises(ValueError, match="made from a probe; next: "):
        find_hardware("auto")


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_driver_names_map_to_classes(driver_name, name):
    found = class_of_device(driver_name)
    assert found is not None and found.name == name


@pytest.mark.parametrize(
    "driver_name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA H100 NVL",
        "NVIDIA GH200 480GB",
        "Tesla T4",
        "",
    ],
)
def test_variants_with_other_peaks_are_no_class(driver_name):
    assert class_of_device(driver_name) is None


def test_a_probed_cpu_has_its_own_peaks_and_the_prior_of_its_neighbour():
    found, neighbour = hardware_from_probe(LAPTOP), find_hardware("cpu-2core")
    assert (found.name, found.kind, found.precision()) == ("auto", "cpu", "bf16")
    assert found.peaks() == {"fp32": 4.1e11, "bf16": 1.5e12}
    assert found.bandwidth_bytes_per_second == 2.6e10
    assert found.memory_bytes == LAPTOP["memory_bytes"] * USABLE_MAIN_MEMORY_SHARE
    assert found.disk_write_bytes_per_second == 7.0e8 and found.disk_read_bytes_per_second is None
    assert (found.mfu, found.mfu_log_sd, found.watts) == (neighbour.mfu, neighbour.mfu_log_sd, neighbour.watts)
    assert "cpu-2core" in found.source


def test_bf16_slower_than_fp32_is_not_used():
    found = hardware_from_probe({**LAPTOP, "bf16_flops_per_second": 1.0e11})
    assert found.precision() == "fp32" and "bf16" not in found.peaks()
    assert nearest_class(found).precision() == "fp32"


def test_a_known_gpu_is_its_class_with_the_memory_found():
    """The MFU prior is a share of the vendor's peak, so that peak must stay."""
    found, known = hardware_from_probe(H100), find_hardware("h100")
    assert found.name == "auto"
    assert found.peaks() == known.peaks()
    assert found.memory_bytes == H100["memory_bytes"]
    assert (found.mfu, found.mfu_log_sd) == (known.mfu, known.mfu_log_sd)
    assert (found.usd_per_hour, found.watts) == (known.usd_per_hour, known.watts)
    assert "class h100; a plain product reached 80% of its peak" in found.source


def test_a_throttled_gpu_trains_no_faster_than_its_products():
    found = hardware_from_probe({**H100, "bf16_flops_per_second": 2.0e14})
    assert found.mfu == pytest.approx(2.0e14 / find_hardware("h100").peak_flops())


def test_an_unknown_gpu_has_measured_peaks_and_a_wide_prior():
    found = hardware_from_probe({**H100, "device_name": "NVIDIA Something New"})
    assert found.peak_flops() == 7.9e14
    assert found.mfu_log_sd > max(device.mfu_log_sd for device in HARDWARE.values() if device.kind == "gpu")
    assert found.usd_per_hour == find_hardware("h100-pcie").usd_per_hour  # 756 TF is nearest to 790 measured
    # the same speed as the class it is: MFU of the measured peak times that peak
    known = find_hardware("h100")
    assert found.mfu * found.peak_flops() == pytest.approx(known.mfu * known.peak_flops(), rel=0.02)


def test_other_work_widens_the_prior():
    quiet, noisy = hardware_from_probe(LAPTOP), hardware_from_probe({**LAPTOP, "noisy": True})
    assert noisy.mfu == quiet.mfu and noisy.mfu_log_sd > quiet.mfu_log_sd
    assert "while other work ran" in noisy.source


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "tpu"}, "kind='tpu': allowed are cpu and gpu"),
        ({"fp32_flops_per_second": None}, "fp32_flops_per_second=None: allowed are numbers from 1e"),
        ({"fp32_flops_per_second": "fast"}, "fp32_flops_per_second='fast'"),
        ({"bf16_flops_per_second": math.nan}, "bf16_flops_per_second=nan"),
        ({"copy_bytes_per_second": -1.0}, "copy_bytes_per_second=-1.0"),
        ({"copy_bytes_per_second": True}, "copy_bytes_per_second=True"),
        ({"memory_bytes": math.inf}, "memory_bytes=inf"),
        ({"disk_write_bytes_per_second": 0}, "disk_write_bytes_per_second=0"),
        ({"fp32_flops_per_second": 4.1e20}, "fp32_flops_per_second=4.1e"),
    ],
)
def test_a_damaged_probe_is_refused_by_name(change, words):
    with pytest.raises(ValueError, match=r"next: delete ledger/hardware\.json") as refused:
        hardware_from_probe({**LAPTOP, **change})
    assert words in str(refused.value)


@pytest.mark.parametrize("missing", ["kind", "memory_bytes", "fp32_flops_per_second", "copy_bytes_per_second"])
def test_what_a_probe_must_hold(missing):
    with pytest.raises(ValueError, match=f"{missing}=None"):
        hardware_from_probe({name: value for name, value in LAPTOP.items() if name != missing})
