"""Inference floors of published models and devices, and the shape of the curve of throughput against batch."""

from itertools import pairwise

import pytest

from pipeline_math.inference_prefill_decode import (
    Decoder,
    Machine,
    decode_flops_per_token,
    decode_point,
    decode_seconds,
    decode_seconds_per_token_floor,
    kv_bytes_per_token,
    kv_cache_bytes,
    matmul_intensity,
    max_concurrent_sequences,
    model_bandwidth_utilisation,
    prefill_flops,
    prefill_seconds_floor,
    ridge_batch,
    throughput_curve,
)
from pipeline_math.model_flops_vram import scaling_parameters, shape_of_depth

N = scaling_parameters(shape_of_depth(20, 32768, 2048))
KV_BYTES = kv_bytes_per_token(20, 10, 128, 2)
D20 = Decoder(N, 20, 1280, 2 * N, KV_BYTES)
H200, H100 = Machine(989e12, 4.8e12), Machine(989e12, 3.35e12)


def test_cache_of_a_d20():
    assert KV_BYTES == 102_400
    assert kv_cache_bytes(KV_BYTES, 2048, 64) / 1e9 == pytest.approx(13.4, abs=0.05)
    assert kv_cache_bytes(kv_bytes_per_token(20, 2, 128, 2), 2048, 64) / 1e9 == pytest.approx(2.7, abs=0.05)


def test_prefill_of_a_d20():
    """2,048 tokens take 2.00 TFLOP, 4.0 ms at half of the peak."""
    flops = prefill_flops(N, 20, 1280, 2048)
    assert flops / 1e12 == pytest.approx(2.00, abs=0.005)
    assert prefill_seconds_floor(flops, 989e12, 0.5) * 1e3 == pytest.approx(4.0, abs=0.05)


def test_prefill_is_the_sum_of_its_tokens():
    """Reading a prompt computes what decoding it token by token would."""
    one_by_one = sum(decode_flops_per_token(N, 20, 1280, context) for context in range(1, 101))
    assert prefill_flops(N, 20, 1280, 100) == pytest.approx(one_by_one)


@pytest.mark.parametrize(("machine", "microseconds", "rate"), [(H200, 225, 4440), (H100, 322, 3100)])
def test_decode_floor_of_a_d20(machine, microseconds, rate):
    assert D20.weight_bytes / 1e6 == pytest.approx(870, abs=0.5)
    assert kv_cache_bytes(KV_BYTES, 2048, 1) / 1e6 == pytest.approx(210, abs=0.5)
    floor = decode_seconds_per_token_floor(D20.weight_bytes, KV_BYTES * 2048, machine.bandwidth_bytes_per_second)
    assert floor * 1e6 == pytest.approx(microseconds, abs=0.5)
    point = decode_point(D20, machine, 1, 2048)
    assert point.seconds_per_step == floor
    assert point.tokens_per_second == pytest.approx(rate, abs=5)
    assert point.bound == "bandwidth"


@pytest.mark.parametrize(
    ("weight_bytes", "bandwidths", "rates", "tolerance"),
    [
        (0.25e9, (18e9, 33e9), (70, 130), 3),  # 124M parameters in bf16, from DRAM with one and two threads
        (60e6, (18e9, 33e9), (300, 550), 1),  # 30M
        (30e6, (60e9, 80e9), (2000, 2667), 1),  # 15M, inside the last-level cache
    ],
)
def test_decode_bound_of_small_models_on_two_cores(weight_bytes, bandwidths, rates, tolerance):
    for bandwidth, rate in zip(bandwidths, rates, strict=True):
        assert 1 / decode_seconds_per_token_floor(weight_bytes, 0, bandwidth) == pytest.approx(rate, abs=tolerance)


def test_one_sequence_is_launch_bound_without_graphs():
    """200 kernels of 3 to 5 us are 0.6 to 1 ms, above the 225 us floor."""
    for kernel_seconds, step_seconds in ((3e-6, 0.6e-3), (5e-6, 1e-3)):
        point = decode_point(D20, Machine(989e12, 4.8e12, 200 * kernel_seconds), 1, 2048)
        assert point.bound == "latency"
        assert point.seconds_per_step == pytest.approx(step_seconds)


def test_throughput_grows_with_the_batch_and_less_and_less():
    curve = throughput_curve(D20, H200, (1, 4, 16, 64, 256), 2048)
    rates = [point.tokens_per_second for point in curve]
    assert rates == sorted(rates)
    gains = [later / earlier for earlier, later in pairwise(rates)]
    assert gains == sorted(gains, reverse=True)
    assert all(1 <= gain <= 4 for gain in gains)


def test_compute_takes_over_at_the_ridge_batch():
    """Without a context the step is bound by compute from B* on: 206 sequences on an H200, 295 on an H100."""
    for machine, batch in ((H200, 206), (H100, 295)):
        ridge = ridge_batch(machine.flops_per_second, machine.bandwidth_bytes_per_second, 2)
        assert ridge == pytest.approx(batch, abs=0.5)
        below, above = (decode_point(D20, machine, rows, 0).bound for rows in (int(ridge), int(ridge) + 1))
        assert (below, above) == ("bandwidth", "compute")


def test_sequences_that_fit_fill_the_memory_and_not_more():
    fit = max_concurrent_sequences(141e9, 1e9, KV_BYTES, 2048, usable_share=0.92)
    used = 1e9 + kv_cache_bytes(KV_BYTES, 2048, fit)
    assert used <= 0.92 * 141e9 < used + kv_cache_bytes(KV_BYTES, 2048, 1)
    assert max_concurrent_sequences(1e9, 2e9, KV_BYTES, 2048) == 0


def test_utilisation_and_intensity():
    assert model_bandwidth_utilisation(1e9, 0.5, 4e9) == 0.5
    assert matmul_intensity(1, 1000, 1000, 2) == pytest.approx(1.0, abs=0.01)  # a vector reads the matrix for 2 FLOPs
    assert matmul_intensity(300, 300, 300, 2) == pytest.approx(100)
    assert decode_seconds(10, 0.01, 33, 16) == pytest.approx(0.3)
