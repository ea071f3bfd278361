"""Who updates what: Muon the matrices of the layers, AdamW the embedding, the head and what else there is.

With several ranks each keeps state for its own parts and updates only those (model/ownership.py). Gradients are summed
when all micro-batches are done, not while the last one is computed: see docs/decisions on distribution.

How rates follow from batch, width and tokens is arithmetic: pipeline_math/pretrain_step.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from model.gpt import GPT
from model.muon import Muon, MuonOptions, Orthogonalisation
from model.ownership import GROUPS, Part, Placement, Replicated, divide
from model.ranks import gather_to_first, rank_and_world_size, sum_over_ranks
from model.sharding import Sharded, is_sharded

_MUON_FLAGS = ("nesterov", "orthogonalisation", "normalise_rows", "rescale", "adaptive", "cautious")
MATRIX_OPTIMIZERS = ("muon", "torch_muon", "adamw")
_ADAMW = {  # kind of parameter -> (betas, weight decay)
    "matrices": ((0.9, 0.95), 0.0),  # only for matrix_optimizer="adamw"; the decay is the options'
    "embedding": ((0.8, 0.995), 0.001),
    "head": ((0.8, 0.96), 0.01),
    "value_embeddings": ((0.8, 0.995), 0.01),
    "residual_scalars": ((0.8, 0.95), 0.05),
    "input_scalars": ((0.96, 0.95), 0.0),
}


@dataclass(frozen=True)
class OptimizerOptions:
    """Full learning rates (a schedule multiplies them) and how matrices are updated."""

    matrix_lr: float
    embedding_lr: float
    head_lr: float
    weight_decay: float = 0.0
    """Of the matrices."""
    matrix_optimizer: Literal["muon", "torch_muon", "adamw"] = "muon"
    """muon: model/muon.py; torch_muon and adamw: torch's own, for comparison (adamw wants a lower matrix_lr)."""
    nesterov: bool = MuonOptions.nesterov
    orthogonalisation: Orthogonalisation = MuonOptions.orthogonalisation
    normalise_rows: bool = MuonOptions.normalise_rows
    rescale: bool = MuonOptions.rescale
    adaptive: bool = MuonOptions.adaptive
    cautious: bool = MuonOptions.cautious
    momentum_start: float = 0.85
    momentum_peak: float = 0.95
    momentum_end: float = 0.95
    value_embedding_lr: float | None = None
    """Research models; None: half of embedding_lr."""
    scalar_lr: float = 0.005
    """Research models: scalars on the residual stream; those on the input get a hundred times that."""

    def __post_init__(self) -> None:
        if self.matrix_optimizer not in MATRIX_OPTIMIZERS:
            raise ValueError(f"matrix_optimizer={self.matrix_optimizer!r}; allowed: {', '.join(MATRIX_OPTIMIZERS)}")

    def full_lr(self, kind: str) -> float:
        """Learning rate before the schedule."""
        value_embedding_lr = 0.5 * self.embedding_lr if self.value_embedding_lr is None else self.value_embedding_lr
        return {
            "matrices": self.matrix_lr,
            "embedding": self.embedding_lr,
            "head": self.head_lr,
            "value_embeddings": value_embedding_lr,
            "residual_scalars": self.scalar_lr,
            "input_scalars": 100.0 * self.scalar_lr,
        }[kind]


