"""Reinforcement: weights only where the model chose, no signal means no change, resumed runs ask the same problems."""

import json

import pytest
import torch

from model.checkpoint import load_weights, save_weights
from model.divergence import GuardOptions
from model.engine.row import Completion
from model.gpt import GPT, GPTConfig
from model.optim import OptimizerOptions
from model.train_loop import train
from model.train_options import LoopOptions, Schedule
from tasks import rl
from tasks._errors import Interrupted
from tasks.benchmarks.arithmetic import is_held_out, make_problem
from tasks.benchmarks.rollouts import RolloutBatches, RolloutSizes, advantages, to_batch
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.conversations.corpus_files import write_corpus

SMALL = {"steps": 2, "prompts_per_step": 2, "samples_per_prompt": 2, "max_reply_tokens": 8, "micro_batch_rows": 4}


def small_model(tokenizer, seed=0):
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        n_layers=1,
        d_model=32,
        n_heads=1,
        n_kv_heads=1,
        mlp_width=64,
        sequence_length=384,
    )
    model = GPT(config, compute_dtype="float32")
    model.init_weights(seed)
    return model


@pytest.fixture
def root(tmp_path):
    tokenizer = write_corpus(tmp_path)
    meta = {"stage": "sft", "step": 3, "tokens": 9, "tokenizer_sha256": tokenizer.sha256, "key": "k"}
    save_weights(tmp_path / "artifacts/sft/checkpoint", small_model(tokenizer), meta)
    return tmp_path


def test_weights_are_advantages_of_chosen_tokens_only():
    """Catches weights on prompts, forced tokens or padding, and a shift between targets and weights."""
    replies = [
        [
            Completion([5, 6, 7], "", [False, True, False], [0.0] * 3, "stop"),
            Completion([8], "", [False], [0.0], "stop"),
        ]
    ]
    batch = to_batch([[1, 2]], replies, [[0.5, -0.5]], pad_id=99)
    assert batch.ids_BT.tolist() == [[1, 2, 5, 6], [1, 2, 8, 99]]
    assert batch.targets_BT.tolist() == [[2, 5, 6, 7], [2, 8, 99, 99]]
    assert batch.weights_BT.tolist() == [[0.0, 0.5, 0.0, 0.5], [0.0, -0.5, 0.0, 0.0]]


def test_advantages_sum_to_zero_and_vanish_without_difference():
    assert advantages([1.0, 0.0, 0.0, 1.0]) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([0.1] * 3) == [0.0] * 3  # 0.1 - mean is not exactly 0 in floating point


def loop_options(steps):
    rates = OptimizerOptions(1e-3, 1e-3, 1e-3)
    return LoopOptions(Schedule(steps, 0.0, 1.0, 0.0), rates, GuardOptions(signed=True), micro_batch_rows=2)


class Quiet:
    def progress(self, *_):
        pass

    live = curve = note = figures = progress


def rollouts(model, tokenizer, reward):
    sizes = RolloutSizes(2, 2, 6, 1.0, None)
    return RolloutBatches(
        model, tokenizer, sizes, 0, lambda step, n: make_problem(f"{step}/{n}", "train", "train"), reward
    )


def test_a_step_without_signal_changes_nothing(tmp_path):
    """The 0/0 that gave NaN weights elsewhere: all rewards equal, so no token counts."""
    tokenizer = write_corpus(tmp_path)
    model = small_model(tokenizer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = rollouts(model, tokenizer, lambda problem, text: 0.0)
    train(model, batches, loop_options(2), resume_folder=tmp_path / "states", report=Quiet())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert [row["useful_groups"] for row in batches.history] == [0.0, 0.0]


def test_reward_makes_what_was_rewarded_more_likely(tmp_path):
    """Catches a sign error: replies that contain a chosen token are rewarded, its probability must rise."""
    tokenizer = write_corpus(tmp_path)
    model = small_model(tokenizer)
    wanted = set("abcdefghijklmnopqrstuvwxyz")
    sizes = RolloutSizes(4, 8, 4, 1.0, None)
    batches = RolloutBatches(
        model, tokenizer, sizes, 0, lambda step, n: make_problem(f"{step}/{n}", "train", "train"),
        lambda problem, text: sum(letter in wanted for letter in text) / 4,
    )  # fmt: skip
    rates = OptimizerOptions(0.02, 0.02, 0.02)
    options = LoopOptions(Schedule(25, 0.0, 0.5, 0.1), rates, GuardOptions(signed=True), micro_batch_rows=32)
    train(model, batches, options, resume_folder=tmp_path / "states", report=Quiet())
    rewards = [row["reward"] for row in batches.history]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5


def test_resumed_rollouts_are_those_of_an_uninterrupted_run(tmp_path):
    tokenizer = write_corpus(tmp_path)
    model = small_model(tokenizer)
    reward = lambda problem, text: float(len(text) % 2)  # noqa: E731
    whole, resumed = rollouts(model, tokenizer, reward), rollouts(model, tokenizer, reward)
    whole.next()
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    second, again = whole.next(), resumed.next()
    assert torch.equal(second.ids_BT, again.ids_BT)
    assert torch.equal(second.weights_BT, again.weights_BT)
    assert whole.history == resumed.history
    with pytest.raises(ValueError, match="seed"):
        resumed.load_state_dict({**whole.state_dict(), "seed": 5})


def test_problems_are_training_problems(root):
    ctx = make_context(root, Stage.RL, rl.Params(steps=0))
    rl.run(ctx)
    assert (ctx.out / "problems.jsonl").read_text() == ""
    for number in range(200):
        assert not is_held_out(rl.problem_of(0, 1, number).operands)


def test_zero_steps_pass_the_checkpoint_through_and_say_so(root, capsys):
    ctx = make_context(root, Stage.RL, rl.Params(steps=0), key="new")
    rl.run(ctx)
    before = (root / "artifacts/sft/checkpoint/model.safetensors").read_bytes()
    assert (ctx.out / "checkpoint/model.safetensors").read_bytes() == before
    meta = json.loads((ctx.out / "checkpoint/meta.json").read_text())
    assert (meta["stage"], meta["step"], meta["passed_through_from"], meta["key"]) == ("rl", 0, "sft", "new")
    assert "passed through" in capsys.readouterr().out


def test_a_run_writes_checkpoint_rewards_and_problems_and_resumes(root):
    """A stop after the first step and a second run give the bytes of one run."""

    def run(folder, stop_after=None):
        calls = {"n": 0}

        def stop():
            calls["n"] += 1
            return stop_after is not None and calls["n"] > stop_after

        ctx = make_context(folder, Stage.RL, rl.Params(**SMALL), stop_requested=stop)
        ctx.root = root
        rl.run(ctx)
        return ctx

    whole = run(root / "whole")
    with pytest.raises(Interrupted):
        run(root / "killed", stop_after=1)
    resumed = run(root / "killed")
    for name in ("checkpoint/model.safetensors", "rewards.csv", "problems.jsonl", "curve.csv"):
        assert (whole.out / name).read_bytes() == (resumed.out / name).read_bytes(), name
    assert len((whole.out / "problems.jsonl").read_text().splitlines()) == 4
    assert load_weights(whole.out / "checkpoint")[1]["stage"] == "rl"
    assert whole.figures["useful_groups"] >= 0
