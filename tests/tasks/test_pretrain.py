"""The pretrain stage on a small real tokenizer and rows: outputs, resume, and what it says about bad input."""

import csv
import json
import math

import numpy as np
import pytest

from model.batches import write_rows
from model.checkpoint import load_weights
from model.tokenizer import Tokenizer, byte_tokenizer_json
from tasks._context import read_events
from tasks._errors import Interrupted, StageError
from tasks._params import validate
from tasks._training import optimizer_options
from tasks.pretrain import Params, expected_amounts, run, steps_of
from tasks.stages import Stage
from tests.model.test_gpt import small_config
from tests.stage_context import make_context, publish

TOKENS = 32
TEXT = "The quick brown fox jumps over the lazy dog. " * 40


def prepare(root, rows=24, **plan):
    """Artifacts of the stages before pretrain, written the way those stages write them."""
    artifacts = root / "artifacts"
    for name in ("tokenizer", "shards", "architecture", "budget"):
        (artifacts / name).mkdir(parents=True)
    (artifacts / "tokenizer/tokenizer.json").write_text(byte_tokenizer_json(), encoding="utf-8")
    tokenizer = Tokenizer.from_file(artifacts / "tokenizer/tokenizer.json")
    ids = tokenizer.encode(TEXT)
    packed = np.array([[tokenizer.bos_id, *ids[7 * i : 7 * i + TOKENS]] for i in range(rows)])
    info = {
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "pad_id": tokenizer.special_id("<|output_end|>"),
        "tokenizer_sha256": tokenizer.sha256,
    }
    write_rows(artifacts / "shards", "train", packed, None, info)
    write_rows(artifacts / "shards", "val", packed[:4], None, info)
    config = small_config(vocab_size=tokenizer.vocab_size, sequence_length=TOKENS)
    config.to_json(artifacts / "architecture/config.json")
    content = {"train_tokens": 1000, "batch_tokens": 128, "micro_batch_rows": 2} | plan
    (artifacts / "budget/plan.json").write_text(json.dumps(content))
    return tokenizer


def context(root, params=None, **overrides):
    return make_context(root, Stage.PRETRAIN, Params(**(params or {})), key="K1", **overrides)


def stop_when(ctx, step):
    def asked():
        states = ctx.resume / "states"
        return states.exists() and any(f"{step:09d}" in p.name for p in states.iterdir())

    return asked


def test_it_trains_what_the_plan_says_and_writes_a_checkpoint(tmp_path):
    tokenizer = prepare(tmp_path)
    ctx = context(tmp_path, {"learning_rate_scale": 0.4, "eval_every": 4})
    run(ctx)
    assert ctx.figures["steps"] == 8  # 1000 tokens round up to eight steps of 128
    assert ctx.figures["tokens"] == 1024
    assert ctx.figures["epochs"] == pytest.approx(8 * 4 / 24, abs=1e-3)
    assert ctx.predicted["checkpoint_bytes"][0] == ctx.measured["checkpoint_bytes"]
    target = publish(ctx)
    model, meta = load_weights(target / "checkpoint")
    assert meta == {"stage": "pretrain", "step": 8, "tokens": 1024, "tokenizer_sha256": tokenizer.sha256, "key": "K1"}
    assert model.model.layers[0].mlp.fc2.weight.abs().max() > 0  # starts at zero: it was trained
    with (target / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 9))
    assert [row["step"] for row in rows if row["val_bpb"]] == ["4", "8"]
    assert float(rows[-1]["val_bpb"]) == ctx.figures["final_val_bpb"]
    published = [event["step"] for event in read_events(ctx.resume / "events.jsonl") if event["event"] == "curve"]
    assert published == list(range(1, 9))
    events = [event for event in read_events(ctx.resume / "events.jsonl") if event["event"] == "curve"]
    assert [event["step"] for event in events if "val_bpb" in event["values"]] == [4, 8]  # also that of the end


def test_params_override_the_plan(tmp_path):
    prepare(tmp_path)
    ctx = context(tmp_path, {"tokens": 200, "batch_tokens": 64, "micro_batch_rows": 1, "eval_rows": 0})
    run(ctx)
    assert (ctx.figures["steps"], ctx.figures["tokens"]) == (4, 256)
    assert "final_val_bpb" not in ctx.figures