class Optimizer:
    """All optimizers of this rank behind one step; the state of all ranks is a flat mapping of named tensors."""

    def __init__(self, model: GPT, options: OptimizerOptions) -> None:
        self.options = options
        self.rank, self.world_size = rank_and_world_size()
        self.device, self.compute_dtype = model.device, model.compute_dtype
        sharded = is_sharded(model)
        self.parts = divide(model, self.world_size, split_from_dimensions=1 if sharded else 2)
        self.own = [part for part in self.parts if part.owner == self.rank]
        self.placement: Placement = Sharded(self.parts) if sharded else Replicated(self.parts)
        self.leaves: dict[Part, Tensor] = {part: self.placement.leaf(part) for part in self.own}
        self.watch_updates = False
        """Measure the next steps' updates; costs a copy of this rank's weights."""
        self._ratios: dict[str, Tensor] = {}
        self.muon = self._make_muon([part for part in self.own if part.group == "matrices"])
        self.adamw = self._make_adamw([part for part in self.own if self.muon is None or part.group != "matrices"])
        self._made = [optimizer for optimizer in (self.muon, self.adamw) if optimizer is not None]
        for optimizer in self._made:
            for group in optimizer.param_groups:
                group["full_lr"], group["full_weight_decay"] = group["lr"], group["weight_decay"]

    def _make_muon(self, parts: list[Part]) -> Any:
        options, leaves = self.options, [self.leaves[part] for part in parts]
        if options.matrix_optimizer == "adamw" or not parts:
            return None
        if options.matrix_optimizer == "torch_muon":
            return torch.optim.Muon(
                leaves, options.matrix_lr, options.weight_decay, options.momentum_peak, options.nesterov
            )
        flags = {name: getattr(options, name) for name in _MUON_FLAGS}
        flags["compute_dtype"] = self.compute_dtype
        muon = Muon(leaves, MuonOptions(options.matrix_lr, options.weight_decay, options.momentum_peak, **flags))
        if self.device.type == "cuda":  # there many small kernels take longer to launch than to run
            muon.compile_update()
        return muon

    def _make_adamw(self, parts: list[Part]) -> Any:
        leaves: dict[str, list[Tensor]] = {}
        for part in parts:
            leaves.setdefault(_kind(part), []).append(self.leaves[part])
        groups = []
        for kind, members in leaves.items():
            betas, decay = _ADAMW[kind]
            decay = self.options.weight_decay if kind == "matrices" else decay
            rates = {"lr": self.options.full_lr(kind), "betas": betas, "weight_decay": decay}
            groups.append({"params": members, "name": kind} | rates)
        return torch.optim.AdamW(groups, eps=1e-10, fused=True) if groups else None

    # --- one step ------------------------------------------------------------------------------------------------

    def schedule(self, lr_factor: float, decay_factor: float, momentum: float) -> None:
        """Set this step's rates: factors of the full ones, for the decay of the matrices only; Muon's momentum."""
        for optimizer in self._made:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * lr_factor
                if optimizer is self.muon or group["name"] == "matrices":
                    group["weight_decay"] = group["full_weight_decay"] * decay_factor
                if optimizer is self.muon:
                    group["momentum"] = momentum

    def reduce_gradients(self) -> None:
        """Give every owner the sum over all ranks of its part's gradient; a missing gradient counts as zero.

        With several ranks the gradients of the other parts are worthless afterwards.
        """
        self.placement.collect_gradients()

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of the whole gradient by group, scalars on the device; after `reduce_gradients`, on every rank."""
        return self._norms([self.placement.gradient(part) for part in self.own])

    @torch.no_grad()
    def step(self, apply: Tensor | None = None) -> None:
        """Apply the gradients, then drop them; afterwards all ranks hold equal weights.

        Where `apply` (a scalar on the device, equal on all ranks) is 0 neither weights nor state change, whatever the
        gradients are. On a GPU the host does not wait for its value.
        """
        before = [self.leaves[part].clone() for part in self.own] if self.watch_updates else []
        if apply is None or self.device.type == "cuda":
            self._update(apply)
        elif bool(apply):  # no wait on a CPU; elsewhere the kernels' masks are untested
            self._update(None)
        if self.watch_updates:
            now = [self.leaves[part] for part in self.own]
            moved = self._norms([new - old for new, old in zip(now, before, strict=True)])
            weights = self._norms(before)
            self._ratios = {group: moved[group] / weights[group] for group in moved}
        self.placement.drop_gradients()
        self.placement.publish_weights()

    def update_ratios(self) -> dict[str, float]:
        """|update| / |weights| by group of the last step taken while `watch_updates` was set; waits for the device."""
        return {group: ratio.item() for group, ratio in self._ratios.items()}

    def _update(self, apply: Tensor | None) -> None:
        for part in self.own:
            self.leaves[part].grad = self.placement.gradient(part)
        if self.adamw is not None:
            # The fused kernel leaves weights and state alone where this is 1.
            self.adamw.found_inf = None if apply is None else 1.0 - apply.to(torch.float32)
            self.adamw.step()
        if self.muon is not None and self.options.matrix_optimizer == "torch_muon":
            _torch_muon_step(self.muon, apply)
        elif self.muon is not None:
            self.muon.step(apply)
        for part in self.own:
            self.leaves[part].grad = None

    def _norms(self, own: list[Tensor]) -> dict[str, Tensor]:
        """Norm by group over all ranks, from one tensor per own part."""
        present = [group for group in GROUPS if any(part.group == group for part in self.parts)]
        squares = torch.zeros(len(present), device=self.device)
        for i, group in enumerate(present):
            tensors = [t for t, part in zip(own, self.own, strict=True) if part.group == group]
            if tensors:
                squares[i] = torch.stack(torch._foreach_norm(tensors)).square().sum()
        return dict(zip(present, sum_over_ranks(squares).sqrt().unbind(), strict=True))

    # --- state ---------------------------------------------------------------------------------------------------

    def state_tensors(self) -> dict[str, Tensor]:
        """Every buffer as "<parameter>|<buffer>", whole, on the first rank; empty elsewhere. All ranks must call it."""
        own = {
            (part.name, key): value
            for part in self.own
            for optimizer in self._made
            for key, value in optimizer.state.get(self.leaves[part], {}).items()
        }
        named = {f"{name}|{key}": value for (name, key), value in own.items()}
        return gather_to_first(named, self.device) if self.world_size > 1 else named

    def needs(self, key: str) -> bool:
        """Whether this rank's parts take anything from a tensor of `state_tensors`."""
        return key.partition("|")[0] in {part.name for part in self.own}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `state_tensors` of any number of ranks, after the model's weights: each takes what it `needs`.

        ValueError if a buffer has no parameter or another shape.
        """
        self.placement.weights_changed()
        parameters = {part.name: part.parameter for part in self.parts}
        own = {part.name: part for part in self.own}
        for key, value in tensors.items():
            name, _, buffer = key.partition("|")
            if name not in parameters:
                raise ValueError(f"saved optimizer state names {name!r}, which this model does not have")
            shape = parameters[name].shape
            fits = value.ndim == len(shape) and all(
                size == full or (size == 1 and buffer == "second_moment")
                for size, full in zip(value.shape, shape, strict=True)
            )
            if value.ndim and not fits:
                raise ValueError(f"saved optimizer state {key}: shape {tuple(value.shape)}, not {tuple(shape)}")
            if name in own:
                value = own[name].of(value) if value.ndim else value
                self._optimizer_of(own[name]).state[self.leaves[own[name]]][buffer] = value.to(self.device, copy=True)

    def _optimizer_of(self, part: Part) -> Any:
        return self.muon if self.muon is not None and part.group == "matrices" else self.adamw


def _kind(part: Part) -> str:
    """Group of a part, that of scalars by name: those on the input learn faster."""
    if part.group != "scalars":
        return part.group
    return "input_scalars" if "input_scalars" in part.name else "residual_scalars"


def _torch_muon_step(muon: torch.optim.Muon, apply: Tensor | None) -> None:
    """One step of torch's Muon; with `apply` everything is copied first and put back where it is 0."""
    if apply is None:
        muon.step()
        return
    weights = [p for group in muon.param_groups for p in group["params"]]
    buffers = [muon.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in weights]
    before = [tensor.clone() for tensor in (*weights, *buffers)]
    muon.step()
    for tensor, old in zip((*weights, *buffers), before, strict=True):
        tensor.copy_(torch.where(apply.bool(), tensor, old))
