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
BESIDE = {
    "ttft_seconds": {"value": 0.005, "low": 0.0049, "high": 0.0052, "n": 12},
    "loss_rise_nats": {"value": 0.2, "low": 0.2, "high": 0.2, "n": 200},
}
BEFORE = ["budget", "corpus", "tokenizer", "shards", "architecture", "pretrain", "midtrain", "sft", "rl", "evaluation"]
ARITHMETIC = {"metric": "arithmetic", "at_least": 0.9}


def make(root, asked, scores=SCORES, champion=None, selected="rl", seconds=None, **params):
    for path, content in {
        "budget/acceptance.json": {"thresholds": asked, "hours": 0.1},
        "evaluation/scores.json": {selected: scores},
        "evaluation/latency_and_stability.json": {selected: BESIDE},
    }.items():
        file = root / "artifacts" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    measured = {} if seconds is None else seconds
    return make_context(
        root, Stage.GATE, gate.Params(**params), champion=lambda: champion, measured_seconds=lambda: measured
    )


def verdict(ctx):
    return json.loads((ctx.out / "verdict.json").read_text())


def test_a_score_at_the_threshold_passes_and_is_listed_with_everything_known(tmp_path):
    ctx = make(tmp_path, [ARITHMETIC])
    gate.run(ctx)
    assert verdict(ctx)["passed"] is True
    assert verdict(ctx)["selected"] == "rl"
    assert verdict(ctx)["checks"] == [
        {
            "name": "arithmetic of rl >= 0.9",
            "metric": "arithmetic",
            "checkpoint": "rl",
            "unit": "share",
            "value": 0.9,
            "low": 0.86,
            "high": 0.93,
            "threshold": 0.9,
            "passed": True,
            "straddles": True,
        }
    ]


def test_a_pass_within_the_error_bar_is_called_so(tmp_path, capsys):
    gate.run(make(tmp_path, [ARITHMETIC]))
    assert "passed  arithmetic of rl >= 0.9: 0.9 [0.86, 0.93], within the error bar" in capsys.readouterr().out


def test_a_failed_check_writes_the_verdict_logs_it_and_fails_with_the_next_step(tmp_path, capsys):
    asked = [{"metric": "arithmetic", "at_least": 0.95}, {"metric": "bits_per_byte", "at_most": 2.5}]
    ctx = make(tmp_path, asked)
    with pytest.raises(StageError, match=r"1 of 2 checks:\n  arithmetic of rl >= 0\.95: 0\.9 \[") as failed:
        gate.run(ctx)
    assert "next: more arithmetic in sft.mixture" in str(failed.value)
    assert "bits_per_byte" not in str(failed.value)
    assert verdict(ctx)["passed"] is False
    assert [check["passed"] for check in verdict(ctx)["checks"]] == [False, True]
    assert "FAILED  arithmetic of rl >= 0.95: 0.9 [0.86, 0.93]" in capsys.readouterr().out


def test_a_miss_within_the_error_bar_advises_more_items(tmp_path):
    with pytest.raises(StageError, match="within the error bar; next: more items"):
        gate.run(make(tmp_path, [{"metric": "arithmetic", "at_least": 0.92}]))


@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_was_not_measured_fails(tmp_path, value):
    """Catches NaN slipping through a comparison, and a benchmark without items that checks nothing."""
    scores = {} if value is None else {"arithmetic": {"value": value, "low": value, "high": value, "n": 1}}
    with pytest.raises(StageError, match=r"failed 1 of 1 checks:\n.*not measured; next: .*give the benchmark items"):
        gate.run(make(tmp_path, [ARITHMETIC], scores))


def test_a_checkpoint_that_was_not_measured_fails_its_check(tmp_path):
    asked = [{"metric": "bits_per_byte", "at_most": 9.0, "checkpoint": "pretrain"}]
    with pytest.raises(StageError, match="add 'pretrain' to") as failed:
        gate.run(make(tmp_path, asked))
    assert "measured of pretrain: nothing" in str(failed.value)


def test_latency_and_stability_are_enforced(tmp_path):
    met = [{"metric": "ttft_seconds", "at_most": 0.02}, {"metric": "loss_rise_nats", "at_most": 1.0}]
    gate.run(make(tmp_path / "met", met))
    missed = [{"metric": "ttft_seconds", "at_most": 0.002}, {"metric": "loss_rise_nats", "at_most": 0.1}]
    with pytest.raises(StageError, match="failed 2 of 2") as failed:
        gate.run(make(tmp_path / "missed", missed))
    assert "quiet machine" in str(failed.value)
    assert "learning_rate_scale" in str(failed.value)


