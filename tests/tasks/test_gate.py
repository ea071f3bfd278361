"""The gate: thresholds at their boundary, an interval-aware comparison with the champion, a verdict in any case."""

import json

import pytest

from tasks import gate
from tasks._errors import StageError
from tasks.stages import Stage
from tests.stage_context import make_context

SCORES = {
    "arithmetic": {"value": 0.9, "low": 0.86, "high": 0.93, "n": 250},
    "bits_per_byte": {"value": 2.0, "low": 1.98, "high": 2.02, "n": 9000},
}


def make(root, params, scores=SCORES, champion=None, selected="rl"):
    folder = root / "artifacts/evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps({selected: scores}))
    return make_context(root, Stage.GATE, params, champion=lambda: champion)


def params(**values):
    return gate.Params.model_validate({"thresholds": [{"benchmark": "arithmetic", "at_least": 0.9}], **values})


def verdict(ctx):
    return json.loads((ctx.out / "verdict.json").read_text())


def test_a_score_at_the_threshold_passes(tmp_path):
    ctx = make(tmp_path, params())
    gate.run(ctx)
    assert verdict(ctx)["passed"] is True
    assert verdict(ctx)["selected"] == "rl"
    assert verdict(ctx)["checks"] == [{"name": "arithmetic >= 0.9", "value": 0.9, "threshold": 0.9, "passed": True}]


def test_a_failed_check_writes_the_verdict_logs_it_and_fails(tmp_path, capsys):
    bounds = [{"benchmark": "arithmetic", "at_least": 0.91}, {"benchmark": "bits_per_byte", "at_most": 2.5}]
    ctx = make(tmp_path, params(thresholds=bounds))
    with pytest.raises(StageError, match=r"1 of 2 checks: arithmetic >= 0\.91"):
        gate.run(ctx)
    assert verdict(ctx)["passed"] is False
    assert [check["passed"] for check in verdict(ctx)["checks"]] == [False, True]
    assert "FAILED  arithmetic >= 0.91: 0.9000" in capsys.readouterr().out


@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_was_not_measured_fails(tmp_path, value):
    """Catches NaN slipping through a comparison, and a misspelt benchmark that checks nothing."""
    scores = {} if value is None else {"arithmetic": {"value": value, "low": value, "high": value, "n": 1}}
    with pytest.raises(StageError, match="failed 1 of 1"):
        gate.run(make(tmp_path, params(), scores))


def champion_with(value, half=0.0, key="arithmetic"):
    return {"version": "3", "key": "k", "scores": {key: {"value": value, "low": value - half, "high": value + half}}}


@pytest.mark.parametrize(
    ("champion_value", "half", "passes"),
    [
        (0.92, 0.0, True),  # loss 0.02 = max_regression
        (0.95, 0.04, True),  # loss 0.05 < sqrt(0.035^2 + 0.04^2) = 0.053
        (0.97, 0.04, False),  # loss 0.07 exceeds both
        (0.80, 0.0, True),  # a gain
    ],
)
def test_only_a_loss_beyond_chance_and_tolerance_fails(tmp_path, champion_value, half, passes):
    ctx = make(tmp_path, params(), champion=champion_with(champion_value, half))
    if passes:
        gate.run(ctx)
    else:
        with pytest.raises(StageError, match="loss against the champion"):
            gate.run(ctx)
    assert len(verdict(ctx)["checks"]) == 2
    assert verdict(ctx)["champion"]["version"] == "3"


def test_more_bits_per_byte_are_a_loss(tmp_path):
    """Catches a comparison that treats every benchmark as 'more is better'."""
    gate.run(make(tmp_path / "a", params(), champion=champion_with(2.5, key="bits_per_byte")))
    with pytest.raises(StageError, match="bits_per_byte"):
        gate.run(make(tmp_path / "b", params(), champion=champion_with(1.5, key="bits_per_byte")))


def test_champion_scores_by_stage_are_understood(tmp_path):
    champion = {"version": "1", "key": "k", "scores": {"rl": champion_with(0.99)["scores"], "sft": {}}}
    with pytest.raises(StageError, match="champion"):
        gate.run(make(tmp_path, params(), champion=champion))


def test_without_max_regression_the_champion_is_not_asked(tmp_path):
    ctx = make(tmp_path, params(max_regression=None), champion=champion_with(1.0))
    gate.run(ctx)
    assert verdict(ctx)["champion"] is None


def test_an_unmeasured_checkpoint_is_named(tmp_path):
    with pytest.raises(StageError, match="has scores of sft"):
        gate.run(make(tmp_path, params(), selected="sft"))


def test_a_threshold_without_bound_is_refused():
    with pytest.raises(ValueError, match="neither at_least nor at_most"):
        gate.Threshold(benchmark="arithmetic")
