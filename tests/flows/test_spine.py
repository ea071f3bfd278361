"""The spine on toy stages: DVC and the flow agree, kills lose nothing, MLflow has one run per stage."""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tasks.stages import Stage
from tests.toy_repository import ToyRepository

AFTER_SFT = ["sft", "rl", "evaluation", "gate", "export", "inference", "chat"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ToyRepository:
    """A toy repository on which `dvc repro` has run once."""
    toy = ToyRepository(tmp_path_factory.mktemp("toy") / "repository")
    done = toy.repro()
    assert toy.ran(done.stdout) == [str(stage) for stage in Stage]
    return toy


@pytest.fixture
def toy(built: ToyRepository, tmp_path: Path) -> Iterator[ToyRepository]:
    """A copy of the built repository, for tests that change it; none may leave a process behind."""
    copy = ToyRepository.__new__(ToyRepository)
    copy.root = tmp_path / "repository"
    shutil.copytree(built.root, copy.root)
    yield copy
    assert wait_until(lambda: not orphans(copy), 3), orphans(copy)


def keys_in_workspace(toy: ToyRepository) -> dict[str, str]:
    code = (
        "import json; from tasks import _keys; from tasks.stages import Stage;"
        "print(json.dumps({s: [_keys.current(s, status=False).key, _keys.recorded(s)] for s in map(str, Stage)}))"
    )
    return json.loads(toy.python("-c", code).stdout)


def test_key_from_the_workspace_equals_key_from_the_lock(built: ToyRepository) -> None:
    keys = keys_in_workspace(built)
    assert set(keys) == {str(s) for s in Stage}
    assert all(workspace == lock for workspace, lock in keys.values()), keys


def test_after_dvc_repro_the_flow_finds_every_stage_cached_and_dvc_stays_clean(toy: ToyRepository) -> None:
    flow = toy.python("-m", "flows", "run")
    assert flow.stderr.count("Finished in state Cached") == len(Stage)
    assert "every stage was up to date" in flow.stdout
    assert toy.ran(toy.repro().stdout) == []


def test_changed_sft_parameter_runs_sft_and_its_dependants_only_and_plan_says_so(toy: ToyRepository) -> None:
    toy.params(sft={"steps": 13})
    plan = toy.python("-m", "flows", "plan").stdout
    assert [line.split()[2] for line in plan.splitlines() if line.startswith("run ")] == AFTER_SFT
    assert "sft" in plan and "changed" in plan
    flow = toy.python("-m", "flows", "run")
    assert flow.stderr.count("Finished in state Cached") == len(Stage) - len(AFTER_SFT)
    assert sorted(toy.ran(flow.stdout + flow.stderr)) == sorted(AFTER_SFT)
    assert toy.ran(toy.repro().stdout) == []


@pytest.mark.parametrize(
    ("path", "first"),
    [("data/text/new.txt", "corpus"), ("data/chat/new.jsonl", "midtrain"), ("tasks/gate.py", "gate")],
)
def test_touched_dependency_makes_its_stage_stale(toy: ToyRepository, path: str, first: str) -> None:
    with (toy.root / path).open("a") as file:
        file.write("\n# changed\n")
    stale = json.loads(toy.python("-m", "dvc", "status", "--json").stdout)
    assert first in stale
    assert list(Stage).index(Stage(first)) == min(list(Stage).index(Stage(s)) for s in stale)


def test_runtime_file_makes_nothing_stale(toy: ToyRepository) -> None:
    (toy.root / "runtime.yaml").write_text("threads: 1\n")
    assert json.loads(toy.python("-m", "dvc", "status", "--json").stdout) == {}


def test_status_and_plan_answer_while_a_stage_runs(toy: ToyRepository) -> None:
    """DVC locks what a running stage reads and writes, and refused to say anything of the other stages."""
    written = toy.root / "artifacts" / "pretrain"
    lock = {"write": {str(written): {"pid": os.getpid(), "cmd": "dvc repro"}}}
    (toy.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(lock))
    assert "busy" in toy.python("-m", "dvc", "status", check=False).stderr
    status = toy.python("-m", "flows", "status").stdout
    assert status.count(" fresh ") == len(Stage)
    assert "nothing would run" in toy.python("-m", "flows", "plan").stdout


def orphans(toy: ToyRepository) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        try:
            inside = process.cwd() == str(toy.root)
        except (psutil.Error, OSError):
            continue
        if (
            inside
            and any(word in line for word in ("tasks.", "dvc", "flows", "prefect"))
            and process.status() != "zombie"
        ):
            found.append(line)
    return found


def trainer_pid(toy: ToyRepository) -> int:
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line[1:4] == ["-m", "tasks.run", "pretrain"] and process.cwd() == str(toy.root):
            return process.pid
    raise AssertionError("no trainer is running")


def wait_until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("victim", ["trainer", "dvc", "flow"])
def test_sigkill_leaves_no_orphan_and_no_output_and_the_next_run_resumes(toy: ToyRepository, victim: str) -> None:
    """A flow killed by SIGKILL used to leave `dvc repro` and its trainer alive, and the retry failed as busy."""
    toy.params(pretrain={"steps": 40, "seconds_per_step": 0.05})
    arguments = ["-m", "flows", "run"] if victim == "flow" else ["-m", "dvc", "repro", "--single-item", "pretrain"]
    process = toy.start(*arguments)
    kill_at = random.Random(victim).choice([5, 10, 15, 20])
    newest: list[Path] = []

    def training() -> bool:
        newest[:] = sorted((toy.root / "work" / "pretrain").glob("*/state.json"), key=lambda p: p.stat().st_mtime)
        # two resume folders: the one of the built repository and the one of these parameters
        return len(newest) == 2 and kill_at <= json.loads(newest[-1].read_text())["step"] < 40

    assert wait_until(training, 60), process.stdout.read() if process.poll() is not None and process.stdout else "slow"
    os.kill(trainer_pid(toy) if victim == "trainer" else process.pid, signal.SIGKILL)
    process.wait(30)  # a zombie would still count as the holder of DVC's lock
    assert wait_until(lambda: not orphans(toy), 2), orphans(toy)
    published = toy.root / "artifacts" / "pretrain" / "curve.csv"
    assert not published.exists() or len(published.read_text().splitlines()) == 13  # absent, or the former run's, whole
    assert any(x.startswith("run") and " pretrain" in x for x in toy.python("-m", "flows", "plan").stdout.splitlines())
    assert "pretrain" in json.loads(toy.python("-m", "dvc", "status", "--json").stdout)

    saved = json.loads(newest[-1].read_text())["step"]
    done = toy.repro("--single-item", "pretrain")
    assert toy.ran(done.stdout) == ["pretrain"]
    starts = (newest[-1].parent / "starts.txt").read_text().split()
    assert starts == ["0", str(saved)]
    assert len(published.read_text().splitlines()) == 41
    check_one_run_without_duplicate_points(toy, steps=40)


def check_one_run_without_duplicate_points(toy: ToyRepository, steps: int) -> None:
    with sqlite3.connect(toy.root / "mlflow.db") as db:
        runs = db.execute(
            "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "join params p on p.run_uuid = r.run_uuid where t.key = 'stage' and t.value = 'pretrain' "
            "and p.key = 'steps' and p.value = ?",
            (str(steps),),
        ).fetchall()
        assert [status for _, status in runs] == ["FINISHED"]
        points = db.execute(
            "select count(*), count(distinct step) from metrics where key = 'loss' and run_uuid = ?", (runs[0][0],)
        ).fetchone()
        assert points == (steps, steps)
        parents = "select count(*) from runs r where status = 'RUNNING'"
        open_runs = db.execute(parents).fetchone()[0]
    assert open_runs <= 1  # the killed invocation's parent run may stay open; MLflow never reaps


def test_forced_run_starts_anew_but_a_run_dvc_never_recorded_is_taken_up(toy: ToyRepository) -> None:
    """A finished resume state made `dvc repro --force` return at once without training."""
    toy.repro("--single-item", "--force", "pretrain")
    (folder,) = (p for p in (toy.root / "work" / "pretrain").iterdir() if (p / "starts.txt").exists())
    assert (folder / "starts.txt").read_text().split() == ["0"]  # emptied, then trained from step 0
    lock = yaml.safe_load((toy.root / "dvc.lock").read_text())
    del lock["stages"]["pretrain"]  # as if DVC had died before writing its entry
    (toy.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    toy.python("-m", "tasks.run", "pretrain")
    assert (folder / "starts.txt").read_text().split() == ["0", "12"]


def test_sigterm_saves_and_says_how_to_go_on(toy: ToyRepository) -> None:
    toy.params(pretrain={"steps": 400, "seconds_per_step": 0.05})
    process = toy.start("-m", "tasks.run", "pretrain")
    assert wait_until(lambda: len(list((toy.root / "work" / "pretrain").glob("*/state.json"))) == 2, 60)
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output
    assert "run it again" in output
    process = toy.start("-m", "tasks.run", "pretrain")  # the log now begins with the end of the interrupted run
    logs = list((toy.root / "work" / "pretrain").glob("*/events.jsonl"))
    assert wait_until(lambda: any('"event": "resumed"' in log.read_text() for log in logs), 60)
    process.terminate()
    process.communicate(timeout=30)
    with sqlite3.connect(toy.root / "mlflow.db") as db:
        query = (
            "select r.status from runs r join params p on p.run_uuid = r.run_uuid "
            "where p.key = 'steps' and p.value = '400'"
        )
        assert db.execute(query).fetchall() == [("KILLED",)]
        assert db.execute("select count(*) from tags where key = 'resumed'").fetchone() == (1,)


def test_failed_gate_fails_its_stage_and_keeps_the_evaluation(toy: ToyRepository) -> None:
    toy.params(gate={"fail": True})
    flow = toy.python("-m", "flows", "run", check=False)
    assert flow.returncode == 1
    assert "not finished: gate, export, inference, chat" in flow.stdout
    assert flow.stdout.count("asked to fail") == 1 or "asked to fail" in flow.stderr
    status = json.loads(toy.python("-m", "dvc", "status", "--json").stdout)
    assert "evaluation" not in status


def test_parameter_mistakes_name_the_key_what_was_found_and_what_is_allowed(toy: ToyRepository) -> None:
    toy.params(sft={"stepz": 3, "seconds_per_step": "1e-4"})
    done = toy.python("-m", "tasks.run", "sft", check=False)
    assert done.returncode == 1
    assert "unknown key 'stepz'" in done.stderr and "steps" in done.stderr
    content = yaml.safe_load((toy.root / "params.yaml").read_text())
    (toy.root / "params.yaml").write_text(yaml.safe_dump({**content, "sftt": {}}))
    assert "unknown section 'sftt'" in toy.python("-m", "tasks.run", "gate", check=False).stderr


def test_registered_version_leads_back_to_every_upstream_key(built: ToyRepository) -> None:
    keys = keys_in_workspace(built)
    with sqlite3.connect(built.root / "mlflow.db") as db:
        aliases = dict(db.execute("select alias, version from registered_model_aliases"))
        tags = dict(
            db.execute(
                "select t.key, t.value from tags t where t.run_uuid in "
                "(select run_uuid from tags where key = 'K' and value = ?)",
                (keys["export"][0],),
            )
        )
    assert set(aliases) == {"candidate", "champion"}
    upstream = {k.removeprefix("upstream."): v for k, v in tags.items() if k.startswith("upstream.")}
    wanted = {"corpus", "tokenizer", "pretrain", "midtrain", "sft", "rl", "evaluation", "gate"}
    assert upstream == {name: keys[name][0] for name in wanted}


def test_full_disk_is_told_and_costs_no_finished_output(toy: ToyRepository) -> None:
    """Libraries wrap ENOSPC in errors of their own; the user saw a traceback of polars."""
    before = (toy.root / "artifacts" / "gate" / "verdict.json").read_text()
    toy.params(gate={"fill_disk": True})
    done = toy.python("-m", "tasks.run", "gate", check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr and "Traceback" not in done.stderr
    assert (toy.root / "artifacts" / "gate" / "verdict.json").read_text() == before
