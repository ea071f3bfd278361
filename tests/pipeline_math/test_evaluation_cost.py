"""Evaluation: tokens, FLOPs and seconds of a benchmark, and the noise of CORE."""

import pytest

from pipeline_math.evaluation_cost import (
    BENCHMARK_ITEMS,
    CORE_RUN_SD,
    Generation,
    MultipleChoice,
    benchmark_flops,
    bits_per_byte,
    centred_accuracy,
    core_noise_drop,
    core_score,
    forward_flops,
    generation_seconds,
    multiple_choice_seconds,
    prefix_sharing_speedup,
    seconds_for_error,
)
from pipeline_math.statistics import standard_error


def test_flops_count_every_option_unless_the_prefix_is_shared():
    assert benchmark_flops(1e6, 10, 100, 4) == 8e9
    assert benchmark_flops(1e6, 10, 100) == forward_flops(1e6, 1000) == 2e9
    mmlu = MultipleChoice(items=BENCHMARK_ITEMS["MMLU"], prompt_tokens=600, option_tokens=1, options=4)
    assert mmlu.forward_tokens(prefix_shared=False) == 14042 * 4 * 601
    assert mmlu.forward_tokens(prefix_shared=True) == mmlu.letter_tokens() == 14042 * 604
    long = MultipleChoice(items=10, prompt_tokens=50, option_tokens=3, options=4)
    assert long.forward_tokens(prefix_shared=True) == long.letter_tokens() == 10 * (50 + 12)
    assert long.forward_tokens(prefix_shared=False) == 10 * 4 * 53
    assert benchmark_flops(1e6, 14042, 601, 4) == forward_flops(1e6, mmlu.forward_tokens(prefix_shared=False))
    apart, shared = (multiple_choice_seconds(mmlu, 1e8, 1e14, prefix_shared=p) for p in (False, True))
    assert shared == pytest.approx(2 * 1e8 * 14042 * 604 / 1e14)
    assert apart / shared == pytest.approx(prefix_sharing_speedup(mmlu))


def test_prefix_sharing_saves_at_most_the_number_of_options():
    short, long = (MultipleChoice(1, tokens, 5, 4) for tokens in (5, 5000))
    assert 1 < prefix_sharing_speedup(short) < prefix_sharing_speedup(long) < 4
    assert prefix_sharing_speedup(long) == pytest.approx(4, abs=0.02)


def test_generated_answers_are_read_once_and_decoded_in_batches():
    gsm8k = Generation(items=1319, prompt_tokens=200, new_tokens=256)
    read = 2 * 1e8 * 1319 * 200 / 1e14
    assert generation_seconds(gsm8k, 1e8, 1e14, 0.001, 64) == pytest.approx(read + 256 * 0.001 * 21)
    twice = Generation(items=1319, prompt_tokens=200, new_tokens=256, samples_per_item=2)
    assert generation_seconds(twice, 1e8, 1e14, 0.001, 64) == pytest.approx(read + 256 * 0.001 * 42)


def test_half_the_error_costs_four_times_the_time():
    error = standard_error(0.3, 500)
    assert seconds_for_error(60, 0.3, 500, error) == pytest.approx(60)
    assert seconds_for_error(60, 0.3, 500, error / 2) == pytest.approx(240)


def test_noise_of_core():
    """Seven identical public runs: sd 0.0052; a drop below 0.0122 in one pair of runs is noise (one-sided 5 %)."""
    assert pytest.approx(0.0052, abs=5e-5) == CORE_RUN_SD
    assert core_noise_drop() == pytest.approx(0.0122, abs=5e-5)


def test_core_is_the_mean_of_centred_accuracies():
    assert centred_accuracy(0.25, 0.25) == 0
    assert centred_accuracy(1.0, 0.25) == 1
    assert centred_accuracy(0.1, 0.25) < 0
    assert core_score([1.0, 0.25, 0.625], [0.25, 0.25, 0.25]) == pytest.approx(0.5)
    for accuracies, baselines in (([], []), ([0.5], [0.5, 0.2])):
        with pytest.raises(ValueError, match="tasks"):
            core_score(accuracies, baselines)


def test_bits_per_byte_of_a_whole_text():
    assert bits_per_byte(3.28 * 100, 4.67 * 100) == pytest.approx(1.0133, abs=5e-5)
