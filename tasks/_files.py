"""Files that appear whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step; a kill leaves the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """`content` as indented JSON with sorted keys, written whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def publish_folder(source: Path, target: Path) -> None:
    """`source` becomes `target`; a former `target` is moved aside first and removed last."""
    former = source.with_name(source.name + ".former")
    remove(former)
    if target.exists():
        os.replace(target, former)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    remove(former)


def remove(path: Path) -> None:
    """Delete a file or folder; nothing happens when there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
