"""serve: resolve a model (folder, version or alias) and keep the chat server running on it."""

import os
import subprocess
import sys
from pathlib import Path

from flows import ROOT
from flows.promote import resolve_version
from tasks import _tracking
from tasks._errors import StageError
from tasks._process import die_with_parent


def model_folder(reference: str) -> Path:
    """Local folder of an exported model: a path, a registered version or an alias such as champion."""
    path = Path(reference)
    if (path / "config.json").exists():
        return path.resolve()
    if path.exists() or os.sep in reference:
        raise StageError(f"{reference} holds no exported model (config.json is missing); next: `python -m flows run`")
    version = resolve_version(_tracking.client(), reference)
    return _tracking.download(f"models:/{_tracking.REGISTERED_MODEL}/{version}")


def serve_model(model: str = "champion", port: int | None = None, backend: str = "engine") -> int:
    """Run the chat server until it is stopped; its exit code. `backend` is engine or vllm."""
    command = [sys.executable, "-m", "tasks.chat.server", "--model", str(model_folder(model)), "--backend", backend]
    if port is not None:
        command += ["--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=die_with_parent) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            return child.wait()
