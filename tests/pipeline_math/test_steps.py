"""Worked examples of the small step modules: published numbers where there are any, else the formula worked out."""

import math

import pytest

from pipeline_math import (
    chat_latency,
    data_filtering,
    evaluation_cost,
    export_cost,
    inference_prefill_decode,
    packing_io,
    plan,
    pretrain_step,
    sft_step,
    tokenizer_cost,
)
from pipeline_math.interval import Interval, add_independent, log_posterior, lognormal_interval
from pipeline_math.layouts import RESEARCH
from pipeline_math.model_flops_vram import block_parameters, scaling_parameters, shape_of_depth


def test_time_cost_and_energy():
    """A public nanochat d24 took 10,949 s; a d12 of 35.1 min costs 0.41 kWh and 1.75 USD at 3 USD/h."""
    assert pretrain_step.train_seconds(4.33e19, 8, 989e12, 0.50) == pytest.approx(10_945, abs=1)
    assert plan.energy_kwh(35.1 * 60, 1, 700, 1.0, 1.0) == pytest.approx(0.41, abs=0.005)
    assert plan.energy_kwh(35.1 * 60, 1, 700, 1.0, 1.2) == pytest.approx(0.49, abs=0.005)
    assert plan.cost_usd(35.1 * 60, 1, 3.0) == pytest.approx(1.755, abs=0.001)


@pytest.mark.parametrize(
    ("similarity", "chance"), [(0.5, 0.053), (0.7, 0.56), (0.75, 0.77), (0.8, 0.924), (0.85, 0.988)]
)
def test_minhash_candidates(similarity, chance):
    assert data_filtering.candidate_probability(similarity, 14, 8) == pytest.approx(chance, abs=0.006)


def test_minhash_threshold_error_and_memory():
    assert data_filtering.similarity_threshold(14, 8) == pytest.approx(0.72, abs=0.005)
    assert data_filtering.jaccard_standard_error(0.5, 112) <= 0.0473
    assert data_filtering.band_key_memory_bytes(10_000_000, 14) / 1e9 == pytest.approx(1.1, abs=0.03)
    assert data_filtering.expected_missed_share(0.8, 14, 8) < data_filtering.expected_missed_share(0.7, 14, 8)
    assert data_filtering.expected_false_share(0.8, 14, 8) > data_filtering.expected_false_share(0.7, 14, 8)


@pytest.mark.parametrize(("epochs", "worth"), [(0.5, 0.5), (1, 1.0), (4, 3.73), (16, 10.6), (40, 15.2)])
def test_repeated_text_is_worth_less(epochs, worth):
    assert data_filtering.effective_tokens(1.0, epochs) == pytest.approx(worth, abs=0.06)


def test_bits_per_byte_of_gpt2():
    assert tokenizer_cost.bits_per_byte_from_nats(3.28, 4.67) == pytest.approx(1.0133, abs=1e-4)
    assert evaluation_cost.bits_per_byte(3.28 * 100, 467) == pytest.approx(1.0133, abs=1e-4)


@pytest.mark.parametrize(("depth", "megaflops", "share"), [(12, 151.0, 0.170), (20, 251.7, 0.078), (4, 50.3, 0.53)])
def test_doubling_the_vocabulary(depth, megaflops, share):
    shape = shape_of_depth(depth, 32768, 2048)
    extra = tokenizer_cost.head_train_flops_per_token(65536 - 32768, shape.d_model)
    total = 6 * scaling_parameters(shape) + 12 * depth * shape.d_model * 2048
    assert extra / 1e6 == pytest.approx(megaflops, abs=0.05)
    assert extra / total == pytest.approx(share, abs=0.004)
    assert not tokenizer_cost.larger_vocabulary_pays(0.05, extra, total)


def test_shard_bytes_and_cut_documents():
    assert packing_io.shard_bytes(1.32e9, 32768) / 1e9 == pytest.approx(2.64)
    assert packing_io.shard_bytes(1.0e9, 65537) == 4.0e9
    assert packing_io.loader_bytes_per_second(546e3, 32768) / 1e6 == pytest.approx(1.1, abs=0.01)
    assert packing_io.cut_probability(625, 2048) == pytest.approx(0.305, abs=5e-4)
    assert packing_io.row_bytes(512, 4096) == 1026
    assert packing_io.rows_needed(514, 512) == 2
    assert packing_io.effective_unique_tokens(100, 0.35) == pytest.approx(65)


