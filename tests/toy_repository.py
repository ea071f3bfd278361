"""A copy of the spine with toy stages: the real dvc.yaml edges, runner, keys and flow; stages that take no time.

Used by tests that kill, force, change and compare; they need many runs of a pipeline that is fast and predictable.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks.stages import Stage

ROOT = Path(__file__).resolve().parents[1]
SPINE = (
    "_context.py _errors.py _files.py _invocation.py _keys.py _params.py _process.py _progress.py _replaying.py "
    "_runtime.py _tracking.py _curve_plots.py _devices.py _executor.py _units.py _figures.py _forecast.py "
    "_forecast_plots.py _ledger.py _machine.py _run_plots.py run.py stages.py environment.py"
)

PLAIN = '''
"""A toy stage: reads its inputs, writes their digest and its parameter."""
import hashlib, json
from tasks._params import StageParams
from tasks._errors import StageError

class Params(StageParams):
    value: int = 1
    fail: bool = False
    fill_disk: bool = False

def run(ctx):
    if ctx.params.fill_disk:
        raise RuntimeError("write failed: No space left on device (os error 28)")
    if ctx.params.fail:
        raise StageError("asked to fail, found fail=true, allowed: false; next: change params.yaml")
    digest = hashlib.sha256(str(ctx.params.value).encode())
    for path in INPUTS:
        source = ctx.input(path)
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if file.is_file():
                digest.update(file.read_bytes())
    for name in OUTPUTS:
        target = ctx.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({"digest": digest.hexdigest()}))
    ctx.report(answer=ctx.params.value)
'''

TRAINER = '''
"""A toy trainer: a chain of digests, one per step; saves every fifth step, so that a kill loses at most five."""
import hashlib, json, time
from tasks._files import write_json
from tasks._params import StageParams

class Params(StageParams):
    steps: int = 12
    seconds_per_step: float = 0.0

def run(ctx):
    state_file = ctx.resume / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {"step": 0, "digest": "", "curve": []}
    with (ctx.resume / "starts.txt").open("a") as starts:
        starts.write(f"{state['step']}\\n")
    while state["step"] < ctx.params.steps:
        ctx.check_stop()
        time.sleep(ctx.params.seconds_per_step)
        state["step"] += 1
        state["digest"] = hashlib.sha256((state["digest"] + str(state["step"])).encode()).hexdigest()
        state["curve"].append({"step": state["step"], "loss": 1.0 / state["step"]})
        if state["step"] % 5 == 0 or state["step"] == ctx.params.steps:
            write_json(state_file, state)
            ctx.log_curve(state["curve"])
        (ctx.out / "half").write_text("half")
    (ctx.out / "half").unlink(missing_ok=True)
    (ctx.out / "checkpoint").mkdir()
    (ctx.out / "checkpoint" / "model.txt").write_text(state["digest"])
    (ctx.out / "curve.csv").write_text("step,loss\\n" + "".join(f"{r['step']},{r['loss']}\\n" for r in state["curve"]))
    ctx.report(steps=state["step"])
'''


class ToyRepository:
    """One toy repository in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        (root / "tasks").mkdir()
        for name in ["__init__.py", *SPINE.split()]:
            shutil.copy(ROOT / "tasks" / name, root / "tasks" / name)
        for package in ("flows", "pipeline_math"):
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "documents"))
        for folder in ("text", "chat", "benchmarks", "quality", "earlier", "tokenizer"):
            (root / "data" / folder).mkdir(parents=True)
            (root / "data" / folder / "a.txt").write_text("text\n")
        shutil.copy(ROOT / "requirements.lock", root / "requirements.lock")
        shutil.copy(ROOT / ".dvcignore", root / ".dvcignore")
        self._stages()
        self.command("git", "init", "-q")
        self.command("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "toy")
        self.python("-m", "dvc", "init", "-q")
        shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
        self.python("-m", "tasks.environment")
        self.python("-m", "tasks._tracking", "init")

    def _stages(self) -> None:
        pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
        wanted: dict[str, set[str]] = {name: set() for name in pipeline["stages"]}
        for entry in pipeline["stages"].values():
            for dep in entry["deps"]:
                if dep.startswith("artifacts/") and dep.count("/") > 1:
                    wanted[dep.split("/")[1]].add("/".join(dep.split("/")[2:]))
        for name, entry in pipeline["stages"].items():
            data = [d for d in entry["deps"] if not d.startswith(("tasks/", "model/", "pipeline_math/"))]
            entry["deps"] = [*data, f"tasks/{name}.py"]
            if name in ("pretrain", "midtrain", "sft", "rl"):
                source = TRAINER
            else:
                inputs = [d for d in data if d.startswith(("artifacts/", "data/"))]
                outputs = [
                    o if "." in o.split("/")[-1] else f"{o}/part.txt" for o in sorted(wanted[name]) or ["result.txt"]
                ]
                source = PLAIN + f"\nINPUTS = {inputs!r}\nOUTPUTS = {outputs!r}\n"
            (self.root / "tasks" / f"{name}.py").write_text(source)
        (self.root / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
        self.params(**{str(stage): {} for stage in Stage})

    def params(self, **sections: dict[str, Any]) -> None:
        """Merge values into params.yaml."""
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text()) if path.exists() else {}
        for name, values in sections.items():
            default = {"steps": 12} if name in ("pretrain", "midtrain", "sft", "rl") else {"value": 1}
            content[name] = {**default, **content.get(name, {}), **values}
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "ZERO2CHAT_"))}
        path = str(Path(sys.executable).parent) + os.pathsep + kept.get("PATH", "")
        return {**kept, "PATH": path, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the repository."""
        done = subprocess.run(
            arguments, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        if check and done.returncode:
            raise AssertionError(
                f"{arguments} exited with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done

    def python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.command(sys.executable, *arguments, check=check)

    def repro(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "dvc", "repro", *arguments, check=check)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a program in the repository without waiting for it."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ran(self, output: str) -> list[str]:
        """Stages DVC ran, from its output, in order."""
        lines = [line for line in output.splitlines() if "Running stage '" in line]
        return [line.split("Running stage '")[1].split("'")[0] for line in lines]
