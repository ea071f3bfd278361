"""Keys of a stage, computed by DVC itself. The only importer of DVC's internals.

K           sha256(cmd, md5 of every dependency, params): equal from dvc.lock and from the workspace
resume key  the same without cmd and code: a bug fix must not throw away the steps already trained
code key    md5s of the code alone
"""

import contextlib
import hashlib
import inspect
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage as DvcStage
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import load_yaml

from tasks._errors import StageError

ROOT = Path(__file__).resolve().parent.parent
CODE_FOLDERS = ("tasks/", "model/", "pipeline_math/")
_LOCK_ATTEMPTS = 8
_NAMED_REASONS = 4
_one_at_a_time = threading.Lock()  # DVC's repository object is not made for threads


@dataclass(frozen=True)
class StageKeys:
    """Identity of one stage at one moment."""

    key: str
    resume_key: str
    code_key: str
    stale_because: dict[str, Any] | None
    """None: up to date or not asked. Otherwise DVC's own reasons."""
    declared: tuple[str, ...]
    """Dependencies as dvc.yaml names them."""


def is_code(path: str) -> bool:
    """True for a dependency that is source code rather than data."""
    return path.endswith(".py") or path.startswith(CODE_FOLDERS)


def keys_from_lock_entry(entry: dict[str, Any]) -> tuple[str, str, str]:
    """(K, resume key, code key) of one entry of dvc.lock."""
    deps = {dep["path"]: dep.get("md5", "missing") for dep in entry.get("deps", [])}
    data = {path: md5 for path, md5 in deps.items() if not is_code(path)}
    code = {path: md5 for path, md5 in deps.items() if is_code(path)}
    params = entry.get("params", {})
    return (
        _digest({"cmd": entry["cmd"], "deps": deps, "params": params}),
        _digest({"deps": data, "params": params}),
        _digest(code),
    )


def current(stage: str, status: bool = True, root: Path = ROOT) -> StageKeys:
    """Keys from the workspace, and with `status` DVC's verdict whether the stage is stale.

    Inside a stage's own cmd `status` must be False: DVC holds a lock on the stage's outputs then.
    """
    with _one_at_a_time, _repo(root) as repo:
        entry_stage = _collect(repo, stage)
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                with repo.lock:
                    why = entry_stage.status() if status else None
                    entry_stage.save_deps(allow_missing=True)
                    entry = to_single_stage_lockfile(entry_stage)
                break
            except LockError:  # a neighbour hashes a large output; DVC itself waits for 3 s only
                if attempt == _LOCK_ATTEMPTS - 1:
                    raise
                time.sleep(0.2 + random.random())
        entry["deps"] = [{"path": d["path"], "md5": d.get("md5", "missing")} for d in entry.get("deps", [])]
        declared = tuple(d["path"] for d in entry["deps"])
        return StageKeys(*keys_from_lock_entry(entry), stale_because=(why or {}).get(stage) or None, declared=declared)


def recorded(stage: str, root: Path = ROOT) -> str | None:
    """K of the last finished run according to dvc.lock, or None when the stage never finished."""
    entry = lock_entries(root).get(stage)
    return keys_from_lock_entry(entry)[0] if entry else None


def lock_entries(root: Path = ROOT) -> dict[str, Any]:
    """All entries of dvc.lock; empty when there is none."""
    path = root / "dvc.lock"
    return (load_yaml(str(path)) or {}).get("stages", {}) if path.exists() else {}


def upstream_keys(declared: tuple[str, ...], root: Path = ROOT) -> dict[str, str]:
    """Stage -> K of the recorded run that wrote one of these dependencies."""
    found = {}
    for name, entry in lock_entries(root).items():
        outs = [out["path"] for out in entry.get("outs", [])]
        if any(dep == out or dep.startswith(out + "/") for dep in declared for out in outs):
            found[name] = keys_from_lock_entry(entry)[0]
    return found


def stage_graph(root: Path = ROOT) -> dict[str, list[str]]:
    """Stage name -> names of the stages whose outputs it reads, in dvc.yaml's order."""
    with _one_at_a_time, _repo(root) as repo:
        stages = [s for s in repo.index.stages if getattr(s, "name", None)]
        names = {s.addressing: s.name for s in stages}
        graph = repo.index.graph
        order = list((load_yaml(str(root / "dvc.yaml")) or {}).get("stages", {}))
        edges = {s.name: sorted((names[up.addressing] for up in graph.successors(s)), key=order.index) for s in stages}
        return {name: edges[name] for name in order}


def status_of_all(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Reasons of every stage that is stale by itself (not by cascade), as DVC gives them.

    Also while a stage runs, whose inputs and outputs DVC locks: then it is what lies there at this moment.
    """
    with _one_at_a_time, _repo(root) as repo:
        try:
            raw = repo.status()
        except LockError:
            status = inspect.unwrap(DvcStage.status)  # without the lock: it only reads
            raw = {name: reasons for stage in repo.index.stages for name, reasons in status(stage).items()}
    return {name: _merge_reasons(reasons) for name, reasons in raw.items()}


def _merge_reasons(reasons: list[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for reason in reasons:
        if isinstance(reason, dict):
            for kind, what in reason.items():
                merged.setdefault(kind, {}).update(what if isinstance(what, dict) else {str(what): ""})
        else:
            merged[str(reason)] = {}
    return merged


def explain(reasons: dict[str, Any] | list[Any] | None) -> str:
    """DVC's reasons as one sentence: 'changed deps: model/gpt.py (modified)'."""
    if not reasons:
        return "up to date"
    merged = _merge_reasons(reasons) if isinstance(reasons, list) else reasons
    parts = []
    for kind, what in merged.items():
        names = [_explain_one(path, state) for path, state in what.items()] if isinstance(what, dict) else [str(what)]
        more = f" and {len(names) - _NAMED_REASONS} more" if len(names) > _NAMED_REASONS else ""
        parts.append(f"{kind}: {', '.join(names[:_NAMED_REASONS])}{more}" if names else str(kind))
    return "; ".join(parts)


def _explain_one(path: str, state: Any) -> str:
    if isinstance(state, dict):
        return f"{path} ({', '.join(f'{k} {v}' for k, v in state.items())})"
    return f"{path} ({state})" if state else path


@contextlib.contextmanager
def _repo(root: Path) -> Iterator[Repo]:
    try:
        repo = Repo(str(root))
    except DvcException as error:
        raise StageError(
            f"{root} is not a DVC repository: {error}; next: `git init && dvc init`, or clone again"
        ) from None
    try:
        _forget_dead_holders(root / ".dvc" / "tmp" / "rwlock")
        yield repo
    finally:
        repo.close()


def _forget_dead_holders(path: Path) -> None:
    """Remove DVC's lock file when every process it names is dead.

    DVC does so itself, but takes a zombie for alive; where process 1 is slow to reap (containers), a killed run would
    block the next one.
    """
    if not path.exists():
        return
    pids = set(re.findall(r'"pid": (\d+)', path.read_text()))
    if pids and all(_is_dead(int(pid)) for pid in pids):
        path.unlink(missing_ok=True)


def _is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _collect(repo: Repo, stage: str) -> Any:
    try:
        (found,) = repo.stage.collect(stage)
    except DvcException as error:
        raise StageError(f"dvc.yaml: stage '{stage}': {error}; next: `dvc status` shows the whole message") from None
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


os.environ.setdefault("DVC_NO_ANALYTICS", "1")
