"""The processes that train together: who am I, sums over all of them, and exchange between owners of parts.

With one process every function returns at once. Messages are tensors and JSON; nothing is pickled.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_BUCKET_ELEMENTS = 4 * 2**20
"""Small tensors are copied into buckets of this size, so that many cost one message; larger ones travel as they are."""
_BUCKETS_IN_FLIGHT = 2
"""Buckets on their way at the same time: what bounds the memory of the copies."""


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


def sum_to_owners(tensors: Sequence[tuple[Tensor, int]]) -> None:
    """Give each (tensor, rank) the sum over all processes, in place, on that rank; elsewhere its values are lost."""
    rank, world_size = rank_and_world_size()
    if world_size > 1:
        _in_buckets(
            tensors,
            lambda flat, owner: dist.reduce(flat, owner, async_op=True),
            fills=lambda _: True,
            empties=lambda owner: owner == rank,
        )


def spread_from_owners(tensors: Sequence[tuple[Tensor, int]]) -> None:
    """Copy each (tensor, rank) from that rank to all others, in place."""
    rank, world_size = rank_and_world_size()
    if world_size > 1:
        _in_buckets(
            tensors,
            lambda flat, owner: dist.broadcast(flat, owner, async_op=True),
            fills=lambda owner: owner == rank,
            empties=lambda owner: owner != rank,
        )


def any_over_ranks(*flags: bool, device: torch.device) -> list[bool]:
    """Each flag, true if it is on any process."""
    if rank_and_world_size()[1] == 1:
        return list(flags)
    return [count > 0 for count in sum_over_ranks(torch.tensor([float(f) for f in flags], device=device)).tolist()]


def exchange_json(value: Any, device: torch.device) -> list[Any]:
    """The values of all processes (what JSON can say), on every process."""
    if rank_and_world_size()[1] == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([text.numel()], device=device))
    longest = max(int(length) for length in lengths)
    texts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in lengths]
    dist.all_gather(texts, torch.nn.functional.pad(text, (0, longest - text.numel())))
    return [json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(texts, lengths, strict=True)]


def gather_to_first(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors of all processes by name, on the first one; an empty mapping on the others.

    What several processes hold under one name are parts along the first dimension (scalars: equal). Tensors of other
    processes arrive in host memory, one at a time.
    """
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return dict(tensors)
    headers = exchange_json(_header(tensors), device)
    if rank:
        for tensor in tensors.values():
            dist.send(tensor.to(device).contiguous(), 0)
        return {}
    parts = {name: [tensor] for name, tensor in tensors.items()}
    for source in range(1, world_size):
        for name, shape, dtype in headers[source]:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            dist.recv(tensor, source)
            parts.setdefault(name, []).append(tensor.cpu())
    return {
        name: members[0] if len(members) == 1 or not members[0].ndim else torch.cat([m.cpu() for m in members])
        for name, members in parts.items()
    }


def broadcast_state(
    state: tuple[dict[str, Tensor], dict[str, Any]] | None,
    device: torch.device,
    wanted: Callable[[str], bool] = lambda _: True,
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What the first process has loaded (tensors in host memory and JSON, or nothing), on every process.

    `wanted` says which tensors this process keeps, so that its host memory need not take the state of all.
    """
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return state
    header = None if state is None else {"tensors": _header(state[0]), "info": state[1]}
    header = _broadcast_json(header, device)
    if header is None:
        return None
    tensors = {}
    for name, shape, dtype in header["tensors"]:
        if rank == 0 and state is not None:
            dist.broadcast(state[0][name].to(device).contiguous(), 0)
            tensors[name] = state[0][name]
        else:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            dist.broadcast(tensor, 0)
            if wanted(name):
                tensors[name] = tensor.cpu()
    return tensors, header["info"]


def _in_buckets(
    tensors: Sequence[tuple[Tensor, int]],
    send: Callable[[Tensor, int], Any],
    fills: Callable[[int], bool],
    empties: Callable[[int], bool],
) -> None:
    """Start one asynchronous message per bucket of one owner; wait for all, at most a few buckets exist at a time.

    `fills` and `empties` say whether this process copies its values into an owner's bucket, and out of it afterwards.
    """
    flying: deque[tuple[Any, Tensor, list[Tensor], int]] = deque()

    def land(limit: int) -> None:
        while len(flying) > limit:
            work, flat, members, owner = flying.popleft()
            work.wait()
            if members and empties(owner):
                parts = flat.split([member.numel() for member in members])
                torch._foreach_copy_(members, [p.view_as(m) for p, m in zip(parts, members, strict=True)])

    for members, owner in _buckets(tensors):
        land(_BUCKETS_IN_FLIGHT - 1)
        if len(members) == 1 and members[0].is_contiguous():
            flying.append((send(members[0].view(-1), owner), members[0], [], owner))
            continue
        if fills(owner):
            flat = torch.cat([member.reshape(-1) for member in members])
        else:
            flat = members[0].new_empty(sum(member.numel() for member in members))
        flying.append((send(flat, owner), flat, members, owner))
    land(0)


def _buckets(tensors: Sequence[tuple[Tensor, int]]) -> list[tuple[list[Tensor], int]]:
    """Tensors of one owner and format put together until a bucket is full; the same on every rank."""
    buckets: list[tuple[list[Tensor], int]] = []
    filling: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    for tensor, owner in tensors:
        if tensor.numel() >= _BUCKET_ELEMENTS:
            buckets.append(([tensor], owner))
            continue
        members = filling.setdefault((owner, tensor.dtype), [])
        members.append(tensor)
        if sum(member.numel() for member in members) >= _BUCKET_ELEMENTS:
            buckets.append((filling.pop((owner, tensor.dtype)), owner))
    return buckets + [(members, owner) for (owner, _), members in filling.items()]


def _header(tensors: Mapping[str, Tensor]) -> list[tuple[str, list[int], str]]:
    return [(name, list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()]


def _broadcast_json(value: Any, device: torch.device) -> Any:
    """The first process's value on every process."""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    length = torch.tensor([text.numel()], device=device)
    dist.broadcast(length, 0)
    if dist.get_rank():
        text = torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(text, 0)
    return json.loads(bytes(text.tolist()))