def test_the_wall_clock_is_that_of_the_stages_before_the_gate(tmp_path):
    """Catches the time of an export left over from another run being added."""
    seconds = {**dict.fromkeys(BEFORE, 36.0), "export": 9e9, "gate": 9e9}
    ctx = make(tmp_path, [{"metric": "wall_clock_hours", "at_most": 0.1}], seconds=seconds)
    gate.run(ctx)
    (check,) = verdict(ctx)["checks"]
    assert (check["value"], check["checkpoint"], check["unit"]) == (pytest.approx(0.1), "run", "h")
    assert ctx.figures["wall_clock_hours"] == pytest.approx(0.1)
    with pytest.raises(StageError, match=r"wall_clock_hours <= 0\.09: 0\.1; next: lower budget"):
        gate.run(make(tmp_path, [{"metric": "wall_clock_hours", "at_most": 0.09}], seconds=seconds))


def test_a_wall_clock_with_a_stage_missing_is_not_measured(tmp_path):
    """Catches a sum of some stages passing for that of all."""
    seconds = dict.fromkeys(BEFORE[:-1], 1.0)
    with pytest.raises(StageError, match="wall_clock_hours <= 9: not measured; next: `dvc repro`"):
        gate.run(make(tmp_path, [{"metric": "wall_clock_hours", "at_most": 9.0}], seconds=seconds))


def test_the_gate_says_when_nothing_was_asked(tmp_path, capsys):
    ctx = make(tmp_path, [])
    gate.run(ctx)
    assert verdict(ctx) == {"passed": True, "selected": "rl", "checks": [], "champion": None}
    assert "nothing was asked" in capsys.readouterr().out


def champion_with(value, half=0.0, key="arithmetic"):
    return {"version": "3", "key": "k", "scores": {key: {"value": value, "low": value - half, "high": value + half}}}


@pytest.mark.parametrize(
    ("champion_value", "half", "passes", "straddles"),
    [
        (0.92, 0.0, True, True),  # loss 0.02 = max_regression
        (0.95, 0.04, True, True),  # loss 0.05 < sqrt(0.035^2 + 0.04^2) = 0.053
        (0.97, 0.04, False, True),  # loss 0.07 exceeds both, and is less than 0.02 + 0.053
        (0.99, 0.00, False, False),  # loss 0.09 exceeds 0.02 + 0.035
        (0.80, 0.0, True, False),  # a gain
    ],
)
def test_only_a_loss_beyond_chance_and_tolerance_fails(tmp_path, champion_value, half, passes, straddles):
    ctx = make(tmp_path, [ARITHMETIC], champion=champion_with(champion_value, half))
    if passes:
        gate.run(ctx)
    else:
        with pytest.raises(StageError, match="loss against the champion"):
            gate.run(ctx)
    threshold, champion = verdict(ctx)["checks"]
    assert threshold["name"] == "arithmetic of rl >= 0.9"
    assert (champion["passed"], champion["straddles"]) == (passes, straddles)
    assert champion["value"] == pytest.approx(champion_value - 0.9)
    assert verdict(ctx)["champion"]["version"] == "3"


def test_more_bits_per_byte_are_a_loss(tmp_path):
    """Catches a comparison that treats every benchmark as 'more is better'."""
    gate.run(make(tmp_path / "a", [], champion=champion_with(2.5, key="bits_per_byte")))
    with pytest.raises(StageError, match="bits_per_byte"):
        gate.run(make(tmp_path / "b", [], champion=champion_with(1.5, key="bits_per_byte")))


@pytest.mark.parametrize("key", ["ttft_seconds", "loss_rise_nats", "wall_clock_hours", "no_such_metric"])
def test_only_quality_is_compared_with_the_champion(tmp_path, key):
    """A champion measured on a faster machine must not keep a better model out."""
    ctx = make(tmp_path, [ARITHMETIC], champion=champion_with(1e-9, key=key), seconds=dict.fromkeys(BEFORE, 1.0))
    gate.run(ctx)
    assert len(verdict(ctx)["checks"]) == 1


def test_champion_scores_by_stage_are_understood(tmp_path):
    champion = {"version": "1", "key": "k", "scores": {"rl": champion_with(0.99)["scores"], "sft": {}}}
    with pytest.raises(StageError, match="champion"):
        gate.run(make(tmp_path, [ARITHMETIC], champion=champion))


def test_without_max_regression_the_champion_is_not_asked(tmp_path):
    ctx = make(tmp_path, [ARITHMETIC], champion=champion_with(1.0), max_regression=None)
    gate.run(ctx)
    assert verdict(ctx)["champion"] is None


def test_a_selected_checkpoint_without_scores_is_named(tmp_path):
    with pytest.raises(StageError, match="has scores of sft"):
        gate.run(make(tmp_path, [ARITHMETIC], selected="sft"))


def test_thresholds_no_longer_belong_to_the_gate():
    with pytest.raises(ValueError, match="thresholds"):
        gate.Params.model_validate({"thresholds": []})
