"""dvc.yaml, the flow and the code say the same: stages, edges, commands, code dependencies."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.stages import NUMBER, Stage
from tests.contracts.import_closure import (
    WITHOUT_EFFECT,
    closure,
    imported_modules,
    module_file,
    stage_file,
)

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = PIPELINE["stages"]


def dvc_edges() -> dict[str, set[str]]:
    """Stage -> stages whose output folder contains one of its dependencies."""
    owner = {f"artifacts/{name}": name for name in STAGES}
    return {
        name: {owner["/".join(d.split("/")[:2])] for d in entry["deps"] if d.startswith("artifacts/")}
        for name, entry in STAGES.items()
    }


def test_dvc_names_the_stages_in_their_order_with_the_one_command() -> None:
    assert list(STAGES) == [str(s) for s in Stage] == [str(s) for s in NUMBER]
    for name, entry in STAGES.items():
        assert entry["cmd"] == f"python -m tasks.run {name}"
        assert entry["params"] == [name]
        assert entry["outs"] == [f"artifacts/{name}"]  # no persist: half-written files would survive
        assert entry["metrics"] == [{f"metrics/{name}.json": {"cache": False}}]
        assert "always_changed" not in entry


def test_flow_edges_equal_dvc_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import pipeline as the_map

    class Finished:
        def __init__(self, name: str) -> None:
            self.name = name
            self.state = self

        def is_completed(self) -> bool:
            return True

    edges: dict[str, set[str]] = {}

    def record(stage: Stage, *upstream: Finished, **_: Any) -> Finished:
        edges[str(stage)] = {future.name for future in upstream}
        return Finished(str(stage))

    monkeypatch.setattr(the_map, "build", record)
    monkeypatch.setattr(the_map, "wait", lambda futures: None)
    the_map.pipeline.fn()
    assert edges == dvc_edges()
    assert len((ROOT / "flows" / "pipeline.py").read_text().splitlines()) <= 120


@pytest.mark.parametrize("name", [str(s) for s in Stage])
def test_code_dependencies_equal_the_import_closure(name: str) -> None:
    declared = sorted(d for d in STAGES[name]["deps"] if d.endswith(".py"))
    wanted = closure(stage_file(name))
    lines = "\n".join(f"      - {path}" for path in wanted)
    assert declared == wanted, f"dvc.yaml, stages.{name}.deps: the code it imports is\n{lines}"


def test_closure_follows_imports_inside_functions_and_worker_modules() -> None:
    """A trainer started by `-m model.train_worker` was once no dependency of pretrain."""
    assert "model/train_worker.py" in closure(stage_file("pretrain"))
    assert "tasks/_context.py" in closure(stage_file("pretrain"))


def test_the_chat_page_is_a_dependency_of_chat() -> None:
    """Files that are served, not imported, must be declared by hand."""
    pages = {str(p.relative_to(ROOT)) for p in (ROOT / "tasks" / "chat" / "page").iterdir()}
    declared = set(STAGES["chat"]["deps"])
    assert pages
    assert "tasks/chat/page" in declared or pages <= declared


def test_imports_without_effect_are_real_ones_and_keep_the_inference_engine_out_of_training() -> None:
    """A stale exemption would hide a dependency that came back for another reason."""
    assert WITHOUT_EFFECT
    for importer, imported in WITHOUT_EFFECT:
        targets = {module_file(name) for name in imported_modules(ROOT / importer)}
        assert ROOT / imported in targets, (importer, imported)
    assert not [path for path in closure(stage_file("pretrain")) if path.startswith("model/engine/")]
