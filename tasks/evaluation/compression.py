"""Bits per byte of held-out text, beside what xz makes of the very same bytes."""

import lzma
import math
from pathlib import Path
from typing import TYPE_CHECKING

from model.batches import iterate_rows
from tasks.benchmarks.intervals import Score, ratio

if TYPE_CHECKING:
    from model.gpt import GPT
    from model.tokenizer import Tokenizer

BLOCKS = 16
"""The rows are scored in this many blocks; their spread gives the interval."""
ROWS_PER_BATCH = 8


def held_out_bytes(shards: Path, tokenizer: "Tokenizer", max_rows: int) -> bytes:
    """The text of the rows that `bits_per_byte` scores, in the same order: what padding and BOS leave."""
    pieces = []
    for batch in iterate_rows(shards, "val", ROWS_PER_BATCH, max_rows):
        for targets, weights in zip(batch.targets_BT.tolist(), batch.weights_BT.tolist(), strict=True):
            pieces.append(tokenizer.decode_bytes(t for t, w in zip(targets, weights, strict=True) if w))
    return b"".join(pieces)


def xz_bits_per_byte(text: bytes) -> float:
    """Size of one xz stream (preset 9) over all bytes, in bits per byte of text. xz starts without knowledge, so it
    gains on longer text; a language model has read the training text before."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text) if text else math.nan


def bits_per_byte(model: "GPT", shards: Path, bytes_per_id: list[int], max_rows: int) -> Score:
    """Bits per byte on up to `max_rows` rows of the val split, spread over all of it; n = bytes.

    The definition is that of model.bits_per_byte (a test compares them); kept by block here, for the interval.
    """
    import torch

    from model.loss import softcap_cross_entropy

    nats: list[float] = []
    sizes: list[float] = []
    lengths = torch.tensor(bytes_per_id)
    device = model.device
    with torch.no_grad():
        for batch in iterate_rows(shards, "val", ROWS_PER_BATCH, max_rows):
            hidden = model(batch.ids_BT.to(device)).flatten(0, 1)
            counted = ((batch.weights_BT > 0) & (lengths[batch.targets_BT] > 0)).float()
            nats.append(
                float(
                    softcap_cross_entropy(
                        hidden,
                        model.lm_head.weight,
                        batch.targets_BT.flatten().to(device),
                        counted.flatten().to(device),
                        model.config.logit_softcap,
                        model.dtype_of_products,
                    )
                )
            )
            sizes.append(float((lengths[batch.targets_BT] * counted).sum()))
    return ratio(*_in_blocks(nats, sizes), n=int(sum(sizes)))


def _in_blocks(nats: list[float], sizes: list[float]) -> tuple[list[float], list[float]]:
    """Bits and bytes summed over at most BLOCKS groups of consecutive batches."""
    count = min(BLOCKS, len(nats))
    groups = [slice(len(nats) * i // count, len(nats) * (i + 1) // count) for i in range(count)]
    return [sum(nats[g]) / math.log(2) for g in groups], [sum(sizes[g]) for g in groups]
