"""Chat training: published and worked costs of fine-tuning and of a reinforcement-learning step."""

import random

import pytest

from pipeline_math.inference_prefill_decode import kv_bytes_per_token, kv_cache_bytes
from pipeline_math.model_flops_vram import scaling_parameters, shape_of_depth
from pipeline_math.sft_step import (
    RlStep,
    flops_per_supervised_token,
    masked_head_flops_saved_per_token,
    problems_needed,
    rl_step_seconds,
    rl_steps_per_epoch,
    rl_update_flops,
    rollout_seconds,
    sft_cost,
    supervised_share_of_rows,
    useful_group_probability,
    useful_group_share,
)

D20 = scaling_parameters(shape_of_depth(20, 32768, 2048))
H200_PEAK, H200_BANDWIDTH = 989e12, 4.8e12


def test_masked_tokens_of_a_d12():
    assert flops_per_supervised_token(0.8871e9, 0.3) / 1e9 == pytest.approx(2.957, abs=5e-4)
    saved = masked_head_flops_saved_per_token(32768, 768, 0.3)
    assert saved / 1e6 == pytest.approx(105.7, abs=0.05)
    assert saved / 0.8871e9 == pytest.approx(0.119, abs=5e-4)


def test_fine_tuning_pays_for_masked_tokens_and_padding():
    cost = sft_cost(300, 1000, 250, 2e9, 1e12)
    assert cost.row_tokens == 1250
    assert cost.train_flops == pytest.approx(1250 * 2e9)
    assert cost.seconds == pytest.approx(2.5)
    assert cost.flops_per_supervised_token * cost.supervised_tokens == pytest.approx(cost.train_flops)
    assert supervised_share_of_rows(300, 1000, 0) == 0.3
    assert supervised_share_of_rows(10, 10, 0) == 1
    with pytest.raises(ValueError, match="supervised_tokens"):
        supervised_share_of_rows(11, 10, 0)


def test_reinforcement_step_of_a_d20():
    """16 problems, 16 samples, 100 + 256 tokens: 91k tokens, 2.4e14 FLOP, 0.48 s; rollout floor 0.37 s on an H200."""
    step = RlStep(problems=16, samples_per_problem=16, prompt_tokens=100, new_tokens=256)
    assert step.samples == 256
    assert step.update_tokens / 1e3 == pytest.approx(91, abs=0.5)
    assert rl_update_flops(D20, step.samples, 100, 256) == pytest.approx(2.4e14, abs=0.05e14)
    mean_context = 100 + 256 // 2  # the cache grows while sampling
    kv_bytes = kv_cache_bytes(kv_bytes_per_token(20, 10, 128, 2), mean_context, step.samples)
    assert kv_bytes / 1e9 == pytest.approx(6.0, abs=0.05)
    tpot = (0.87e9 + kv_bytes) / H200_BANDWIDTH
    assert rollout_seconds(256, tpot, 256, 256) == pytest.approx(0.37, abs=0.005)
    found = rl_step_seconds(step, D20, tpot, 256, 0.5 * H200_PEAK)
    assert found.decode_seconds == pytest.approx(0.37, abs=0.005)
    assert found.update_seconds == pytest.approx(0.48, abs=0.005)
    # Prompts are read forward only (2 N) and once per problem: a small part of the update.
    assert found.prefill_seconds == pytest.approx(2 * D20 * 16 * 100 / (0.5 * H200_PEAK))
    parts = found.prefill_seconds + found.decode_seconds + found.update_seconds
    assert found.total_seconds == pytest.approx(parts)
    assert rl_steps_per_epoch(7473, 16) == 467


def test_rollouts_run_in_whole_batches():
    assert rollout_seconds(10, 0.1, 17, 16) == pytest.approx(2.0)
    assert rollout_seconds(10, 0.1, 16, 16, prefill_seconds=0.5) == pytest.approx(1.5)


def test_useful_groups():
    assert useful_group_probability(0.02, 16) == pytest.approx(0.28, abs=0.005)
    assert useful_group_probability(0.3, 16) == pytest.approx(useful_group_probability(0.7, 16))
    assert useful_group_probability(0.0, 16) == useful_group_probability(1.0, 16) == 0
    generator, groups = random.Random(0), 4000
    mixed = sum(len({generator.random() < 0.1 for _ in range(8)}) == 2 for _ in range(groups))
    assert mixed / groups == pytest.approx(useful_group_probability(0.1, 8), abs=0.025)  # three standard errors


def test_problems_of_mixed_difficulty_are_less_useful_than_their_mean():
    rates = [0.0, 0.5, 1.0]
    assert useful_group_share(rates, 8) < useful_group_probability(0.5, 8)
    assert useful_group_share(rates, 8) == pytest.approx(useful_group_probability(0.5, 8) / 3)


def test_problems_needed_for_useful_groups():
    chance = useful_group_probability(0.02, 16)
    needed = problems_needed(16, 0.02, 16)
    assert needed * chance >= 16 > (needed - 1) * chance
    assert problems_needed(3, 0.5, 2) == 6  # half of the pairs differ: no rounding up of a whole number
    for rate, size in ((0.0, 16), (1.0, 16), (0.5, 1)):
        with pytest.raises(ValueError, match="no group can be useful"):
            problems_needed(1, rate, size)
