"""The processes that train together: who am I, and sums over all of them (with one process: the value itself)."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

_BUCKET_ELEMENTS = 32 * 2**20
"""Gradients are copied into buckets of this size, so that many small tensors cost one message."""


def rank_and_world_size() -> tuple[int, int]:
    """(this process's number, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place."""
    if rank_and_world_size()[1] > 1:
        dist.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over all processes; a missing gradient counts as zero."""
    if rank_and_world_size()[1] == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(g.numel() for g in bucket) >= _BUCKET_ELEMENTS:
            _sum_bucket(bucket)
            bucket = []
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(gradients: list[Tensor]) -> None:
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