def test_mfu_of_palm_and_of_a_public_run():
    """PaLM 540B: 238.3k tok/s on 6,144 TPUs of 275 TF is 46.2 %; d12 SSSL at 0.96 s per 2^19 tokens is 41.9 %."""
    flops = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert pretrain_step.mfu(238.3e3, flops, 6144, 275e12) == pytest.approx(0.462, abs=5e-4)
    d12 = RESEARCH.train_flops_per_token(shape_of_depth(12, 32768, 2048))
    assert pretrain_step.mfu(2**19 / 0.96, d12, 1, 989e12) == pytest.approx(0.419, abs=1e-3)
    assert pretrain_step.tokens_per_second(0.419, d12, 1, 989e12) == pytest.approx(546e3, rel=2e-3)


def test_batch_rules():
    assert pretrain_step.power_lines_batch_tokens(11.0e9) == 2**20
    assert pretrain_step.power_lines_batch_tokens(1.32e9) == 2**19
    assert pretrain_step.learning_rate_factor(2**20) == pytest.approx(1.414, abs=1e-3)
    assert pretrain_step.width_learning_rate_factor(768) == 1.0
    assert pretrain_step.muon_weight_decay(2**19, 2.82e9) == pytest.approx(0.131, abs=1e-3)
    assert pretrain_step.muon_weight_decay(2**18, 0.14e9) == 0.28  # clamped; the rule says 1.89
    assert pretrain_step.critical_batch_tokens(3.28) / 1e6 == pytest.approx(0.70, abs=0.01)
    assert pretrain_step.critical_batch_tokens(2.8) / 1e6 == pytest.approx(1.48, abs=0.01)


def test_gradient_noise_estimator_recovers_its_own_model():
    """E|g_B|^2 = |G|^2 + tr Sigma / B: two batch sizes must give both unknowns back."""
    signal, noise = pretrain_step.gradient_noise(8, 2.0 + 40 / 8, 64, 2.0 + 40 / 64)
    assert (signal, noise) == (pytest.approx(2.0), pytest.approx(40.0))


def test_muon_cost():
    assert pretrain_step.muon_relative_cost(768, 768, 524288) == pytest.approx(5 * 768 / 524288)
    assert pretrain_step.muon_relative_cost(768, 3072, 524288) == pretrain_step.muon_relative_cost(3072, 768, 524288)
    assert 0.005 < pretrain_step.muon_relative_cost(768, 3072, 524288) < 0.008


def test_muon_flops_of_a_whole_model():
    """A d4 costs 20.1 GFLOP per step; fewer key/value heads cost less."""
    assert pretrain_step.muon_step_flops(4, 256, 2, 2, 1024) / 1e9 == pytest.approx(20.1, abs=0.05)
    assert pretrain_step.muon_step_flops(4, 256, 2, 1, 1024) < pretrain_step.muon_step_flops(4, 256, 2, 2, 1024)


def test_checkpoint_interval_and_accumulation():
    interval = pretrain_step.checkpoint_interval_seconds(2, 24 * 3600)
    assert interval == pytest.approx(588, abs=0.5)
    assert 2 / interval == pytest.approx(0.0034, abs=1e-4)
    assert pretrain_step.accumulation_steps(2**19, 32, 2048, 1) == 8
    with pytest.raises(ValueError, match="no multiple"):
        pretrain_step.accumulation_steps(2**19, 24, 2048, 1)


def test_chat_training_costs():
    assert sft_step.flops_per_supervised_token(0.8871e9, 0.3) / 1e9 == pytest.approx(2.957, abs=1e-3)
    assert sft_step.masked_head_flops_saved_per_token(32768, 768, 0.3) / 1e6 == pytest.approx(105.7, abs=0.05)
    assert sft_step.useful_group_probability(0.02, 16) == pytest.approx(0.28, abs=0.005)
    d20 = scaling_parameters(shape_of_depth(20, 32768, 2048))
    assert sft_step.rl_update_flops(d20, 256, 100, 256) == pytest.approx(2.4e14, rel=0.02)
    assert sft_step.rollout_seconds(256, (0.87e9 + 6.0e9) / 4.8e12, 256, 256) == pytest.approx(0.37, abs=0.005)


