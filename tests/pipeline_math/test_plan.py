"""Stage times, the written plan and the command line."""

import json

import pytest

from pipeline_math.__main__ import main
from pipeline_math.hardware import HARDWARE, find_hardware
from pipeline_math.plan import make_plan, plan_markdown, readable
from pipeline_math.stage_seconds import Workload, stage_seconds
from pipeline_math.target_budget import Goal, solve
from tasks.stages import Stage

LAPTOP = Goal(1 / 6, find_hardware("cpu-2core"), tokens_per_row=512, vocab_size=4096, depth=4, pretrain_share=0.34)


def test_every_stage_of_the_pipeline_is_predicted_in_order():
    """The names are spelt twice, because pipeline_math imports nothing: this keeps them equal."""
    assert list(stage_seconds(solve(LAPTOP), Workload())) == [str(stage) for stage in Stage]


@pytest.mark.parametrize("name", HARDWARE)
def test_intervals_are_ordered_and_positive_on_all_hardware(name):
    found = solve(Goal(0.5, find_hardware(name), tokens_per_row=512, vocab_size=4096))
    for interval in stage_seconds(found, Workload()).values():
        assert 0 < interval.low < interval.value < interval.high


def test_pretraining_takes_its_share_of_the_hours():
    """Start-up and evaluation come on top of the share, so it is a little more, not less."""
    seconds = stage_seconds(solve(LAPTOP), Workload())["pretrain"].value
    assert 204 <= seconds < 204 * 1.25


def test_more_work_takes_longer():
    """Catches a workload field that no prediction uses."""
    found, base = solve(LAPTOP), Workload()
    increased = {
        "corpus_bytes": "corpus",
        "tokenizer_bytes": "tokenizer",
        "evaluation_tokens": "pretrain",
        "evaluations": "pretrain",
        "midtrain_tokens": "midtrain",
        "sft_tokens": "sft",
        "rl_steps": "rl",
        "rl_samples_per_step": "rl",
        "rl_new_tokens": "rl",
        "checkpoints": "evaluation",
        "benchmark_tokens": "evaluation",
        "benchmark_decode_steps": "evaluation",
    }
    fields = dict(vars(base), tokenizer_bytes=1e6)
    assert set(increased) | {"kept_share", "chat_batch_tokens"} == set(fields)
    before = stage_seconds(found, Workload(**fields))
    for field, stage in increased.items():
        after = stage_seconds(found, Workload(**{**fields, field: fields[field] * 2}))
        assert after[stage].value > before[stage].value, field
    fewer = stage_seconds(found, Workload(**{**fields, "kept_share": 0.4}))
    assert fewer["shards"].value < before["shards"].value
    smaller_batches = stage_seconds(found, Workload(**{**fields, "chat_batch_tokens": 1024}))
    assert smaller_batches["sft"].value > before["sft"].value


def test_skipped_reinforcement_learning_is_cheap():
    found = solve(LAPTOP)
    assert stage_seconds(found, Workload(rl_steps=0))["rl"].value < stage_seconds(found, Workload())["rl"].value


def test_plan_has_the_fields_other_stages_read():
    plan = json.loads(json.dumps(make_plan(solve(LAPTOP), Workload())))
    assert {"hardware", "devices", "depth", "d_model", "n_heads", "n_kv_heads", "tokens_per_row"} <= set(plan)
    assert {"vocab_size", "train_tokens", "batch_tokens", "micro_batch_rows", "precision"} <= set(plan)
    assert set(plan["predictions"]) == {str(stage) for stage in Stage}
    for prediction in plan["predictions"].values():
        assert set(prediction["seconds"]) == {"value", "low", "high"}
    assert {"seconds", "usd", "kwh", "vram_bytes", "val_bpb"} <= set(plan["total"])
    parts = sum(prediction["seconds"]["value"] for prediction in plan["predictions"].values())
    assert plan["total"]["seconds"] == pytest.approx(parts)


def test_plan_warns_of_what_will_disappoint():
    tight = solve(
        Goal(0.02, find_hardware("cpu-2core"), tokens_per_row=512, vocab_size=4096, depth=12, unique_tokens=1e3)
    )
    warnings = " ".join(make_plan(tight, Workload(), target_val_bpb=0.5)["warnings"])
    for word in ("more than the 0.02 h", "undertrained", "passes over the text", "0.5 wanted"):
        assert word in warnings
    roomy = solve(Goal(24, find_hardware("rtx4090"), pretrain_share=0.8))
    assert make_plan(roomy, Workload())["warnings"] == []


def test_price_can_be_overridden():
    found = solve(LAPTOP)
    plan = make_plan(found, Workload(), usd_per_hour=3.6)
    assert plan["total"]["usd"] == pytest.approx(plan["total"]["seconds"] * 0.001)
    assert make_plan(found, Workload())["total"]["usd"] == 0


def test_markdown_names_every_stage():
    text = plan_markdown(make_plan(solve(LAPTOP), Workload()))
    assert all(f"| {stage} |" in text for stage in Stage)
    assert "bits/byte" in text


def test_seconds_are_readable():
    assert [readable(s) for s in (5, 119, 120, 7199, 7200)] == ["5 s", "119 s", "2.0 min", "120.0 min", "2.0 h"]


def test_command_line_prints_a_plan(capsys):
    assert main(["plan", "--hours", "24", "--hardware", "rtx4090"]) == 0
    text = capsys.readouterr().out
    assert "18 layers" in text
    assert main(["plan", "--hours", "3", "--hardware", "h100", "--devices", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"] == 8
    assert main(["hardware"]) == 0
    assert "rtx4090" in capsys.readouterr().out


def test_command_line_explains_what_is_impossible(capsys):
    assert main(["plan", "--hours", "24", "--hardware", "abacus"]) == 2
    assert "allowed: cpu-2core" in capsys.readouterr().err
