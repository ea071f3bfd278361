"""Who started this stage, and from which state of the repository: the tags every MLflow run carries."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil

from tasks._context import StageContext
from tasks._keys import upstream_keys
from tasks._process import is_dvc
from tasks.stages import NUMBER

FLOW_RUN_ID, FLOW_RUN_URL, TASK_RUN_ID = "ZERO2CHAT_FLOW_RUN_ID", "ZERO2CHAT_FLOW_RUN_URL", "ZERO2CHAT_TASK_RUN_ID"


def invocation_id() -> str:
    """One id per pipeline run: the Prefect flow run, else the topmost `dvc` ancestor, else this process."""
    if flow_run := os.environ.get(FLOW_RUN_ID):
        return f"prefect-{flow_run}"
    me = psutil.Process()
    owner = next((p for p in reversed(me.parents()) if is_dvc(p)), me)
    return f"dvc-{owner.pid}-{int(owner.create_time())}"


def start_event(context: StageContext, code_key: str) -> dict[str, Any]:
    """Name, tags and parameters of the stage's MLflow run."""
    stage = context.stage
    tags = {
        "stage": str(stage),
        "K": context.key,
        "git.sha": git_sha(context.root),
        "dvc.lock.md5": file_md5(context.root / "dvc.lock"),
        "prefect.flow_run_id": os.environ.get(FLOW_RUN_ID, ""),
        "prefect.flow_run_url": os.environ.get(FLOW_RUN_URL, ""),
        "prefect.task_run_id": os.environ.get(TASK_RUN_ID, ""),
        **{f"upstream.{name}": key for name, key in upstream_keys(context.declared or (), context.root).items()},
    }
    return {
        "run_name": f"{NUMBER[stage]}-{stage}",
        "invocation": invocation_id(),
        "tags": {name: value for name, value in tags.items() if value},
        "params": flatten(context.params.model_dump(mode="json")),
        "code_key": code_key,
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names; lists as JSON text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def git_sha(root: Path) -> str:
    """Commit of the working tree, with `-dirty` when tracked files differ; empty outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    sha = git("rev-parse", "HEAD")
    return f"{sha}-dirty" if sha and git("status", "--porcelain", "--untracked-files=no") else sha


def file_md5(path: Path) -> str:
    """md5 of a file's bytes, as DVC uses it; empty when there is no file."""
    return hashlib.md5(path.read_bytes()).hexdigest() if path.exists() else ""
