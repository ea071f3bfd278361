"""The loop: schedule borders, one gradient for every split of a batch, exact resume, states by the clock."""

import itertools
import math

import numpy as np
import pytest
import torch

from model.batches import RowBatches
from model.checkpoint import load_state_info
from model.gpt import GPT
from model.train_loop import Schedule, TrainingInterrupted, batch_gradients, train
from tests.model.small_runs import (
    Constant,
    Recorder,
    options,
    run,
    stop_after,
    uneven_batch,
    untimed,
    write_text_rows,
)
from tests.model.test_gpt import randomised, small_config


def test_schedule_at_the_steps_where_it_changes():
    schedule = Schedule(steps=100, warmup_fraction=0.1, warmdown_fraction=0.4, final_lr_fraction=0.05)
    factors = [schedule.lr_factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[8] == pytest.approx(0.9)
    assert factors[9] == factors[10] == factors[59] == 1.0
    assert factors[60] == 1.0  # forty steps are left: the first of the warm-down
    assert factors[61] == pytest.approx(1 - 0.95 / 40)
    assert factors[99] == pytest.approx(1 / 40 + (1 - 1 / 40) * 0.05)
    assert max(factors) == 1.0
    assert schedule.decay_factor(0) == 1.0
    assert schedule.decay_factor(100) == pytest.approx(0.0)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_schedules_have_a_positive_rate_at_every_step(steps):
    """Bug it catches: rounding makes warm-up and warm-down overlap, or divides by zero, in tiny runs."""
    schedule = Schedule(steps, 0.5, 0.5, 0.0)
    assert all(0 < schedule.lr_factor(step) <= 1 for step in range(steps))


def test_a_schedule_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="exceed 1"):
        Schedule(10, 0.5, 0.6)


def gradients(model, batch, micro_batch_rows):
    model.zero_grad()
    loss = batch_gradients(model, batch, micro_batch_rows, float(batch.weights_BT.count_nonzero()))
    return loss, [weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_any_split_into_micro_batches_gives_the_same_gradient(rows):
    """A mean of micro-batch means passes with equal counts and fails here; a row of zeros gives no NaN."""
    model, batch = randomised(small_config()), uneven_batch()
    whole_loss, whole = gradients(model, batch, 6)
    loss, split = gradients(model, batch, rows)
    torch.testing.assert_close(loss, whole_loss, rtol=1e-5, atol=1e-6)
    assert max(g.abs().max() for g in whole) > 1e-3
    for got, want in zip(split, whole, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_it_learns_and_the_curve_tells_how(tmp_path):
    rows = write_text_rows(tmp_path / "rows")
    _, result, recorder = run(tmp_path / "run", rows, options(30, log_every=10))
    assert result.steps == 30
    assert result.tokens == 30 * 4 * 16
    assert recorder.losses[0] == pytest.approx(math.log(192), abs=0.05)
    assert result.final_loss < 3.0
    assert [row["step"] for row in recorder.rows] == [10, 20, 30]
    assert recorder.rows[1]["loss"] == pytest.approx(np.mean(recorder.losses[10:20]))
    assert {"step", "tokens", "loss", "lr", "grad_norm_matrices", "update_ratio_head", "lr_embedding"} <= {
        *recorder.rows[0]
    }
    assert 0 < recorder.rows[0]["update_ratio_matrices"] < 1


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    """Weights, momentum, schedule, position and curve agree. Evaluation in between must not disturb it either."""
    rows = write_text_rows(tmp_path / "rows")
    loop = options(12, eval_every=5, log_every=4)

    def evaluate(model):
        return {"val_bpb": model.lm_head.weight.double().sum().item()}

    whole, expected, _ = run(tmp_path / "whole", rows, loop, evaluate)
    for stop_at in (3, 8):
        with pytest.raises(TrainingInterrupted, match=f"step {3 if stop_at == 3 else 11} of 12"):
            run(tmp_path / "parts", rows, loop, evaluate, stop_after(stop_at))
    other_start = GPT(small_config(), compute_dtype="bfloat16")
    other_start.init_weights(99)  # everything must come from the state
    torch.manual_seed(123)
    resumed, result, recorder = run(tmp_path / "parts", rows, loop, evaluate, model=other_start)
    assert result.resumed_from == 11
    assert recorder.steps == [12]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [untimed(row) for row in result.curve] == [untimed(row) for row in expected.curve]
    assert [row["step"] for row in result.curve] == [4, 5, 8, 10, 12]
    assert [row["step"] for row in result.curve if "val_bpb" in row] == [5, 10, 12]


def test_a_finished_run_returns_at_once(tmp_path):
    rows = write_text_rows(tmp_path / "rows")
    trained, first, _ = run(tmp_path / "run", rows, evaluate=lambda model: {"val_bpb": 1.5})
    again, second, recorder = run(tmp_path / "run", rows, evaluate=lambda model: pytest.fail("evaluated again"))
    assert recorder.steps == []
    assert (second.tokens, second.evaluation, second.resumed_from) == (first.tokens, {"val_bpb": 1.5}, 8)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))
    assert recorder.rows == first.curve


