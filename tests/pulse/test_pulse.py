"""The whole pipeline, tiny, for real: every stage, DVC, MLflow, the flow, a kill in the middle."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from safetensors.numpy import load_file

from tasks.stages import Stage

ROOT = Path(__file__).resolve().parents[2]
PULSE_SECONDS = 60.0
NOISE = 2.0
"""A shared machine may be half as fast; the time a quiet one needs is in benchmarks/."""


class Clone:
    """A copy of the repository's own files in a scratch folder, with the pulse profile."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listing = ["git", "ls-files", "-co", "--exclude-standard"]
        for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
            if (ROOT / name).is_file():
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        (root / "dvc.lock").unlink(missing_ok=True)
        shutil.copy(root / "profiles" / "pulse.yaml", root / "params.yaml")
        self.run("git", "init", "-q")
        self.python("-m", "tasks.environment")
        self.python("-m", "tasks._tracking", "init")

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "ZERO2CHAT_"))}
        return {**kept, "PATH": str(Path(sys.executable).parent) + os.pathsep + kept.get("PATH", "")}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            arguments, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    def python(self, *arguments: str) -> str:
        return self.run(sys.executable, *arguments)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone on which the whole pipeline has run by `dvc repro`."""
    made = Clone(tmp_path_factory.mktemp("pulse"))
    started = time.monotonic()
    made.python("-m", "dvc", "repro")
    made.seconds = time.monotonic() - started  # type: ignore[attr-defined]
    return made


def test_pulse_runs_every_stage_in_a_minute(clone: Clone) -> None:
    for stage in Stage:
        assert any((clone.root / "artifacts" / stage).iterdir()), stage
        metrics = json.loads((clone.root / "metrics" / f"{stage}.json").read_text())
        assert metrics["measured"]["seconds"] > 0
        assert metrics["predicted"]["seconds"] > 0
    assert clone.seconds < PULSE_SECONDS * NOISE  # type: ignore[attr-defined]


def test_the_model_that_was_just_trained_answered_over_http(clone: Clone) -> None:
    conversation = json.loads((clone.root / "artifacts" / "chat" / "conversation.json").read_text())
    assert "assistant" in json.dumps(conversation)


def test_dvc_repro_again_and_the_flow_find_nothing_to_do(clone: Clone) -> None:
    started = time.monotonic()
    output = clone.python("-m", "dvc", "repro")
    assert "Running stage" not in output
    assert time.monotonic() - started < 3.0 * NOISE
    flow = clone.python("-m", "flows", "run")
    assert flow.count("Finished in state Cached") == len(Stage)


def test_dvc_shows_metrics_and_plots(clone: Clone) -> None:
    shown = clone.python("-m", "dvc", "metrics", "show", "--json")
    assert "metrics/pretrain.json" in shown
    clone.python("-m", "dvc", "plots", "show", "-o", "work/plots")
    assert (clone.root / "work" / "plots" / "index.html").exists()


def test_lineage_leads_from_the_registered_model_to_documents(clone: Clone) -> None:
    output = clone.python("-m", "flows", "lineage", "champion")
    for stage in ("corpus", "tokenizer", "shards", "pretrain", "midtrain", "sft", "export"):
        assert f" {stage} " in output, output
    assert "python_docs:" in output


def test_sigkilled_pretraining_ends_with_the_weights_of_an_uninterrupted_run(clone: Clone) -> None:
    """Loader position, optimizer, schedule and random state all have to come back for this to hold."""
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    params["pretrain"]["tokens"] = 200 * params["budget"].get("batch_tokens", 1024)
    (clone.root / "params.yaml").write_text(yaml.safe_dump(params))
    (clone.root / "runtime.yaml").write_text("checkpoint_seconds: 0.3\nthreads: 1\n")
    weights = clone.root / "artifacts" / "pretrain" / "checkpoint" / "model.safetensors"

    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "pretrain"],
        cwd=clone.root,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    known = set((clone.root / "work" / "pretrain").iterdir())
    deadline = time.monotonic() + 60
    saved: list[Path] = []
    while not saved and time.monotonic() < deadline:
        new = [p for p in (clone.root / "work" / "pretrain").iterdir() if p not in known and p.name != "out"]
        saved = [f for p in new for f in p.rglob("*.safetensors") if not f.parent.name.startswith(".")]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert saved, "no checkpoint within a minute"
    time.sleep(1.0)

    resumed_log = clone.python("-m", "dvc", "repro", "--single-item", "pretrain")
    assert "resum" in resumed_log, resumed_log[-2000:]
    resumed = load_file(weights)
    clone.python("-m", "dvc", "repro", "--single-item", "--force", "pretrain")
    uninterrupted = load_file(weights)
    assert resumed.keys() == uninterrupted.keys() and len(resumed) > 5
    assert all((resumed[name] == uninterrupted[name]).all() for name in resumed)


def test_served_model_answers_an_openai_client(clone: Clone) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.chat.server", "--model", "artifacts/export", "--port", str(port)],
        cwd=clone.root,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health", timeout=1).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).json()
        assert reply["choices"][0]["message"]["role"] == "assistant"
        assert reply["usage"]["completion_tokens"] >= 1
    finally:
        process.terminate()
        process.wait(10)
