"""Training in two processes against one: the same rows and losses, a lost process, errors, an end with the parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from model.checkpoint import load_state, load_state_info, save_weights
from model.rank_launcher import Launch
from model.train_loop import TrainingInterrupted
from model.train_worker import TrainJob, run_job
from tasks._ranks import run_ranks
from tests.model.rank_processes import on_ranks
from tests.model.small_runs import Recorder, options, write_text_rows
from tests.model.test_gpt import randomised, small_config

BYTES = [1] * 183 + [0] * 9


def make_job(folder: Path, **changes) -> TrainJob:
    rows = folder / "rows"
    if not rows.exists():
        write_text_rows(rows)
    values = {
        "config": small_config(compute_dtype="float32"),
        "rows": rows,
        "rows_per_step": 4,
        "init": None,
        "options": options(5),
    }
    settings = {"bytes_per_id": BYTES, "eval_rows": 4, "threads": 1}
    return TrainJob(**(values | settings | {"resume_folder": folder / "states"} | changes))


def test_a_job_survives_its_file(tmp_path):
    job = make_job(tmp_path, init=tmp_path / "checkpoint")
    job.write(tmp_path / "job.json")
    assert TrainJob.read(tmp_path / "job.json") == job


def kill_rank(number: int) -> None:
    """SIGKILL for one rank of the group this process has started."""
    for process in psutil.Process().children(recursive=True):
        if process.environ().get("LOCAL_RANK") == str(number):
            process.kill()
            return
    raise AssertionError(f"no rank {number} runs")


def test_two_ranks_one_of_them_killed_train_the_same_model_as_one(tmp_path):
    """Also the report path: a rank's mean of means, a lost sum, equal rows on both ranks, a lost state all show."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    start = randomised(
        small_config(compute_dtype="float32")
    )  # initial weights would do, but some of their first gradients are pure rounding
    save_weights(tmp_path / "start", start, {})
    settings = {"init": tmp_path / "start", "options": options(40, log_every=1, checkpoint_seconds=0.1)}
    alone, expected = run_job(make_job(tmp_path / "one", **settings), Recorder(), lambda: False)
    recorder, job = Recorder(), make_job(tmp_path / "two", **settings)
    killed: list[int] = []

    def kill_once() -> bool:
        if not killed and len(recorder.steps) >= 2:
            kill_rank(1)
            killed.append(recorder.steps[-1])
        return False

    run_ranks(job, 2, recorder, kill_once)
    tensors, info = load_state(job.resume_folder)
    assert info["position"]["finished"]
    assert killed
    assert killed[0] < 40, "killed too late to show anything"
    assert sorted(set(recorder.steps)) == list(range(1, 41))
    assert any("a training process was lost" in note for note in recorder.notes)
    assert any(note.startswith("resumed at step") for note in recorder.notes)
    rows = {row["step"]: row["loss"] for row in recorder.rows}
    assert rows == {row["step"]: row["loss"] for row in info["position"]["curve"]}
    assert info["position"]["tokens"] == expected.tokens
    for name, weight in alone.state_dict().items():
        # Muon's iteration runs in bfloat16, so the last bits of a gradient do not stay the last bits of its update.
        moved = (weight - start.state_dict()[name]).norm()
        assert moved > 0
        assert (tensors[f"model/{name}"] - weight).norm() < 0.05 * moved, name
    values = [row["loss"] for row in info["position"]["curve"]]
    assert values == pytest.approx([row["loss"] for row in expected.curve], rel=1e-5)
    assert info["position"]["evaluation"]["val_bpb"] == pytest.approx(expected.evaluation["val_bpb"], rel=1e-5)
    run_ranks(job, 2, recorder, lambda: pytest.fail("started again"))  # finished: nothing to do


