"""What keeps a run alive: skipped steps, rollbacks, halved micro-batches, time limits, damaged states."""

import json
import math
import time

import pytest
import torch

from model.batches import RowBatches
from model.checkpoint import load_state_info
from model.divergence import GuardOptions
from model.gpt import GPT
from model.state_store import StateStore
from model.train_loop import Schedule, TrainingDiverged, TrainingInterrupted
from tests.model.small_runs import (
    Constant,
    broken_batch,
    options,
    run,
    stop_after,
    train_on,
    uneven_batch,
    write_text_rows,
)
from tests.model.test_gpt import randomised, small_config


def test_one_step_without_a_finite_loss_is_left_out_and_told(tmp_path):
    """One damaged row must cost one step: weights and momentum stay, the run ends as if the batch had been missing."""
    good = uneven_batch()
    still, moving = options(3, weight_decay=0.0), Constant(good, broken_batch(), good)
    model, result, recorder = train_on(moving, tmp_path, still)
    assert (result.steps, result.skipped_steps, result.rollbacks) == (3, 1, 0)
    assert math.isnan(recorder.losses[1])
    assert any("step 2" in note and "nan" in note for note in recorder.notes)
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert all(math.isfinite(row["loss"]) for row in result.curve if "loss" in row)


def test_rows_of_a_skipped_step_are_named(tmp_path):
    rows = write_text_rows(tmp_path / "rows")
    batches = RowBatches(rows, "train", 4, seed=3)
    expected = RowBatches(rows, "train", 4, seed=3).next().row_numbers

    class Broken:
        def next(self):
            batch = batches.next()
            batch.weights_BT = torch.full(batch.weights_BT.shape, math.nan)
            return batch

        def state_dict(self):
            return batches.state_dict()

    _, _, recorder = train_on(Broken(), tmp_path / "run", options(1))
    assert len(expected) == 4
    assert any(f"rows {', '.join(map(str, expected))}" in note for note in recorder.notes)


class BrokenAfter:
    """Good batches, and from some step on only damaged ones, until the run has gone back `heals_after` times."""

    def __init__(self, step, heals_after):
        self.step, self.heals_after, self.taken, self.loads = step, heals_after, 0, 0

    def next(self):
        self.taken += 1
        damaged = self.taken > self.step and self.loads < self.heals_after
        return broken_batch() if damaged else uneven_batch()

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken, self.loads = state["taken"], self.loads + 1


def test_a_run_that_stays_lost_goes_back_with_lower_rates_and_recovers(tmp_path):
    loop = options(60, checkpoint_seconds=0.0, guard=GuardOptions(rollbacks=2))
    _, result, recorder = train_on(BrokenAfter(5, heals_after=1), tmp_path, loop)
    assert (result.steps, result.rollbacks) == (60, 1)
    assert result.skipped_steps > 0
    assert any("went back to step 4, learning rates times 0.5" in note for note in recorder.notes)
    schedule = loop.schedule
    assert result.curve[-1]["lr"] == pytest.approx(0.02 * schedule.lr_factor(59) * 0.5)
    assert load_state_info(tmp_path)["position"]["rollbacks"] == 1


def test_a_run_that_is_lost_again_and_again_fails_with_the_saved_state_intact(tmp_path):
    loop = options(200, checkpoint_seconds=0.0, guard=GuardOptions(rollbacks=2))
    with pytest.raises(TrainingDiverged, match=r"learning_rate_scale"):
        train_on(BrokenAfter(5, heals_after=99), tmp_path, loop)
    assert load_state_info(tmp_path)["position"]["step"] == 5
    assert "NaN" not in json.dumps(load_state_info(tmp_path))


def test_one_odd_batch_stops_nothing(tmp_path):
    """A batch of four rows that all came from the harder part of a mixture ended a midtraining run."""
    quiet, loud = uneven_batch(), uneven_batch(seed=5)
    quiet.weights_BT.abs_().mul_(0.01)
    loud.weights_BT.abs_().mul_(10)
    source = Constant(*[quiet] * 25, loud, quiet, *[loud] * 2, *[quiet] * 11)
    frozen = {"matrix_lr": 0.0, "embedding_lr": 0.0, "head_lr": 0.0}
    _, result, _ = train_on(source, tmp_path, options(40, **frozen))
    assert (result.steps, result.rollbacks) == (40, 0)


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(tmp_path, monkeypatch):
    """Same batch, same loss: a device that is too small costs speed, not the run, nor what is learnt.

    Matrices stand still: making a gradient orthogonal in bfloat16 would magnify the rounding of another split.
    """
    rows, forward = write_text_rows(tmp_path / "rows"), GPT.forward

    def small_device(model, ids_BT):
        if ids_BT.size(0) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return forward(model, ids_BT)

    def model():
        return randomised(small_config(compute_dtype="float32"))

    _, _, whole = run(tmp_path / "whole", rows, options(4, micro_batch_rows=4, matrix_lr=0.0), model=model())
    monkeypatch.setattr(GPT, "forward", small_device)
    _, result, recorder = run(tmp_path / "split", rows, options(4, micro_batch_rows=4, matrix_lr=0.0), model=model())
    assert (result.steps, result.micro_batch_rows) == (4, 1)
    assert sum("out of memory" in note for note in recorder.notes) == 2  # 4 -> 2 -> 1, once
    assert load_state_info(tmp_path / "split")["position"]["micro_batch_rows"] == 1
    assert recorder.losses == pytest.approx(whole.losses, abs=1e-5)