def test_stopped_and_started_again_it_writes_the_same_bytes(tmp_path):
    """Resuming end to end, and nothing time-dependent in what later stages read."""
    prepare(tmp_path / "whole")
    prepare(tmp_path / "parts")
    whole = context(tmp_path / "whole")
    run(whole)
    asked = iter([False] * 3)
    with pytest.raises(Interrupted, match="step 3 of 8"):
        run(context(tmp_path / "parts", stop_requested=lambda: next(asked, True)))
    parts = context(tmp_path / "parts")
    run(parts)
    assert parts.figures["resumed_from_step"] == 3
    for name in ("checkpoint/model.safetensors", "checkpoint/meta.json", "checkpoint/config.json", "curve.csv"):
        assert (parts.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_a_finished_run_only_writes_its_output_again(tmp_path):
    """The runner may have been killed between the end of training and the commit of the output folder."""
    prepare(tmp_path)
    first = context(tmp_path)
    run(first)
    content = (first.out / "checkpoint/model.safetensors").read_bytes()
    second = context(tmp_path)
    run(second)
    assert second.figures["resumed_from_step"] == 8
    assert (second.out / "checkpoint/model.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    ("plan", "params", "told"),
    [
        ({"batch_tokens": 32 * 25}, {}, r"train split has 24 rows, one step takes 25.*batch_tokens <= 768"),
        ({"batch_tokens": 100}, {}, r"batch_tokens=100 is not a multiple of 32.*next: use 96"),
        ({"train_tokens": None}, {}, r"lacks train_tokens; next: `dvc repro budget`"),
    ],
)
def test_bad_plans_are_refused_with_what_would_work(tmp_path, plan, params, told):
    prepare(tmp_path, **plan)
    with pytest.raises(StageError, match=told):
        run(context(tmp_path, params))


def test_shards_of_another_tokenizer_or_shape_are_refused(tmp_path):
    """Trains silently on nonsense otherwise."""
    prepare(tmp_path)
    config = small_config(vocab_size=320, sequence_length=16)
    config.to_json(tmp_path / "artifacts/architecture/config.json")
    with pytest.raises(StageError, match=r"rows of 32 tokens .* allows 16 tokens"):
        run(context(tmp_path))
    manifest = tmp_path / "artifacts/shards/manifest.json"
    manifest.write_text(manifest.read_text().replace(json.loads(manifest.read_text())["tokenizer_sha256"], "0" * 64))
    with pytest.raises(StageError, match=r"packed with tokenizer 000.*dvc repro shards"):
        run(context(tmp_path))


def test_rates_follow_batch_and_width():
    """One set of rates serves a laptop and a node: the rules of pipeline_math are applied, both with their bounds."""
    small = optimizer_options(Params(), d_model=256, steps=100, batch_tokens=2**13)
    large = optimizer_options(Params(), d_model=768, steps=2520, batch_tokens=2**19)
    assert (large.matrix_lr, large.head_lr) == (Params().matrix_lr, Params().head_lr)
    assert small.matrix_lr == pytest.approx(0.75 * large.matrix_lr)  # the square root alone: an eighth
    assert small.head_lr == pytest.approx(0.75 * large.head_lr * 3**0.5)
    assert small.weight_decay == Params().weight_decay


SCALING = 2 * (4 * 64**2 + 2 * 64 * 256) + 320 * 64
"""Scaling parameters of the model below: matrices of two layers, and the head."""
FLOPS = 6 * SCALING + 12 * 2 * 64 * 32
"""Per token, at rows of 32 tokens."""


@pytest.mark.parametrize(
    ("horizon", "steps"),
    [
        ({}, 8),  # the plan's 1,000 tokens, rounded up
        ({"steps": 5}, 5),
        ({"tokens_per_parameter": 2.0}, math.ceil(2.0 * SCALING / 128)),
        ({"total_flops": 1.0e9}, math.ceil(1.0e9 / FLOPS / 128)),
        ({"hours": 1.0}, 8),
    ],
)
def test_every_horizon_gives_its_steps(horizon, steps):
    config = small_config(vocab_size=320, sequence_length=32)
    assert steps_of(validate(Params, horizon, "here"), config, 1000, 128, 32) == steps


def test_forecasts_follow_a_horizon_of_ones_own(tmp_path):
    """An hour of half-second steps is 7,200 of them; what is forecast is the run to come, not the plan's."""
    prepare(tmp_path)
    seen = []
    run(context(tmp_path, {"steps": 5, "eval_every": 2, "eval_rows": 3}, foresee=seen.append))
    assert seen[0] == {"batch_tokens": 128, "micro_batch_rows": 2}
    assert seen[1] == {"steps": 5, "evaluation_tokens": 3 * 3 * TOKENS, **seen[0]}
    plan = {"train_tokens": 1000, "batch_tokens": 128, "micro_batch_rows": 2}
    manifest = {"tokens_per_row": 32, "train": {"bytes": 900, "tokens": 300}}
    found = expected_amounts(Params(hours=1.0), 8, plan, manifest, 0.5)
    assert (found["steps"], found["trained_bytes"], found["evaluation_tokens"]) == (7200, 7200 * 128 * 3, 0)
    assert expected_amounts(Params(hours=1.0), 8, plan, manifest, None)["steps"] == 8


def test_the_plan_s_own_horizon_needs_no_new_forecast(tmp_path):
    prepare(tmp_path)
    run(context(tmp_path, foresee=lambda amounts: pytest.fail(f"asked for {amounts}")))


def test_two_horizons_are_refused():
    with pytest.raises(StageError, match="steps and hours exclude each other"):
        validate(Params, {"steps": 5, "hours": 1.0}, "params.yaml, section pretrain")


def test_overlapping_schedule_parts_are_refused():
    with pytest.raises(StageError, match="exceed 1"):
        validate(Params, {"warmup_fraction": 0.6, "warmdown_fraction": 0.6}, "params.yaml, section pretrain")