def test_a_stop_request_reaches_the_ranks_and_one_process_may_finish_the_run(tmp_path):
    """Saved by two ranks, finished by one: the state counts global rows."""
    recorder, job = Recorder(), make_job(tmp_path, options=options(4000, checkpoint_seconds=1e9))
    with pytest.raises(TrainingInterrupted, match="stopped on request at step"):
        run_ranks(job, 2, recorder, lambda: len(recorder.steps) >= 3)
    at = load_state_info(job.resume_folder)["position"]["step"]
    assert 3 <= at < 4000
    assert load_state_info(job.resume_folder)["batches"]["rows_taken"] == 4 * at


def run_quietly(job: TrainJob) -> list[float]:
    _, result = run_job(job, Recorder(), lambda: False)
    return [row["loss"] for row in result.curve]


def test_a_sharded_model_goes_through_the_same_loop(tmp_path):
    """Trained by two ranks that hold half of it each; its states are whole, so one process takes over."""
    start = randomised(small_config(compute_dtype="float32"))
    save_weights(tmp_path / "start", start, {})
    loop = options(6, log_every=1, eval_every=3, matrix_optimizer="adamw", matrix_lr=0.002)  # products in float32
    settings = {"init": tmp_path / "start", "options": loop}
    (tmp_path / "one").mkdir()
    alone = run_quietly(make_job(tmp_path / "one", **settings))
    job = make_job(tmp_path, shard_model=True, **settings)
    first, second = on_ranks(2, run_quietly, job)
    assert first == second == pytest.approx(alone, rel=1e-5)
    model, result = run_job(job, Recorder(), lambda: pytest.fail("not finished"))
    assert result.resumed_from == 6
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight)


def test_errors_of_a_rank_reach_the_user(tmp_path):
    job = make_job(tmp_path, config=small_config(sequence_length=8))
    with pytest.raises(ValueError, match=r"rows of 16 tokens .* do not fit the model \(sequence_length=8"):
        run_ranks(job, Launch(1, max_restarts=1), Recorder(), lambda: False)
    log = (job.resume_folder / "ranks.log").read_text()
    assert log.count("do not fit the model") == 1, "a job that was refused must not be tried again"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_ranks_die_with_the_process_that_started_them(tmp_path):
    """SIGKILL of the stage leaves no process behind."""
    job = make_job(tmp_path, options=options(100_000))
    job.write(tmp_path / "outer.json")
    program = (
        "import sys; from pathlib import Path; from model.train_worker import TrainJob;"
        "from tasks._ranks import run_ranks;"
        "from tests.model.small_runs import Recorder;"
        "run_ranks(TrainJob.read(Path(sys.argv[1])), 2, Recorder(), lambda: False)"
    )
    root = Path(__file__).resolve().parents[2]
    stage = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "outer.json")], env=os.environ | {"PYTHONPATH": str(root)}
    )
    try:
        reports = job.resume_folder / "reports.jsonl"
        deadline = time.monotonic() + 120
        while not (reports.exists() and reports.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        family = psutil.Process(stage.pid).children(recursive=True)
        assert len(family) >= 3  # launcher and two ranks
    finally:
        stage.send_signal(signal.SIGKILL)
        stage.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []


def test_another_shape_than_the_checkpoint_is_refused(tmp_path):
    save_weights(tmp_path / "checkpoint", randomised(small_config(mlp_width=128)), {})
    with pytest.raises(ValueError, match="was trained as"):
        run_job(make_job(tmp_path, init=tmp_path / "checkpoint"), Recorder(), lambda: False)


def test_training_starts_from_the_given_checkpoint(tmp_path):
    start = randomised(small_config(compute_dtype="float32"), seed=5)
    save_weights(tmp_path / "checkpoint", start, {})
    still = options(1, matrix_lr=1e-12, embedding_lr=1e-12, head_lr=1e-12)
    model, _ = run_job(make_job(tmp_path, init=tmp_path / "checkpoint", options=still), Recorder(), lambda: False)
    for found, expected in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
