"""Cached units are named after the code that computed them: the lists of that code must not forget a file.

A forgotten file is the worst defect a cache can have: its change leaves old results in use, and nothing says so.
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tasks.corpus import passes, reading
from tests.contracts.import_closure import ROOT, imported_modules, module_file

CANNOT_CHANGE_A_RESULT = {
    "tasks/_context.py": "what a stage is given: paths, parameters, progress",
    "tasks/_errors.py": "exceptions",
    "tasks/_executor.py": "where functions run",
    "tasks/_files.py": "atomic writing and removing of files; JSON as the standard library writes it",
    "tasks/_params.py": "the base class of parameters, whose values are part of the key",
    "tasks/_runtime.py": "device and worker counts",
    "tasks/_units.py": "the cache itself",
    "tasks/stages.py": "names of stages",
    "pipeline_math/checks.py": "refuses wrong arguments",
    "pipeline_math/interval.py": "the classifier's reported confidence, computed once more when it is reported",
    "pipeline_math/statistics.py": "the classifier's reported confidence, computed once more when it is reported",
}
CORPUS = "tasks/corpus"
FETCHING = re.compile(r"/(fetch|hub\w*|pins|download|remote|partial_file)\.py$")
# Function in passes.py or reading.py -> files it reaches by something other than an import.
PASSES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "measure": ("passes.py", passes.MEASURE_CODE, ()),
    "sign": ("passes.py", passes.SIGN_CODE, ()),
    "paragraphs": ("passes.py", passes.PARAGRAPH_CODE, ()),
    "overlap": ("passes.py", passes.OVERLAP_CODE, ()),
    "score": ("passes.py", passes.SCORE_CODE, ("quality/examples.py",)),
    "read": ("reading.py", reading.CODE, ("sources/portions.py",)),
}


def _names(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def used_modules(path: Path, functions: Iterable[str]) -> set[str]:
    """Dotted names that these functions of a file import or use, together with the functions of the file they call."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports: dict[str, set[str]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                imports[alias.asname or alias.name] = {statement.module, f"{statement.module}.{alias.name}"}
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                imports[(alias.asname or alias.name).split(".")[0]] = {alias.name}
    found: set[str] = set()
    waiting, seen = list(functions), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        body = bodies[name]
        for node in ast.walk(body):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        used = _names(body)
        waiting += used & bodies.keys()
        found = found.union(*(imports[name] for name in used & imports.keys()))
    return found


def reach(path: Path, functions: Iterable[str] | None = None) -> set[str]:
    """Files below the repository that these functions of a file (None: all of it) can run; module by module behind the
    first, function by function in passes.py and reading.py, which hold several passes' functions."""
    shared = {ROOT / CORPUS / "passes.py", ROOT / CORPUS / "reading.py"}
    found: set[Path] = set()
    waiting: list[tuple[Path, tuple[str, ...] | None]] = [(path, None if functions is None else tuple(functions))]
    seen: set[tuple[Path, tuple[str, ...] | None]] = set()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        file, chosen = place
        found.add(file)
        names = imported_modules(file) if chosen is None else used_modules(file, chosen)
        for name in sorted(names):
            target = module_file(name)
            if target is None or target.name == "__init__.py":
                continue
            if str(target.relative_to(ROOT)) in CANNOT_CHANGE_A_RESULT:
                continue
            if target in shared:
                prefix = name + "."
                own = tuple(sorted(other.removeprefix(prefix) for other in names if other.startswith(prefix)))
                functions_of = {n.name for n in ast.parse(target.read_text()).body if isinstance(n, ast.FunctionDef)}
                waiting.append((target, tuple(part for part in own if part in functions_of)))
            else:
                waiting.append((target, None))
    return {str(file.relative_to(ROOT)) for file in found}


@pytest.mark.parametrize("name", PASSES)
def test_the_code_list_of_a_pass_names_every_file_that_can_change_its_result(name: str) -> None:
    file, listed, others = PASSES[name]
    needed = reach(ROOT / CORPUS / file, [name]).union(*(reach(ROOT / CORPUS / other) for other in others))
    if name == "read":  # readers reach the worker as arguments; where and how files are fetched is no part of them
        needed = {
            file for file in needed if not re.search(r"/(fetch|hub\w*|pins|download|remote|partial_file)\.py$", file)
        }
    assert len(needed) > 2
    missing = needed - set(listed)
    assert not missing, f"{name}: next: add {sorted(missing)} to its list, or say in this test why they do not matter"
    assert not set(listed) - needed, f"{name}: these change nothing: {sorted(set(listed) - needed)}"


def test_listed_files_exist_once_and_exceptions_are_real() -> None:
    for name, (_, listed, _) in PASSES.items():
        assert len(set(listed)) == len(listed), name
        assert all((ROOT / file).is_file() for file in listed), name
        assert not set(listed) & CANNOT_CHANGE_A_RESULT.keys(), name
    assert all((ROOT / file).is_file() for file in CANNOT_CHANGE_A_RESULT)


def test_a_function_reaches_what_it_uses_and_not_its_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "passes.py"
    path.write_text(
        "from tasks._words import hash_words\n"
        "from tasks.corpus import records as r\n"
        "def one(x):\n    return hash_words(helper(x))\n"
        "def helper(x):\n    from tasks.corpus.quality import lines\n    return lines\n"
        "def two(x):\n    return r.Document\n"
    )
    assert used_modules(path, ["one"]) == {
        "tasks._words",
        "tasks._words.hash_words",
        "tasks.corpus.quality",
        "tasks.corpus.quality.lines",
    }
    assert used_modules(path, ["two"]) == {"tasks.corpus", "tasks.corpus.records"}