def test_an_evaluation_that_fails_costs_no_step(tmp_path):
    """Bug it catches: saving only after the evaluation at the end lost a whole run to an evaluation out of memory."""
    rows = write_text_rows(tmp_path / "rows")
    with pytest.raises(MemoryError):
        run(tmp_path / "run", rows, evaluate=lambda model: (_ for _ in ()).throw(MemoryError()))
    _, result, recorder = run(tmp_path / "run", rows, evaluate=lambda model: {"val_bpb": 2.0})
    assert recorder.steps == []
    assert result.curve[-1]["val_bpb"] == 2.0


def test_checkpoints_follow_the_clock(tmp_path):
    """With no seconds between them every step saves; the curve is published only as far as it is on disk."""
    rows, published = write_text_rows(tmp_path / "rows"), []

    class OnDisk(Recorder):
        def curve(self, rows):
            published.append((len(rows), len(load_state_info(tmp_path / "run")["position"]["curve"])))

    model = randomised(small_config())
    batches = RowBatches(rows, "train", 4, seed=3)
    train(model, batches, options(checkpoint_seconds=0.0), resume_folder=tmp_path / "run", report=OnDisk())
    assert sum(new for new, _ in published) == 8
    shown = itertools.accumulate(new for new, _ in published)
    assert all(count <= on_disk for count, (_, on_disk) in zip(shown, published, strict=True))


def test_changed_options_are_refused_and_changed_code_is_reported(tmp_path):
    rows = write_text_rows(tmp_path / "rows")
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "run", rows, options(code_key="a"), stop=stop_after(2))
    with pytest.raises(ValueError, match=r"optimizer.matrix_lr=0.02, now optimizer.matrix_lr=0.5"):
        run(tmp_path / "run", rows, options(code_key="a", matrix_lr=0.5))
    with pytest.raises(ValueError, match="other shapes"):
        run(tmp_path / "run", rows, options(code_key="a"), model=randomised(small_config(mlp_width=128)))
    _, result, recorder = run(tmp_path / "run", rows, options(code_key="b", micro_batch_rows=2))
    assert result.resumed_from == 2
    assert recorder.values == {"resumed_across_code_change": 1}


def test_a_step_without_supervised_tokens_changes_nothing(tmp_path):
    """Policy updates with equal rewards: 0 / 0 must not become NaN, and momentum alone must not move weights."""
    empty = uneven_batch()
    empty.weights_BT.zero_()
    model = randomised(small_config())
    before = [weight.detach().clone() for weight in model.parameters()]
    result = train(model, Constant(empty), options(3), resume_folder=tmp_path, report=Recorder())
    assert result.final_loss == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_samples_are_shown_when_due(tmp_path):
    rows, recorder = write_text_rows(tmp_path / "rows"), Recorder()
    model, batches = randomised(small_config()), RowBatches(rows, "train", 4, seed=3)
    loop, shown = options(6, sample_every=4), []
    sample = lambda model, step: shown.append((model.training, step))  # noqa: E731
    train(model, batches, loop, resume_folder=tmp_path / "run", report=recorder, sample=sample)
    assert shown == [(True, 4)]
