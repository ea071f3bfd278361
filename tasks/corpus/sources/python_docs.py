"""Documentation that every installation brings along: docstrings, the language reference, package descriptions.

Covered      the standard library and the distributions named in requirements.lock, read as source text with `ast`;
             the topics behind `help()`; the long description of each distribution
Not covered  documentation that only exists at run time (C extensions, generated docstrings), test folders

No module is imported, so nothing of a package is executed.
"""

import ast
import hashlib
import importlib.metadata
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tasks.corpus.records import BadRecord, Document, Harvest
from tasks.corpus.text.normalise import normalise

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "_vendor", "vendor", "vendored"}
)
SIGNATURE_CHARACTERS = 240
"""A longer signature is written as (...): it would be longer than most of the texts it introduces."""
TASK_BYTES = 2_000_000
"""Source bytes one worker takes at a time."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class SourceFile(NamedTuple):
    """One Python file and the module it defines."""

    path: str
    module: str
    domain: str
    bytes: int


def list_files(lock: Path, max_package_bytes: int) -> list[SourceFile]:
    """Every Python file to read, sorted by module; of a package larger than the limit, files in hash order up to it."""
    packages: list[list[SourceFile]] = [_standard_library()]
    seen: set[str] = set()
    for distribution in locked_distributions(lock):
        files = []
        for file in distribution.files or []:
            if file.suffix != ".py" or SKIPPED_FOLDERS & set(file.parts) or ".." in file.parts:
                continue
            path = Path(str(distribution.locate_file(file)))
            if str(path) not in seen and path.is_file():  # some distributions of one project share files
                seen.add(str(path))
                files.append(SourceFile(str(path), _module_name(Path(file)), "packages", path.stat().st_size))
        packages.append(_within(files, max_package_bytes))
    return sorted((file for package in packages for file in package), key=lambda file: (file.module, file.path))


def locked_distributions(lock: Path) -> list[importlib.metadata.Distribution]:
    """The installed distributions that the lock file names, sorted by name; others are ignored."""
    lines = (line.split("#")[0].split(";")[0] for line in lock.read_text(encoding="utf-8").splitlines())
    names = {_canonical(line.split("==")[0]) for line in lines if "==" in line}
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        name = _canonical(distribution.metadata["Name"] or "")
        if name in names:
            found.setdefault(name, distribution)
    return [found[name] for name in sorted(found)]


def share_out(files: list[SourceFile]) -> list[list[SourceFile]]:
    """Consecutive files in portions of about TASK_BYTES, the same for any number of workers."""
    portions: list[list[SourceFile]] = []
    room = 0
    for file in files:
        if not portions or file.bytes > room:
            portions.append([])
            room = TASK_BYTES
        portions[-1].append(file)
        room -= file.bytes
    return portions


def harvest_files(files: list[SourceFile]) -> Harvest:
    """The documented objects of these files, in order of appearance. Runs in worker processes."""
    result = Harvest()
    for file in files:
        source = Path(file.path).read_bytes()
        if b'"""' not in source and b"'''" not in source:  # almost no docstrings; parsing costs far more than looking
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's strings
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            result.bad.append(BadRecord(file.module, 0, f"Python source cannot be parsed: {type(error).__name__}"))
            continue
        for name, heading, kind, text in _objects(tree, file.module):
            document = f"{heading}\n\n{text}"
            result.documents.append(Document(f"python_docs:{name}", document, file.module, file.domain, name, kind))
    return result


def topics_file() -> Path:
    """Where the standard library keeps the texts of `help("topic")`."""
    return Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"


def harvest_topics() -> Harvest:
    """The language reference behind `help("topic")`."""
    path = topics_file()
    if not path.is_file():
        return Harvest()
    tree = ast.parse(path.read_bytes())
    mapping = next((node.value for node in tree.body if isinstance(node, ast.Assign)), None)
    topics = ast.literal_eval(mapping) if isinstance(mapping, ast.Dict) else {}
    return Harvest(
        [
            Document(f"python_docs:topic:{name}", normalise(text), "pydoc_data.topics", "topics", name, "topic")
            for name, text in sorted(topics.items())
        ]
    )


def harvest_descriptions(lock: Path) -> Harvest:
    """Summary and long description of each locked distribution."""
    documents = []
    for distribution in locked_distributions(lock):
        metadata = distribution.metadata
        name, body = metadata["Name"], metadata.get_payload() if hasattr(metadata, "get_payload") else ""
        text = normalise(
            f"{name}: {metadata['Summary'] or ''}\n\n{readable_markup(body or metadata['Description'] or '')}"
        )
        documents.append(
            Document(f"python_docs:package:{name}", text, f"{name} METADATA", "descriptions", name, "description")
        )
    return Harvest(documents)


_BADGE = re.compile(r"\[?!\[[^\]]*\]\([^)]*\)(?:\]\([^)]*\))?")
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>\n]{0,500}>", re.DOTALL)
_LINK = re.compile(r"\[([^\]\n]+)\]\((?:[^()\n]|\([^()\n]*\))*\)")


def readable_markup(text: str) -> str:
    """Markdown without badges, HTML tags and link targets: what a reader of the rendered page would see."""
    return _LINK.sub(r"\1", _TAG.sub("", _BADGE.sub("", text)))


def _objects(tree: ast.Module, module: str) -> Iterator[tuple[str, str, str, str]]:
    """(qualified name, heading, kind, docstring) of the module and of everything documented in it."""
    text = _docstring(tree)
    if text:
        yield module, f"module {module}", "module", text
    yield from _members(tree.body, module)


def _members(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for node in body:
        if isinstance(node, Definition):
            name = f"{prefix}.{node.name}"
            text = _docstring(node)
            if text:
                is_class = isinstance(node, ast.ClassDef)
                yield name, _heading(node, name), "class" if is_class else "function", text
            if isinstance(node, ast.ClassDef):
                yield from _members(node.body, name)
        elif isinstance(node, ast.If):
            yield from _members(node.body + node.orelse, prefix)
        elif isinstance(node, ast.Try):
            yield from _members(node.body + [s for h in node.handlers for s in h.body] + node.orelse, prefix)


def _docstring(node: ast.Module | Definition) -> str:
    text = ast.get_docstring(node, clean=False)
    return normalise(inspect.cleandoc(text)) if text else ""


def _heading(node: Definition, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if 0 < len(bases) <= SIGNATURE_CHARACTERS else f"class {name}"
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for argument in every:
        if argument is not None:
            argument.annotation = None  # types would make up half of the heading, and the docstring names them again
    signature = ast.unparse(arguments)
    if len(signature) > SIGNATURE_CHARACTERS:
        signature = "..."
    return f"{'async def' if isinstance(node, ast.AsyncFunctionDef) else 'def'} {name}({signature})"


def _standard_library() -> list[SourceFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if not SKIPPED_FOLDERS & set(relative.parts) and relative.parts[0] != "pydoc_data":
            files.append(SourceFile(str(path), _module_name(relative), "stdlib", path.stat().st_size))
    return files


def _within(files: list[SourceFile], limit: int) -> list[SourceFile]:
    if sum(file.bytes for file in files) <= limit:
        return files
    kept, left = [], limit
    for file in sorted(files, key=lambda file: hashlib.sha256(file.module.encode()).digest()):
        if file.bytes <= left:
            kept.append(file)
            left -= file.bytes
    return kept


def _module_name(relative: Path) -> str:
    parts = list(relative.with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