@pytest.mark.parametrize(
    ("rate", "n", "error_pp", "detectable_pp"),
    [
        (0.1, 164, 2.3, 9.3),
        (0.05, 1319, 0.60, 2.4),
        (0.3, 1172, 1.34, 5.3),
        (0.4, 2376, 1.01, 4.0),
        (0.3, 14042, 0.39, 1.5),
        (0.3, 500, 2.05, 8.1),
    ],
)
def test_error_bars_of_benchmarks(rate, n, error_pp, detectable_pp):
    assert 100 * evaluation_cost.standard_error(rate, n) == pytest.approx(error_pp, abs=0.06)
    assert 100 * evaluation_cost.minimum_detectable_difference(rate, n) == pytest.approx(detectable_pp, abs=0.06)
    paired = evaluation_cost.minimum_detectable_difference(rate, n, 0.7)
    assert paired / evaluation_cost.minimum_detectable_difference(rate, n) == pytest.approx(0.55, abs=0.005)


def test_core_noise_and_centring():
    runs = [0.25373, 0.2584, 0.25489, 0.2568, 0.25732, 0.26765, 0.25119]
    mean = sum(runs) / len(runs)
    sd = math.sqrt(sum((x - mean) ** 2 for x in runs) / (len(runs) - 1))
    assert sd == pytest.approx(evaluation_cost.CORE_RUN_SD, abs=1e-4)
    # 1.645 sd sqrt 2 with the rounded sd gives 0.0121, with the unrounded one 0.0122.
    assert evaluation_cost.core_noise_drop() == pytest.approx(0.0122, abs=2e-4)
    assert evaluation_cost.centred_accuracy(0.25, 0.25) == 0
    assert evaluation_cost.centred_accuracy(1.0, 0.25) == 1


def test_wilson_interval_reference_and_edges():
    """Reference: 10 of 20 gives 0.299 to 0.701; 0 of n has an upper bound near 3.84 / (n + 3.84)."""
    low, high = evaluation_cost.wilson_interval(10, 20)
    assert (low, high) == (pytest.approx(0.2993, abs=1e-4), pytest.approx(0.7007, abs=1e-4))
    assert evaluation_cost.wilson_interval(0, 100) == (0.0, pytest.approx(3.8415 / 103.8415, abs=1e-4))
    assert evaluation_cost.wilson_interval(100, 100)[1] == 1.0
    assert evaluation_cost.wilson_interval(0, 0) == (0.0, 1.0)
    for successes in range(21):
        low, high = evaluation_cost.wilson_interval(successes, 20)
        assert 0 <= low <= successes / 20 <= high <= 1
    with pytest.raises(ValueError, match="successes=3 of n=2"):
        evaluation_cost.wilson_interval(3, 2)


def test_paired_error_is_zero_for_equal_answers():
    assert evaluation_cost.paired_standard_error([1, 0, 1], [1, 0, 1]) == 0
    assert evaluation_cost.paired_standard_error([1, 0, 1, 0], [0, 0, 0, 0]) == pytest.approx(math.sqrt(1 / 3 / 4))
    assert evaluation_cost.benchmark_flops(1e6, 10, 100, 4) == 8e9


def test_file_sizes():
    d12 = shape_of_depth(12, 32768, 2048)
    assert export_cost.tensor_bytes(RESEARCH.total_parameters(d12), "bf16") / 1e6 == pytest.approx(573, abs=0.5)
    assert export_cost.safetensors_file_bytes(135_266_304, "bf16", 1000) == 8 + 1000 + 270_532_608
    assert export_cost.write_seconds(1e9, 5e8) == 2
    with pytest.raises(ValueError, match="int4"):
        export_cost.tensor_bytes(1, "int4")


