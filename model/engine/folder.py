"""Reading a model from a folder: an exported Hugging Face folder or a checkpoint folder of a training stage."""

import json
from pathlib import Path

from torch import Tensor

from model.gpt import GPTConfig
from model.tokenizer import Tokenizer


def read_folder(folder: Path, tokenizer_file: Path | None = None) -> tuple[dict[str, Tensor], GPTConfig, Tokenizer]:
    """(weights, config, tokenizer). Reads safetensors and JSON only. ValueError names a missing or unfit file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from model.engine.hf_config import from_hf

    for name in ("model.safetensors", "config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; next: give a folder written by the export or a training stage")
    tokenizer_file = tokenizer_file or folder / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise ValueError(
            f"{tokenizer_file} does not exist (a checkpoint folder holds none); next: name the tokenizer.json of the "
            f"tokenizer stage"
        )
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder}: unreadable: {error}; next: export again") from None
    if "model_type" in content:
        config = from_hf(content, str(folder / "config.json"))
    else:
        config = GPTConfig.from_json(folder / "config.json")
    return weights, config, Tokenizer.from_file(tokenizer_file)
