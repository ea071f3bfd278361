"""Shapes and counters for the tests that hold pipeline_math against the real model."""

import torch
from torch.autograd.graph import saved_tensors_hooks

from model.gpt import GPT, GPTConfig
from model.loss import softcap_cross_entropy
from pipeline_math.model_flops_vram import ModelShape, shape_of_depth

SHAPES = {  # several depths and vocabularies, grouped heads and not, an odd MLP
    "d2": ModelShape(2, 64, 2, 2, 256, 320, 64),
    "gqa": ModelShape(3, 96, 6, 3, 192, 640, 48),
    "one kv head": ModelShape(1, 64, 4, 1, 160, 2048, 33),
    "d4": shape_of_depth(4, 4096, 256),
    "d5, three heads": shape_of_depth(5, 512, 128),
    "d12": shape_of_depth(12, 32768, 256),
    "d26": shape_of_depth(26, 65536, 128),
}
SMALL = ("d2", "gqa", "one kv head")  # really built and written


def summed_loss(model: GPT, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    weights = torch.ones(ids.numel(), device=ids.device)
    hidden = model(ids).flatten(0, 1)
    return softcap_cross_entropy(hidden, model.lm_head.weight, ids.flatten(), weights, 15.0, dtype)


def kept_bytes(config: GPTConfig, rows: int, attention: str, dtype: str) -> int:
    """Bytes autograd holds after a forward pass: every storage once, weights and tables of positions not."""
    built = GPT(config, attention, dtype)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*built.parameters(), *built.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.dtype != torch.long:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = built(torch.zeros(rows, config.sequence_length, dtype=torch.long))
    del hidden
    return sum(storage.nbytes() for storage in kept.values())
