"""Folders that hold a model or the whole state of a training run: safetensors and JSON, written all or nothing.

A folder is written under a temporary name, flushed to the disk and renamed, so one that has its final name is complete.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.gpt import GPT, GPTConfig

_TEMPORARY = ".unfinished"
_STATE_PREFIX = "step_"


def save_weights(folder: Path, model: GPT, meta: dict[str, Any]) -> None:
    """Write model.safetensors (float32, transformers' tensor names), config.json and meta.json."""
    tensors = {name: _plain(tensor.float()) for name, tensor in model.state_dict().items()}

    def write(target: Path) -> None:
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        model.config.to_json(target / "config.json")
        _write_json(target / "meta.json", meta)

    _write_folder(folder, write)


def load_weights(folder: Path, device: torch.device | str = "cpu") -> tuple[GPT, dict[str, Any]]:
    """The model on `device` and its meta; ValueError if a file is missing or a tensor does not fit the config."""
    config = GPTConfig.from_json(folder / "config.json")
    tensors = _load_tensors(folder / "model.safetensors")
    meta = _read_json(folder / "meta.json") if (folder / "meta.json").exists() else {}
    model = GPT(config)
    load_into(model, tensors, str(folder / "model.safetensors"))
    return model.to(device), meta


def load_into(model: GPT, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into the model by name; ValueError names what is missing, unknown or of another shape."""
    own = model.state_dict()
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if missing or unknown or wrong:
        raise ValueError(
            f"{where} does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}, other shapes {wrong[:3]}; "
            f"next: use the config this file was trained with, or remove the file to train again"
        )
    model.load_state_dict(tensors)


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], info: dict[str, Any], keep: int = 2) -> Path:
    """Write state `step` below `folder`, then remove all but the newest `keep`. -> the state's own folder."""

    def write(target: Path) -> None:
        plain = {name: _plain(tensor) for name, tensor in tensors.items()}
        save_file(plain, target / "state.safetensors")
        _write_json(target / "state.json", info)

    same_step = f"{_STATE_PREFIX}{step:09d}_"
    number = sum(p.name.startswith(same_step) for p in _state_folders(folder))  # never replaces the state it supersedes
    target = folder / f"{same_step}{number}"
    _write_folder(target, write)
    for old in _state_folders(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and info of the newest state below `folder`, or None if there is none."""
    states = _state_folders(folder)
    if not states:
        return None
    return _load_tensors(states[-1] / "state.safetensors"), _read_json(states[-1] / "state.json")


def load_state_info(folder: Path) -> dict[str, Any] | None:
    """The info alone of the newest state: enough to see whether a run has finished."""
    states = _state_folders(folder)
    return _read_json(states[-1] / "state.json") if states else None


def _state_folders(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith(_STATE_PREFIX) and not p.name.endswith(_TEMPORARY))


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    temporary = folder.with_name(folder.name + _TEMPORARY)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed writer
    temporary.mkdir()
    write(temporary)
    for path in temporary.iterdir():
        _flush_to_disk(path)
    _flush_to_disk(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    _flush_to_disk(folder.parent)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(tensor: Tensor) -> Tensor:
    """A copy safetensors can store: on the CPU, contiguous, sharing memory with nothing."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); next: remove its folder") from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); next: remove its folder") from None
