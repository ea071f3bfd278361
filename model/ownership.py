"""Which rank updates what: optimizer state and update work are split over the ranks, weights are not.

A matrix of a layer belongs to one rank, because Muon needs all of it; tables (embedding, head) are split by rows,
because AdamW works on single elements. Each rank keeps state for its own parts only (ZeRO stage 1, arXiv:1910.02054).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from model.gpt import GPT
from model.ranks import spread_from_owners, sum_to_owners

GROUPS = ("matrices", "embedding", "head", "value_embeddings", "scalars")
"""Groups of parameters; the matrices of the layers come first."""
_ITERATIONS = 5
"""Of Newton-Schulz; only the balance between ranks depends on it."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one rank updates: a whole parameter, or some of its rows."""

    name: str
    """Of the parameter."""
    group: str
    parameter: nn.Parameter
    owner: int
    """Number of the rank."""
    rows: tuple[int, int] | None = None
    """First row and the one after the last; None: all."""

    def of(self, tensor: Tensor) -> Tensor:
        """This part of a tensor that is shaped like the parameter, sharing its memory."""
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]


class Placement(Protocol):
    """Where weights and gradients of the parts are. All ranks call every method, but for `leaf` and `gradient`."""

    def leaf(self, part: Part) -> Tensor:
        """The weights of an own part as a tensor that an optimizer may change."""

    def collect_gradients(self) -> None:
        """Give every owner the sum over the ranks of its parts' gradients."""

    def gradient(self, part: Part) -> Tensor:
        """Gradient of an own part; a missing one counts as zero."""

    def drop_gradients(self) -> None: ...

    def publish_weights(self) -> None:
        """Give all ranks what the owners have changed."""

    def weights_changed(self) -> None:
        """The model's weights were replaced: own parts follow."""


class Replicated:
    """Every rank has all weights and computes gradients for all of them. Own parts share memory with the model."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def leaf(self, part: Part) -> Tensor:
        return part.parameter if part.rows is None else part.of(part.parameter.detach())

    def collect_gradients(self) -> None:
        sum_to_owners([(self.gradient(part), part.owner) for part in self.parts])

    def gradient(self, part: Part) -> Tensor:
        if part.parameter.grad is None:
            part.parameter.grad = torch.zeros_like(part.parameter)
        return part.of(part.parameter.grad)

    def drop_gradients(self) -> None:
        for part in self.parts:
            part.parameter.grad = None

    def publish_weights(self) -> None:
        spread_from_owners([(part.of(part.parameter.detach()), part.owner) for part in self.parts])

    def weights_changed(self) -> None:
        pass


def newton_schulz_flops(rows: int, columns: int) -> int:
    """FLOPs to orthogonalise a matrix: per iteration one Gram matrix, its square and one product with the matrix."""
    short, long = sorted((rows, columns))
    return _ITERATIONS * (2 * 2 * short * short * long + 2 * short**3)


def divide(model: GPT, world_size: int, split_from_dimensions: int = 2) -> list[Part]:
    """All parts of the model, in the same order on every rank; each parameter is covered exactly once.

    Parameters outside the matrices are split by rows if they have so many dimensions: a handful of scalars need not be.

    Matrices go, the costly ones first, to the rank with the least work so far. ValueError if a parameter has no group.
    """
    groups, parameters = _groups(model), dict(model.named_parameters())
    named = [name for group in GROUPS for name in groups.get(group, [])]
    if sorted(named) != sorted(parameters):
        raise ValueError(
            f"optimizer: the model's groups name {sorted(set(named) ^ set(parameters))} wrongly, or a name twice; "
            f"allowed: every parameter in one of {', '.join(GROUPS)}"
        )
    parts, work = [], [0] * world_size
    matrices = {name: newton_schulz_flops(*parameters[name].shape) for name in groups["matrices"]}
    for name in sorted(matrices, key=lambda name: -matrices[name]):  # stable: equal ones keep the model's order
        owner = work.index(min(work))
        work[owner] += matrices[name]
        parts.append(Part(name, "matrices", parameters[name], owner))
    for group in GROUPS[1:]:
        for name in groups.get(group, []):
            parts += _rows_of(name, group, parameters[name], world_size, split_from_dimensions)
    return parts


def _rows_of(name: str, group: str, parameter: nn.Parameter, world_size: int, dimensions: int) -> list[Part]:
    if world_size == 1 or parameter.ndim < dimensions:
        return [Part(name, group, parameter, 0)]
    sizes = [chunk.numel() for chunk in torch.arange(parameter.size(0)).chunk(world_size)]
    starts = [sum(sizes[:rank]) for rank in range(len(sizes))]
    return [
        Part(name, group, parameter, rank, (start, start + size))
        for rank, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def _groups(model: GPT) -> dict[str, list[str]]:
    named = getattr(model, "parameter_groups", None)
    if named is not None:
        return named()
    matrices = [name for name, weight in model.named_parameters() if ".layers." in name and weight.ndim == 2]
    return {"matrices": matrices, "embedding": ["model.embed_tokens.weight"], "head": ["lm_head.weight"]}