def test_decode_floor_of_a_d20():
    """225 us on an H200 and 322 us on an H100 with 2,048 tokens of context, bf16."""
    weight_bytes = 2 * scaling_parameters(shape_of_depth(20, 32768, 2048))
    kv_bytes = inference_prefill_decode.kv_bytes_per_token(20, 10, 128, 2)
    assert kv_bytes == 102_400
    assert inference_prefill_decode.kv_cache_bytes(kv_bytes, 2048, 64) / 1e9 == pytest.approx(13.4, abs=0.03)
    assert inference_prefill_decode.kv_cache_bytes(
        inference_prefill_decode.kv_bytes_per_token(20, 2, 128, 2), 2048, 64
    ) / 1e9 == pytest.approx(2.7, abs=0.03)
    for bandwidth, microseconds in ((4.8e12, 225), (3.35e12, 322)):
        floor = inference_prefill_decode.decode_seconds_per_token_floor(weight_bytes, kv_bytes * 2048, bandwidth)
        assert floor * 1e6 == pytest.approx(microseconds, abs=1)
    assert inference_prefill_decode.model_bandwidth_utilisation(1e9, 0.5, 4e9) == 0.5


def test_prefill_and_ridge():
    """A d20 reads 2,048 tokens with 2.00 TFLOP, 4.0 ms at half of the peak."""
    flops = inference_prefill_decode.prefill_flops(scaling_parameters(shape_of_depth(20, 32768, 2048)), 20, 1280, 2048)
    assert flops / 1e12 == pytest.approx(2.00, abs=0.01)
    assert inference_prefill_decode.prefill_seconds_floor(flops, 989e12, 0.5) * 1e3 == pytest.approx(4.0, abs=0.06)
    assert inference_prefill_decode.ridge_batch(989e12, 4.8e12, 2) == pytest.approx(206, abs=0.5)
    assert inference_prefill_decode.ridge_batch(989e12, 3.35e12, 2) == pytest.approx(295, abs=0.5)
    assert inference_prefill_decode.matmul_intensity(1, 1000, 1000, 2) == pytest.approx(1.0, abs=0.01)


def test_queues():
    """Half load: 2 s mean and 5.99 s at the 95th percentile; eight slots at half load make 6 % of the requests wait."""
    assert chat_latency.mm1_mean_seconds(1, 0.5) == 2
    assert chat_latency.mm1_quantile_seconds(1, 0.5) == pytest.approx(5.99, abs=0.005)
    assert chat_latency.md1_mean_seconds(1, 0.5) == pytest.approx(1.5)
    waiting, seconds = chat_latency.erlang_c(8, 2.5, 1.6)
    assert waiting == pytest.approx(0.059, abs=5e-4)
    assert seconds == pytest.approx(0.024, abs=5e-4)
    rate = chat_latency.largest_arrival_rate(1.0, 5.991)
    assert chat_latency.mm1_quantile_seconds(1.0, rate) == pytest.approx(5.991)
    with pytest.raises(ValueError, match="capacity"):
        chat_latency.mm1_mean_seconds(1, 1)


def test_user_latency_round_trip():
    total = chat_latency.answer_seconds(0.1, 0.2, 51, 0.01)
    assert total == pytest.approx(0.81)
    assert chat_latency.seconds_per_output_token(0.2 + 50 * 0.01, 0.2, 51) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="at least 2"):
        chat_latency.seconds_per_output_token(1, 0.5, 1)


def test_posterior_after_twenty_steps():
    """Prior 0.46 +- 10 %, twenty steps at 0.42 +- 0.5 %: the data wins, sd of the logarithm 0.0011."""
    mean, log_sd = log_posterior(0.46, 0.10, 0.42, 0.005, 20)
    assert mean == pytest.approx(0.4200, abs=1e-4)
    assert log_sd == pytest.approx(0.0011, abs=5e-5)
    assert log_posterior(0.46, 0.10, 1.0, 1.0, 0) == (0.46, 0.10)


def test_intervals_add_and_scale():
    one = lognormal_interval(10, 0.1)
    assert one.low * one.high == pytest.approx(100)
    both = add_independent([one, one])
    assert both.value == 20
    assert both.high - 20 == pytest.approx((one.high - 10) * math.sqrt(2))
    assert one.scaled(2) == Interval(20, 2 * one.low, 2 * one.high)
    assert block_parameters(1, 128, 1, 1, 512) == 12 * 128**2
