"""Who updates what: Muon the matrices of the layers, AdamW the embedding and the head.

How rates follow from batch, width and tokens is arithmetic: pipeline_math/pretrain_step.py.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.gpt import GPT

MUON_MOMENTUM = (0.85, 0.95)
"""Momentum at the first step and after its warm-up."""


class Optimizer:
    """Both optimizers behind one step; its whole state is a flat mapping of named tensors."""

    def __init__(self, model: GPT, matrix_lr: float, embedding_lr: float, head_lr: float, weight_decay: float) -> None:
        names = dict(model.named_parameters())
        matrices = {n: p for n, p in names.items() if ".layers." in n and p.ndim == 2}
        embedding, head = names["model.embed_tokens.weight"], names["lm_head.weight"]
        if len(matrices) + 2 != len(names):
            raise ValueError(f"optimizer: expected embedding, head and matrices only, found {sorted(names)}")
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in names.items()}
        self.muon = torch.optim.Muon(list(matrices.values()), lr=matrix_lr, weight_decay=weight_decay)
        self.adamw = torch.optim.AdamW(
            [
                {"params": [embedding], "lr": embedding_lr, "betas": (0.8, 0.995), "weight_decay": 0.001},
                {"params": [head], "lr": head_lr, "betas": (0.8, 0.96), "weight_decay": 0.01},
            ],
            eps=1e-10,
            fused=True,
        )
        for group in (*self.muon.param_groups, *self.adamw.param_groups):
            group["full_lr"], group["full_weight_decay"] = group["lr"], group["weight_decay"]

    def schedule(self, lr_factor: float, decay_factor: float, momentum_progress: float) -> None:
        """Set this step's rates: factors of the full ones; Muon's momentum moves as its progress goes 0 -> 1."""
        for group in (*self.muon.param_groups, *self.adamw.param_groups):
            group["lr"] = group["full_lr"] * lr_factor
        first, last = MUON_MOMENTUM
        for group in self.muon.param_groups:
            group["weight_decay"] = group["full_weight_decay"] * decay_factor
            group["momentum"] = first + (last - first) * min(momentum_progress, 1.0)

    def step(self) -> None:
        """Apply the gradients, then drop them."""
        for optimizer in (self.muon, self.adamw):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Every buffer as "<parameter>|<buffer>"."""
        return {
            f"{self.names[parameter]}|{key}": value
            for optimizer in (self.muon, self.adamw)
            for parameter, buffers in optimizer.state.items()
            for key, value in buffers.items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `state_tensors`; ValueError if a buffer has no parameter or another shape."""
        owners = {
            self.names[parameter]: (optimizer, parameter)
            for optimizer in (self.muon, self.adamw)
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for key, value in tensors.items():
            name, _, buffer = key.partition("|")
            if name not in owners:
                raise ValueError(f"saved optimizer state names {name!r}, which this model does not have")
            optimizer, parameter = owners[name]
            if value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"saved optimizer state {key}: shape {tuple(value.shape)}, not {tuple(parameter.shape)}"
                )
            optimizer.state[parameter][buffer] = value.to(parameter.device, copy=True)
