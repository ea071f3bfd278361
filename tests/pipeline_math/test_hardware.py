"""The device table: priors against the published sample, sane numbers everywhere."""

import math
import statistics

import pytest

from pipeline_math.hardware import HARDWARE, MATMUL_CEILING_SHARE, find_hardware


def test_hopper_prior_is_that_of_the_published_runs():
    runs = [39.8, 41.9, 41.3, 46, 49.3, 50.0, 49.6, 51.9]
    logs = [math.log(run / 100) for run in runs]
    assert find_hardware("h100").mfu == pytest.approx(math.exp(statistics.mean(logs)), abs=0.001)
    assert find_hardware("h100").mfu_log_sd == pytest.approx(statistics.stdev(logs), abs=0.002)


def test_table_is_plausible():
    """Catches a slipped power of ten in a new row."""
    assert len(HARDWARE) >= 10
    for device in HARDWARE.values():
        assert 0 < device.mfu <= MATMUL_CEILING_SHARE
        assert 0 < device.mfu_log_sd < 0.5
        assert device.kind in ("cpu", "gpu")
        assert device.peak_flops("fp32") <= device.peak_flops()
        assert 10 < device.peak_flops() / device.bandwidth_bytes_per_second * 2 < 1000 or device.kind == "cpu"
        assert device.memory_bytes >= 8 * 1024**3


def test_a_precision_without_units_is_refused():
    assert find_hardware("cpu-2core-avx2").precision() == "fp32"
    with pytest.raises(ValueError, match="no bf16 units; allowed: fp32"):
        find_hardware("cpu-2core-avx2").peak_flops("bf16")
