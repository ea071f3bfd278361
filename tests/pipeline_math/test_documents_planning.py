"""Arithmetic that only documents 00 to 05 use, and the published cases their tables show."""

import math

import pytest

from pipeline_math.documents import public_cases, step_00, step_04, step_05, step_05_public
from pipeline_math.documents.examples import D12
from pipeline_math.documents.step_02 import gain_that_pays
from pipeline_math.hardware import HARDWARE
from pipeline_math.hardware_table import PUBLISHED_MFU
from pipeline_math.loss_law import expected_bits_per_byte
from pipeline_math.step_time import training_step_seconds
from pipeline_math.tokenizer_cost import larger_vocabulary_pays


def test_gain_that_pays_is_where_the_rule_turns():
    gain = gain_that_pays(151e6, 887e6)
    assert not larger_vocabulary_pays(gain * (1 - 1e-9), 151e6, 887e6)
    assert larger_vocabulary_pays(gain * (1 + 1e-9), 151e6, 887e6)


def test_every_published_memory_case_comes_out_as_reported():
    """The table prints both verdicts; a reader must not find them different."""
    rows = step_04.memory_cases()
    assert len(rows) == len(public_cases.MEMORY_CASES) == 5
    assert {row[4] for row in rows} == {"fits", "runs out"}
    assert all(row[3] == row[4] for row in rows)


def test_published_losses_lie_in_the_interval_of_the_law():
    checked = [case for case in public_cases.LOSS_CASES if not case.fitted]
    assert len(checked) == 3
    for case in checked:
        law = expected_bits_per_byte(case.train_flops)
        assert law.low < case.bits_per_byte < law.high


def test_published_shares_of_peak():
    """Least and most by place, and the geometric mean that the h100 prior is."""
    values = [value for value, _ in PUBLISHED_MFU["h100"]]
    assert step_05_public.published_runs("h100") == len(values)
    assert step_05_public.published_mfu("h100", 0) == min(values)
    assert step_05_public.published_mfu("h100", -1) == max(values)
    assert math.prod(values) ** (1 / len(values)) == pytest.approx(step_05_public.geometric_mean_mfu("h100"))
    assert step_05_public.geometric_mean_mfu("h100") == pytest.approx(HARDWARE["h100"].mfu, abs=0.002)


def test_tokens_per_second_is_batch_over_step():
    hardware = HARDWARE["h100"]
    seconds = training_step_seconds(hardware, D12, 524288, 32)
    assert step_05.own_tokens_per_second(hardware, D12, 524288, 32) == pytest.approx(524288 / seconds)


def test_the_leaderboard_run_is_found_from_its_budget():
    """3 h on 8 x H100 at 50 % give the d24 and the tokens that were run; the other stages leave fewer tokens."""
    found = step_00.example_plan(step_00.LARGE)
    published = public_cases.D24_TRAIN_TOKENS.value
    assert found.shape.n_layers == 24
    assert found.train_tokens == pytest.approx(published, rel=0.03)
    whole = step_00.whole_plan(step_00.LARGE)
    assert whole.train_tokens < found.train_tokens
    assert 0 < step_00.pretrain_share(step_00.LARGE) < 1


def test_one_more_hour_never_makes_a_plan_worse():
    gains = step_00.gains(step_00.SMALL)
    assert [gain.change for gain in gains[:2]] == ["one more hour", "one more GiB per device"]
    assert all(gain.bits_per_byte_change <= 1e-9 for gain in gains)
    assert gains[0].bits_per_byte_change < 0
