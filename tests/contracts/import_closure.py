"""The repository files a stage's code consists of, found by reading imports (never by running them).

`python -m tests.contracts.import_closure [stage ...]` prints the `deps` lines for dvc.yaml.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.stages import Stage

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "model", "pipeline_math")
WITHOUT_EFFECT = {
    ("model/train_worker.py", "model/train_samples.py"): "samples are shown to people: no stage reads them",
    ("model/micro_batch.py", "pipeline_math/memory_constants.py"): "how many rows are computed at once, not what",
    ("model/micro_batch.py", "pipeline_math/static_memory.py"): "the same",
    ("model/micro_batch.py", "pipeline_math/training_memory.py"): "the same",
}
"""Imports (from, of) that reach no artifact, and why: a better memory constant, or a new way to sample in the inference
engine, must not train a model again. Everything else that is imported counts."""


def stage_file(stage: str) -> Path:
    """tasks/<stage>.py or tasks/<stage>/stage.py."""
    package = ROOT / "tasks" / stage / "stage.py"
    return package if package.exists() else ROOT / "tasks" / f"{stage}.py"


def imported_modules(path: Path) -> set[str]:
    """Dotted names a file imports, at any depth, functions included; `from a import b` counts a and a.b.

    Imports for type checkers alone change no result and do not count.
    `python -m package.module` in a list of arguments counts too: that is how a worker process is started.
    """
    names: set[str] = set()
    for node in _walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _names_module(node.value):
            names.add(node.value)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _walk(other)
        else:
            yield from _walk(child)


def _names_module(text: str) -> bool:
    parts = text.split(".")
    return len(parts) > 1 and parts[0] in PACKAGES and module_file(text) is not None


def module_file(name: str) -> Path | None:
    """The file of a module of this repository; None for a name inside a module."""
    base = ROOT.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def closure(start: Path) -> list[str]:
    """Repository-relative paths of `start` and everything it imports; empty `__init__.py` files do not count."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        targets = [target for name in imported_modules(path) if (target := module_file(name))]
        waiting += [target for target in targets if (_relative(path), _relative(target)) not in WITHOUT_EFFECT]
    return sorted(_relative(path) for path in found if path.stat().st_size > 0)


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(s) for s in Stage]:
        print(f"{name}:")
        for dep in closure(stage_file(name)):
            print(f"      - {dep}")