def test_a_wall_clock_horizon_ends_on_time_at_the_final_rate(tmp_path):
    """The plan knew nothing about the speed: 100,000 steps were guessed, the warm-down still ends with the time."""
    rows = write_text_rows(tmp_path / "rows")
    loop = options(schedule=Schedule(100_000, 0.0002, 0.5, 0.05), horizon_seconds=1.5, log_every=1)
    run(tmp_path / "imports", rows, options(1))  # what torch imports at the first step would take most of the time
    started = time.monotonic()
    _, result, _ = run(tmp_path / "run", rows, loop)
    assert time.monotonic() - started < 3.0
    assert result.steps < 100_000
    assert load_state_info(tmp_path / "run")["position"]["planned_steps"] == result.steps
    rates = [row["lr"] for row in result.curve]
    assert rates[-1] < 0.02 * 0.3
    assert max(rates) == 0.02


def test_a_time_limit_saves_and_stops(tmp_path):
    rows = write_text_rows(tmp_path / "rows")
    with pytest.raises(TrainingInterrupted, match=r"time limit of 0.2 s reached at step \d+ of 100000; state is saved"):
        run(tmp_path / "run", rows, options(100_000, limit_seconds=0.2))
    assert load_state_info(tmp_path / "run")["position"]["step"] > 0


def test_the_best_state_outlives_the_newest(tmp_path):
    rows, values = write_text_rows(tmp_path / "rows"), iter([2.0, 1.0, 3.0, 4.0, 5.0])
    loop = options(10, eval_every=2, keep_states=1, checkpoint_seconds=0.0)
    _, result, _ = run(tmp_path / "run", rows, loop, lambda model: {"val_bpb": next(values)})
    assert result.best == {"step": 4, "value": 1.0}
    _, best = StateStore(tmp_path / "run").load(best=True)
    assert best["position"]["step"] == 4


def test_a_damaged_newest_state_falls_back_to_the_one_before(tmp_path):
    rows = write_text_rows(tmp_path / "rows")
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "run", rows, options(12, checkpoint_seconds=0.0), stop=stop_after(6))
    newest = sorted(tmp_path.glob("run/step_*"))[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    _, result, recorder = run(tmp_path / "run", rows, options(12))
    assert result.resumed_from < 6
    assert (result.steps, result.tokens) == (12, 12 * 4 * 16)
    assert any(str(newest.parent) in note for note in recorder.notes)


def test_a_run_killed_between_saving_and_evaluating_evaluates_when_it_goes_on(tmp_path):
    """The state before an evaluation is of a step that was not evaluated: its value would be missing in the curve."""
    rows, loop = write_text_rows(tmp_path / "rows"), options(8, eval_every=4)

    def killed(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", rows, loop, killed)
    _, result, recorder = run(tmp_path / "run", rows, loop, lambda model: {"val_bpb": 1.0})
    assert (result.resumed_from, recorder.steps) == (4, [5, 6, 7, 8])
    assert [row["step"] for row in result.curve if "val_bpb" in row] == [4, 8]
    assert [row["step"] for row in recorder.rows if "val_bpb" in row] == [4, 8]


def test_saving_and_evaluating_are_no_part_of_a_step(tmp_path, monkeypatch):
    """Bug it catches: tokens per second fell with every evaluation, and the forecast of a step learnt from that."""
    rows = write_text_rows(tmp_path / "rows")
    run(tmp_path / "imports", rows, options(1))
    loop = options(6, eval_every=1, checkpoint_seconds=0.0)
    _, result, _ = run(tmp_path / "run", rows, loop, lambda model: {"val_bpb": time.sleep(0.2) or 1.0})
    assert result.seconds < 0.8  # five evaluations took a second
