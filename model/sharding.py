"""Models that exceed one device: weights and gradients spread over the ranks by rows (FSDP2, arXiv:2304.11277).

Each layer's weights are gathered just before it computes and dropped after it, in both passes. Gradients are summed
over the ranks by the backward pass itself, so a rank cannot repeat a micro-batch on its own. Tables are updated where
their rows are; a matrix of a layer is gathered by the rank that owns it, which keeps a copy of those weights.
"""

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.gpt import GPT
from model.ownership import Part
from model.ranks import rank_and_world_size


def shard(model: GPT, device: torch.device) -> GPT:
    """Move the model to `device`, in place, so that each rank holds its rows; before an optimizer is made.

    Layer by layer: the whole model need not fit the device. `state_dict` then gives whole tensors in host memory, on
    the first rank, and `load_state_dict` takes whole tensors; every rank must call them, and with the same number of
    micro-batches `forward`. The loss may read `model.lm_head.weight` right after `model(ids)`: the tables stay whole
    from there to the backward pass. With one rank the model is moved and nothing else.
    ValueError on devices other than CPU and CUDA.
    """
    if rank_and_world_size()[1] == 1:
        return model.to(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"shard_model: true on {device.type}; allowed: cpu, cuda; next: shard_model: false")
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is divided by the count over all ranks already
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    model.register_state_dict_post_hook(_whole)
    model.register_load_state_dict_pre_hook(_own_rows)
    return model


def is_sharded(model: GPT) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import; if nobody has, nothing is sharded
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def _whole(model: Any, state: dict[str, Any], *_: Any) -> None:
    """Replace sharded tensors by whole ones on the first rank; one at a time, so that the device need not hold all."""
    from torch.distributed.tensor import DTensor

    for name, tensor in state.items():
        if isinstance(tensor, DTensor):
            whole = tensor.full_tensor().detach()
            if dist.get_rank() == 0:
                state[name] = whole.cpu()


def _own_rows(model: Any, state: dict[str, Any], *_: Any) -> None:
    """Replace whole tensors by this rank's rows."""
    from torch.distributed.tensor import DTensor

    for name, parameter in model.named_parameters():
        if name in state and isinstance(parameter, DTensor) and not isinstance(state[name], DTensor):
            chunks = state[name].to(parameter.dtype).chunk(dist.get_world_size())
            empty = chunks[0][:0]
            rows = chunks[dist.get_rank()] if dist.get_rank() < len(chunks) else empty
            state[name] = DTensor.from_local(
                rows.to(parameter.device),
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )


class Sharded:
    """Own parts of tables are the local shards; own matrices are whole copies, gathered and scattered at each step."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.rank, self.world_size = rank_and_world_size()
        self._copies: dict[Part, Tensor] = {}
        self._gradients: dict[Part, Tensor] = {}
        for part in parts:
            if part.group == "matrices":
                whole = self._gather(_local(part.parameter), part)
                if whole is not None:
                    self._copies[part] = whole

    def leaf(self, part: Part) -> Tensor:
        return self._copies[part] if part in self._copies else _local(part.parameter)

    def collect_gradients(self) -> None:
        """Tables have theirs, summed by the backward pass; those of matrices go to the owner, one at a time."""
        for part in self.parts:
            if part.group == "matrices":
                whole = self._gather(self._local_gradient(part), part)
                part.parameter.grad = None
                if whole is not None:
                    self._gradients[part] = whole

    def gradient(self, part: Part) -> Tensor:
        return self._gradients[part] if part in self._copies else self._local_gradient(part)

    def drop_gradients(self) -> None:
        self._gradients.clear()
        for part in self.parts:
            part.parameter.grad = None

    @torch.no_grad()
    def publish_weights(self) -> None:
        for part in self.parts:
            if part.group == "matrices":
                self._scatter(self._copies.get(part), _local(part.parameter), part)

    @torch.no_grad()
    def weights_changed(self) -> None:
        for part in self.parts:
            if part.group == "matrices":
                whole = self._gather(_local(part.parameter), part)
                if whole is not None:
                    self._copies[part].copy_(whole)

    def _local_gradient(self, part: Part) -> Tensor:
        gradient = part.parameter.grad
        return torch.zeros_like(_local(part.parameter)) if gradient is None else _local(gradient)

    def _gather(self, local: Tensor, part: Part) -> Tensor | None:
        """Whole tensor from the ranks' rows, on the owner."""
        padded = self._padded(local, part)
        pieces = [torch.empty_like(padded) for _ in range(self.world_size)] if self.rank == part.owner else None
        dist.gather(padded, pieces, part.owner)
        return None if pieces is None else torch.cat(pieces)[: part.parameter.size(0)]

    def _scatter(self, whole: Tensor | None, local: Tensor, part: Part) -> None:
        """Rows of the owner's tensor to the ranks they belong to."""
        received = self._padded(local, part)
        pieces = None
        if whole is not None:
            rows = received.size(0)
            filled = torch.nn.functional.pad(whole, (0, 0, 0, rows * self.world_size - whole.size(0)))
            pieces = list(filled.split(rows))
        dist.scatter(received, pieces, part.owner)
        local.copy_(received[: local.size(0)])

    def _padded(self, local: Tensor, part: Part) -> Tensor:
        """Messages of all ranks must be of one size; the last shards may have fewer rows."""
        rows = -(-part.parameter.size(0) // self.world_size)
        return torch.nn.functional.pad(local, (0, 0, 0, rows - local.size(0))).contiguous()


def _local(tensor: Tensor) -> Tensor:
    """The rows this rank holds, sharing memory."""
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
