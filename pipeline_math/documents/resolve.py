"""Names to objects: dotted paths below this package, fields of results, short forms of identifiers."""

import importlib
from collections.abc import Mapping
from typing import Any

PACKAGE = "pipeline_math"


class DocumentError(ValueError):
    """A template, a number or a source that does not hold together."""


def resolve(path: str) -> Any:
    """The object at a dotted path below `pipeline_math`; keys and positions are parts; DocumentError without one."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        name = ".".join([PACKAGE, *parts[:count]])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = _member(found, part, path)
        return found
    raise DocumentError(f"{path}: no such module in {PACKAGE}")


def _member(holder: Any, part: str, path: str) -> Any:
    if isinstance(holder, Mapping) and part in holder:
        return holder[part]
    if isinstance(holder, list | tuple) and part.isdigit() and int(part) < len(holder):
        return holder[int(part)]
    if not hasattr(holder, part):
        raise DocumentError(f"{path}: {getattr(holder, '__name__', type(holder).__name__)} has no {part}")
    return getattr(holder, part)


def picked(result: Any, pick: str | int | None) -> Any:
    """The result, its entry at a position, or what a dotted path of fields, keys and positions leads to."""
    if pick is None:
        return result
    if isinstance(pick, int):
        return result[pick]
    for part in pick.split("."):
        result = _member(result, part, pick)
    return result


def short(identifier: str) -> str:
    """The first eight characters of a run id, a key or a commit; names with a dash or space are kept."""
    return identifier if "-" in identifier or " " in identifier else identifier[:8]
