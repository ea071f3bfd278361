"""Folders that hold a model or the whole state of a training run: safetensors and JSON, written all or nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.atomic_folder import write_folder, write_json
from model.gpt import GPT, GPTConfig
from model.state_files import load_newest, newest_info, remove_old, write_state


def save_weights(folder: Path, model: GPT, meta: dict[str, Any]) -> None:
    """Write model.safetensors (float32, transformers' tensor names), config.json and meta.json."""
    tensors = {name: _host_copy(tensor.float()) for name, tensor in model.state_dict().items()}

    def write(target: Path) -> None:
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        model.config.to_json(target / "config.json")
        write_json(target / "meta.json", meta)

    write_folder(folder, write)


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
    """Write state `step` below `folder`, then remove all but the newest `keep` and the best. -> the state's own folder.

    Waits for the disk; a training run saves through `model.state_store.StateStore`, which does not.
    """
    state = write_state(folder, step, {name: _host_copy(tensor) for name, tensor in tensors.items()}, info)
    remove_old(folder, keep)
    return state


def load_state(
    folder: Path, note: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and info of the newest whole state below `folder`, None if there is none.

    Damaged ones are moved aside, each with a note. ValueError if there are states and none is whole.
    """
    return load_newest(folder, note)


def load_state_info(folder: Path) -> dict[str, Any] | None:
    """The info alone of the newest state, without reading tensors: enough to see whether a run has finished."""
    return newest_info(folder)


def _host_copy(tensor: Tensor) -> Tensor:
    """A copy safetensors can store: on the CPU, contiguous, sharing memory with nothing."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); next: remove its folder") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); next: remove its folder") from None
