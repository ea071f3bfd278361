"""Rules of the house that a reviewer should not have to check by eye."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.contracts.import_closure import ROOT

LAYERS = {"flows": 3, "tasks": 2, "model": 1, "pipeline_math": 0}
SOURCES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))
ALL_PYTHON = SOURCES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))
ONLY_IMPORTER = {"dvc": {"tasks/_keys.py"}, "mlflow": {"tasks/_tracking.py"}}
MAX_LINES = 400


def top_level_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_down() -> None:
    assert len(SOURCES) > 40
    for path in SOURCES:
        layer = relative(path).split("/")[0]
        for name in top_level_imports(path):
            target = name.split(".")[0]
            if target in LAYERS:
                assert LAYERS[target] <= LAYERS[layer], (
                    f"{relative(path)} imports {name}: against flows > tasks > model"
                )


def test_each_foreign_system_has_one_importer() -> None:
    for path in SOURCES:
        roots = {name.split(".")[0] for name in top_level_imports(path)}
        for system, allowed in ONLY_IMPORTER.items():
            assert system not in roots or relative(path) in allowed, f"{relative(path)} imports {system}"
        assert "prefect" not in roots or relative(path).startswith("flows/"), f"{relative(path)} imports prefect"


def test_pipeline_math_needs_only_the_standard_library() -> None:
    for path in (ROOT / "pipeline_math").rglob("*.py"):
        outside = {n.split(".")[0] for n in top_level_imports(path)} - set(sys.stdlib_module_names) - {"pipeline_math"}
        assert not outside, f"{relative(path)} imports {outside}"


def test_stages_never_import_each_other() -> None:
    from tasks.stages import Stage

    owned = {f"tasks.{s}": str(s) for s in Stage}
    for path in (ROOT / "tasks").rglob("*.py"):
        own = path.relative_to(ROOT / "tasks").parts[0].removesuffix(".py")
        for name in top_level_imports(path):
            stage = owned.get(".".join(name.split(".")[:2]))
            assert stage is None or stage == own, f"{relative(path)} imports {name}"


def test_files_are_short_enough_to_read() -> None:
    for path in ALL_PYTHON:
        count = len(path.read_text(encoding="utf-8").splitlines())
        assert count <= MAX_LINES, f"{relative(path)} has {count} lines; allowed {MAX_LINES}: split it by nouns"


def test_no_file_is_named_for_nothing() -> None:
    for path in ALL_PYTHON:
        assert path.stem not in {"utils", "helpers", "misc", "common"}, relative(path)


def test_no_pickle_no_eval_no_remote_code() -> None:
    forbidden_calls = {"eval", "exec"}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not top_level_imports(path) & {"pickle", "cloudpickle", "dill"}, relative(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                assert name not in forbidden_calls, f"{relative(path)}:{node.lineno} calls {name}()"
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "torch.save"}, f"{relative(path)}:{node.lineno} calls {called}"
                remote = [k for k in node.keywords if k.arg == "trust_remote_code"]
                assert not any(ast.unparse(k.value) == "True" for k in remote), f"{relative(path)}:{node.lineno}"


def test_pins_import() -> None:
    """Prefect's server breaks at import with fastapi 0.155 and newer; this fails in a second when the pin rots."""
    done = subprocess.run([sys.executable, "-c", "import prefect.server.api.server"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_lock_matches_the_environment() -> None:
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if x and not x.startswith("#")]
    assert len(lines) > 100
    for line in lines:
        name, _, pinned = line.partition("==")
        assert pinned, f"requirements.lock: '{line}' is not pinned"
        assert "://" not in line and "@" not in line, f"requirements.lock names a place: {line}"
        assert version(name).split("+")[0] == pinned.split("+")[0], f"{name}: next: `make install`"


def test_documents_name_no_package_index_and_no_private_path() -> None:
    hosts = ("pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "deb." + "debian")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not listed:
        pytest.fail("git ls-files lists nothing: this test needs a clone")
    for name in listed:
        path = ROOT / name
        if (
            path.suffix in {".md", ".py", ".yaml", ".yml", ".toml", ".txt", ".lock", ".in", ".sh", ""}
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not any(host in text for host in hosts), name
