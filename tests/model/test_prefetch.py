"""Reading ahead changes when a batch is read, never which one comes next."""

import gc
import threading
import time

import pytest
import torch

from model.batches import RowBatches
from model.gpt import GPT
from model.prefetch import Prefetcher
from model.train_loop import TrainingInterrupted, train
from tests.model.small_runs import Recorder, options, write_text_rows
from tests.model.test_batches import numbers, write
from tests.model.test_gpt import small_config


def wait_for(condition):
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_batches_and_positions_are_those_of_the_source(tmp_path, ahead):
    write(tmp_path)
    plain = RowBatches(tmp_path, "train", 3, seed=1)
    ahead_of = Prefetcher(RowBatches(tmp_path, "train", 3, seed=1), ahead)
    for _ in range(12):
        assert numbers(ahead_of.next()) == numbers(plain.next())
        assert ahead_of.state_dict() == plain.state_dict()
    ahead_of.close()
    assert not alive()


def test_a_position_taken_while_batches_wait_resumes_with_the_next_one(tmp_path):
    """Bug it catches: saving the source's own position would skip the batches that were read but never trained on."""
    write(tmp_path)
    first = Prefetcher(RowBatches(tmp_path, "train", 2, seed=1), ahead=3)
    first.next()
    wait_for(lambda: first.source.rows_taken >= 8)  # one handed out, three wait
    state = first.state_dict()
    assert state["rows_taken"] == 2
    expected = [numbers(first.next()) for _ in range(4)]
    other = Prefetcher(RowBatches(tmp_path, "train", 2, seed=1))
    other.next()
    other.load_state_dict(state)
    assert [numbers(other.next()) for _ in range(4)] == expected
    first.close()
    other.close()


def test_closing_gives_the_source_back_behind_the_last_batch_handed_out(tmp_path):
    write(tmp_path)
    source = RowBatches(tmp_path, "train", 2, seed=1)
    plain = RowBatches(tmp_path, "train", 2, seed=1)
    ahead_of = Prefetcher(source, ahead=2)
    assert numbers(ahead_of.next()) == numbers(plain.next())
    ahead_of.close()
    assert source.rows_taken == 2
    assert numbers(ahead_of.next()) == numbers(plain.next())  # and it goes on after close
    ahead_of.close()


def test_a_state_of_other_rows_is_refused_and_the_position_stays(tmp_path):
    write(tmp_path)
    ahead_of = Prefetcher(RowBatches(tmp_path, "train", 2, seed=1))
    ahead_of.next()
    before = ahead_of.state_dict()
    with pytest.raises(ValueError, match="seed=9"):
        ahead_of.load_state_dict(before | {"seed": 9})
    assert ahead_of.state_dict() == before


class Failing:
    """Fails at its third batch."""

    prefetchable = True

    def __init__(self):
        self.taken = 0

    def next(self):
        if self.taken == 2:
            raise ValueError("a row holds id 9 >= 5")
        self.taken += 1
        return self.taken

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]


def test_an_error_of_the_source_arrives_where_its_batch_is_asked_for():
    ahead_of = Prefetcher(Failing())
    assert [ahead_of.next(), ahead_of.next()] == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="holds id 9"):
            ahead_of.next()
    assert ahead_of.state_dict() == {"taken": 2}


def test_a_dropped_prefetcher_ends_its_thread(tmp_path):
    write(tmp_path)
    ahead_of = Prefetcher(RowBatches(tmp_path, "train", 2, seed=1))
    ahead_of.next()
    assert alive()
    del ahead_of
    gc.collect()
    wait_for(lambda: not alive())


def test_batches_that_depend_on_the_model_are_not_read_ahead():
    class Rollouts(Failing):
        prefetchable = False

    with pytest.raises(ValueError, match="Rollouts with ahead=2; allowed"):
        Prefetcher(Rollouts())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_reach_the_device_unchanged(tmp_path):
    write(tmp_path)
    plain = RowBatches(tmp_path, "train", 3, seed=1)
    ahead_of = Prefetcher(RowBatches(tmp_path, "train", 3, seed=1), device=torch.device("cuda", 0))
    for _ in range(4):
        batch, expected = ahead_of.next(), plain.next()
        assert batch.ids_BT.is_pinned()
        moved = batch.to(torch.device("cuda"))
        assert torch.equal(moved.targets_BT.cpu(), expected.targets_BT)
        assert torch.equal(moved.weights_BT.cpu(), expected.weights_BT)
    ahead_of.close()


def trained(folder, source, steps=12, stop_after_steps=None):
    """Weights after a run of the loop; None when it was stopped before its end."""
    model = GPT(small_config(), compute_dtype="float32")
    model.init_weights(0)
    calls = []

    def stop_requested():
        calls.append(None)
        return stop_after_steps is not None and len(calls) > stop_after_steps

    try:
        train(model, source, options(steps), resume_folder=folder, report=Recorder(), stop_requested=stop_requested)
    except TrainingInterrupted:
        return None
    return list(model.parameters())


def test_training_with_a_prefetcher_equals_training_without_also_when_it_is_resumed(tmp_path):
    """Bit for bit; the second session starts from a position that was saved while batches waited."""
    rows = write_text_rows(tmp_path / "rows")
    expected = trained(tmp_path / "plain", RowBatches(rows, "train", 5, seed=1))
    for name in ("first", "second"):
        source = Prefetcher(RowBatches(rows, "train", 5, seed=1), ahead=3)
        found = trained(tmp_path / "ahead", source, stop_after_steps=7 if name == "first" else None)
        source.close()
        assert (found is None) == (name == "first")
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
