"""What is running, told from files: processes that are alive, that are gone, that have another's number."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from flows import _status
from flows._status import describe, live_stages
from model.state_files import write_state
from tasks._params import StageParams
from tasks._progress import Progress
from tasks._runtime import Runtime
from tasks.stages import Stage
from tests.stage_context import make_context

FIGURES = {
    "step": 1200, "steps": 4600, "loss": 3.4123, "tokens_per_second": 12345.6, "mfu": 0.3124, "eta_seconds": 263.0,
    "memory_bytes": 1.23e9, "peak_memory_bytes": 1.44e9, "data_wait_share": 0.012, "skipped_steps": 2.0,
}  # fmt: skip


class Params(StageParams):
    pass


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def context(root, stage=Stage.PRETRAIN, progress_seconds=0.001):
    return make_context(root, stage, Params(), runtime=Runtime(progress_seconds=progress_seconds))


def change(root, stage=Stage.PRETRAIN, **fields):
    """Rewrite what a stage told of itself."""
    path = root / "work" / stage / "resume" / "live.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def test_a_stage_at_work_tells_step_loss_speed_time_left_memory_and_age(tmp_path):
    context(tmp_path).live(FIGURES)
    change(tmp_path, time=time.time() - 0.004)
    (found,) = live_stages(tmp_path)
    assert found.running and found.stage == "pretrain"
    text = " ".join(describe(found, 80))
    for words in ("running 26%", "step 1,200/4,600", "loss 3.412", "12,346 tok/s", "MFU 31.2%", "4 min 23 s left"):
        assert words in text
    for words in ("waits for data 1%", "2 steps skipped", "memory 1.2 GB (peak 1.4 GB)", "(0.0 s ago)"):
        assert words in text


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal_and_lose_no_word(tmp_path, columns):
    context(tmp_path).live(FIGURES)
    (found,) = live_stages(tmp_path)
    lines = describe(found, columns)
    assert max(map(len, lines)) <= columns and len(lines) == (3 if columns == 80 else 2)
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(describe(found, 1000)).split())


def test_a_stage_whose_process_is_gone_tells_where_it_resumes(tmp_path, gone):
    ctx = context(tmp_path)
    ctx.live(FIGURES)
    for step in (1100, 900):
        write_state(ctx.resume / "states", step, {"weight": torch.zeros(1)}, {})
    change(tmp_path, pid=gone, time=time.time() - 90)
    (found,) = live_stages(tmp_path)
    assert not found.running and found.saved_step == 1100
    text = " ".join(describe(found, 200))
    assert "stopped at step 1,200 of 4,600, 1 min 30 s ago" in text and "resumes at step 1,100" in text


def test_without_a_state_a_stopped_stage_starts_again(tmp_path, gone):
    context(tmp_path).live(FIGURES)
    change(tmp_path, pid=gone)
    (found,) = live_stages(tmp_path)
    assert "no state was saved: starts again" in " ".join(describe(found, 200))


def test_a_number_that_belongs_to_a_later_process_is_not_the_stage(tmp_path):
    """After a reboot every number is taken again."""
    context(tmp_path).live(FIGURES)
    change(tmp_path, time=time.time() - 1e7)  # long before this process began
    (found,) = live_stages(tmp_path)
    assert not found.running


def test_a_finished_stage_is_not_shown(tmp_path, gone):
    ctx = context(tmp_path)
    ctx.live(FIGURES)
    change(tmp_path, pid=gone)
    (ctx.resume / "complete.json").write_text("{}")
    assert live_stages(tmp_path) == []


def test_of_two_runs_the_newer_counts(tmp_path, gone):
    """Parameters were changed after the first had been stopped."""
    context(tmp_path).live(FIGURES)
    former = change(tmp_path, pid=gone, time=time.time() - 1000)
    (tmp_path / "work" / "pretrain" / "former").mkdir()
    former.rename(tmp_path / "work" / "pretrain" / "former" / "live.json")
    ctx = context(tmp_path)
    ctx.live(FIGURES | {"step": 1})
    (found,) = live_stages(tmp_path)
    assert found.running and found.values["step"] == 1


def test_another_machine_is_believed_while_it_writes(tmp_path):
    context(tmp_path).live(FIGURES)
    change(tmp_path, host="elsewhere", pid=2**30)
    assert live_stages(tmp_path)[0].running
    change(tmp_path, time=time.time() - 100)
    assert not live_stages(tmp_path)[0].running


def test_a_torn_or_foreign_file_is_passed_over(tmp_path):
    context(tmp_path).live(FIGURES)
    context(tmp_path, Stage.SFT).live(FIGURES)
    (tmp_path / "work" / "sft" / "resume" / "live.json").write_text('{"stage": "s')
    assert [found.stage for found in live_stages(tmp_path)] == ["pretrain"]


def test_steps_say_how_far_it_is_where_units_are_an_estimate(capsys):
    """Replies end when they end: twice the tokens that were expected are still half of the steps."""
    with Progress("rl", 100, "tok", 0.0) as bar:
        bar.update(40)
        bar.show({"step": 1, "steps": 2})
        bar.update(200)
    assert [line.split("%")[0] for line in capsys.readouterr().out.splitlines()] == ["rl: 40", "rl: 50", "rl: 50"]


def test_counted_work_is_shown_too(tmp_path, capsys):
    with context(tmp_path, Stage.SHARDS).progress("shards: pack", 40, "tokens") as bar:
        time.sleep(0.002)
        bar.update(10)
    (found,) = live_stages(tmp_path)
    text = " ".join(describe(found, 200))
    assert "running 25%" in text and "shards: pack   10 of 40 tokens" in text
    assert "tokens/s" in text and "left" in text
    assert capsys.readouterr().out.startswith("shards: pack: 25%, 10 of 40 tokens, ")


def test_live_figures_are_written_once_a_second_and_whole(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tasks._progress.time.monotonic", lambda: now[0])
    ctx = context(tmp_path)
    path = ctx.resume / "live.json"
    written = []
    for _ in range(8):
        ctx.live({"step": len(written), "steps": 4, "now": now[0]})
        if (read := json.loads(path.read_text())["values"]["now"]) not in written:
            written.append(read)
        now[0] += 0.25
    assert written == [100.0, 101.0]
    assert [p.name for p in ctx.resume.iterdir() if "live" in p.name] == ["live.json"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    ctx = context(tmp_path)
    (ctx.resume / "live.json").mkdir()
    ctx.live(FIGURES)
    assert live_stages(tmp_path) == []


def test_the_display_shows_the_figures_of_the_loop_and_a_resumed_run_begins_where_it_is(tmp_path, capsys):
    ctx = context(tmp_path)
    with ctx.progress("pretrain", 4600 * 10, "tok") as bar:
        ctx.live(FIGURES)
        time.sleep(0.002)
        bar.update(0, loss="unused")
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("pretrain: 26%, step 1,200/4,600, loss 3.412, 12,346 tok/s, 4 min 23 s left, MFU 31.2%")


def test_of_slow_steps_the_file_holds_the_newest(tmp_path, monkeypatch):
    """A step of ten seconds is counted first; its figures, told a moment later, must not wait for the next one."""
    now = [100.0]
    monkeypatch.setattr("tasks._progress.time.monotonic", lambda: now[0])
    ctx = context(tmp_path)
    with ctx.progress("pretrain", 4600 * 10, "tok") as bar:
        for step in (1, 2):
            now[0] += 10
            bar.update(10)
            ctx.live(FIGURES | {"step": step})
            assert live_stages(tmp_path)[0].values["step"] == step


def test_watching_prints_again_until_interrupted(tmp_path, monkeypatch, capsys):
    context(tmp_path).live(FIGURES)
    seconds = []

    def sleep(duration):
        seconds.append(duration)
        if len(seconds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_status.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        _status.watch(tmp_path)
    assert seconds == [2.0, 2.0] and capsys.readouterr().out.count("step 1,200/4,600") == 2


def test_nothing_heavy_is_imported_to_look(tmp_path):
    code = "import sys, flows._status; print([m for m in ('prefect', 'torch', 'dvc', 'mlflow') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=_status.ROOT, env=os.environ, check=True
    )
    assert done.stdout.strip() == "[]"
