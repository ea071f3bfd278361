"""Forecasts of a plan at another time: for the plan's amounts, or for those a stage knows better."""

import pytest

from pipeline_math.stage_terms import TRAINING_STAGES
from tasks._forecast import current, planned
from tests.tasks.test_budget import run_stage


@pytest.fixture
def plan(tmp_path):
    context, _, _ = run_stage(tmp_path)
    return context.out


def test_amounts_of_a_stage_replace_the_plan_s(plan, tmp_path):
    """Twice the steps: nearly twice the seconds, the same step and memory; no other stage is touched."""
    steps = planned(plan).amounts["pretrain"]["steps"]
    usual = current("any", tmp_path, plan)
    longer = current("any", tmp_path, plan, {"pretrain": {"steps": 2 * steps}})
    assert 1.5 < longer["pretrain"]["seconds"].value / usual["pretrain"]["seconds"].value < 2.0
    for quantity in ("step_seconds", "peak_memory_bytes", "tokens_per_second"):
        assert longer["pretrain"][quantity] == usual["pretrain"][quantity]
    assert {stage: own for stage, own in longer.items() if stage != "pretrain"} == {
        stage: own for stage, own in usual.items() if stage != "pretrain"
    }
    assert set(TRAINING_STAGES) <= set(usual)


def test_without_a_plan_nothing_is_forecast(tmp_path):
    assert current("any", tmp_path, tmp_path, {"pretrain": {"steps": 5}}) == {}
