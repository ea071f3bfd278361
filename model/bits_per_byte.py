"""Bits per byte of held-out text: the loss in a unit that does not depend on the tokenizer."""

import math
from pathlib import Path
from typing import Any

import torch

from model.batches import iterate_rows
from model.gpt import GPT
from model.loss import softcap_cross_entropy
from model.ranks import rank_and_world_size, sum_over_ranks


@torch.no_grad()
def bits_per_byte(
    model: GPT,
    folder: Path,
    split: str,
    bytes_per_id: list[int],
    max_rows: int | None = None,
    micro_batch_rows: int = 16,
) -> dict[str, Any]:
    """{"bpb", "nats", "bytes", "tokens"} over supervised targets that stand for bytes (specials count neither way).

    bpb = nats / (ln 2 * bytes). With several processes each takes every n-th batch; all get the sum.
    ValueError if no target counts.
    """
    device, (rank, world_size) = model.device, rank_and_world_size()
    bytes_V = torch.tensor(bytes_per_id, dtype=torch.float32, device=device)
    sums = torch.zeros(3, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    for number, batch in enumerate(iterate_rows(folder, split, micro_batch_rows, max_rows)):
        if number % world_size != rank:
            continue
        batch = batch.to(device)
        targets_N = batch.targets_BT.flatten()
        bytes_N = bytes_V[targets_N]
        counted_N = ((batch.weights_BT.flatten() > 0) & (bytes_N > 0)).float()
        hidden_ND = model(batch.ids_BT).flatten(0, 1)
        nats = softcap_cross_entropy(
            hidden_ND,
            model.lm_head.weight,
            targets_N,
            counted_N,
            model.config.logit_softcap,
            model.dtype_of_products,
        )
        sums += torch.stack((nats, (bytes_N * counted_N).sum(), counted_N.sum()))
    nats, byte_count, tokens = sum_over_ranks(sums).tolist()
    if not tokens:
        raise ValueError(f"{folder}: split {split!r} has no target that stands for text; next: give it more text")
    return {
        "bpb": nats / (math.log(2) * byte_count),
        "nats": nats / tokens,
        "bytes": int(byte_count),
        "tokens": int(tokens),
    }
