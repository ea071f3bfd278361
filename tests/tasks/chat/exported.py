"""An exported folder of a random model, written by the export stage's own functions."""

from pathlib import Path
from typing import Any

import torch

from model.tokenizer import byte_tokenizer_json
from tasks import export
from tests.model.engine import tiny


def export_random_model(folder: Path, std: float = 0.2, dtype: str = "float32", **shape: Any) -> Path:
    """Random weights with standard deviation `std`: large ones keep greedy decoding free of near-ties."""
    folder.mkdir(parents=True, exist_ok=True)
    from model.engine.forward import expected_shapes

    config = tiny.config(**shape)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(size, generator=generator) * std for name, size in sorted(expected_shapes(config).items())
    }
    tokenizer_file = folder.parent / f"{folder.name}-tokenizer.json"
    tokenizer_file.write_text(byte_tokenizer_json(), encoding="utf-8")
    stored = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    params = export.Params(dtype=dtype)  # type: ignore[arg-type]
    export.write_folder(folder, stored, config, tiny.tokenizer(), tokenizer_file, params)
    return folder
