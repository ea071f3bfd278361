"""One optimizer update: the gradient of a whole batch from micro-batches on every rank, applied or left out.

The loss is sum(weight * nats) / count, where count is the number of tokens with a weight over ALL micro-batches and
ranks, so no way of splitting a batch changes the gradient. On CUDA nothing here waits for the device: whether the
update is sound is decided there, and the host reads the outcome one step later.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.batches import Batch
from model.gpt import GPT
from model.loss import softcap_cross_entropy
from model.micro_batch import run_with_smaller_batches
from model.optim import Optimizer, OptimizerOptions
from model.ranks import exchange_json, rank_and_world_size, sum_over_ranks

_ROWS_SHOWN = 32


@dataclass
class Update:
    """A launched update and, once the device has got there, its outcome."""

    step: int
    """Updates of the run, this one included."""
    tokens: int
    """Of all ranks, padding included."""
    rows: list[int]
    """Numbers of this rank's rows; empty for batches that come from elsewhere."""
    names: list[str]
    """Parameter groups of the norms."""
    values: Tensor
    """[loss, tokens supervised, applied, norm of each group], on the way to the host."""
    arrived: Any = None
    """CUDA event after which `values` can be read."""
    ratios: dict[str, float] = field(default_factory=dict)
    """Length of the update over length of the weights, by group, where watched."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    loss_limit: float = math.inf
    """What the loss was compared with on the device."""
    seconds_waited: float = 0.0
    """For the batch."""

    def outcome(self) -> "Outcome":
        """Wait for the device where that is needed."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, count, applied, *norms = self.values.tolist()
        return Outcome(loss, count, bool(applied), dict(zip(self.names, norms, strict=True)))


@dataclass(frozen=True)
class Outcome:
    loss: float
    supervised_tokens: float
    applied: bool
    norms: dict[str, float]

    @property
    def gradient_norm(self) -> float:
        return sum(norm * norm for norm in self.norms.values()) ** 0.5


def batch_gradients(model: GPT, batch: Batch, micro_batch_rows: int, count: Tensor | float) -> Tensor:
    """Add the batch's gradient of sum(weight * nats) / count to the parameters; -> that loss, on the device."""
    device = model.device
    loss = torch.zeros((), device=device)
    for start in range(0, batch.ids_BT.size(0), micro_batch_rows):
        part = batch.rows(start, start + micro_batch_rows).to(device)
        part_loss = softcap_cross_entropy(
            model(part.ids_BT).flatten(0, 1),
            model.lm_head.weight,
            part.targets_BT.flatten(),
            part.weights_BT.flatten() / count,
            model.config.logit_softcap,
            model.dtype_of_products,
        )
        part_loss.backward()
        loss += part_loss.detach()
    return loss


class Updater:
    """Takes the updates of a run; remembers the micro-batch that fits."""

    def __init__(self, model: GPT, optimizer: Optimizer, micro_batch_rows: int, note: Callable[[str], None]) -> None:
        self.model, self.optimizer, self.note = model, optimizer, note
        self.micro_batch_rows = micro_batch_rows
        self.world_size = rank_and_world_size()[1]
        self.is_sharded = any(hasattr(weight, "device_mesh") for weight in model.parameters())

    def launch(self, batch: Batch, step: int, loss_limit: float, watch: bool) -> Update:
        """Compute the gradient and apply it unless loss or gradient are not finite, or the loss exceeds `loss_limit`.

        When memory runs out the micro-batch is halved and the batch computed again: same batch, same loss. RuntimeError
        when one row alone does not fit. `watch` also measures how far the update moves the weights.
        """
        optimizer, device = self.optimizer, self.model.device
        count = sum_over_ranks(batch.weights_BT.count_nonzero().float().to(device, non_blocking=True))

        loss = self._gradients(batch, count.clamp(min=1.0))
        loss = sum_over_ranks(loss)
        optimizer.reduce_gradients()
        norms = optimizer.gradient_norms()
        values = torch.stack([loss, count, *norms.values()])
        # Nothing supervised: no gradient, and momentum alone must not move the weights.
        sound = values.isfinite().all() & (loss <= loss_limit) & (count > 0)
        optimizer.watch_updates = watch
        optimizer.step(apply=sound)
        values = torch.cat([values[:2], sound.to(values.dtype)[None], values[2:]])
        update = Update(
            step, batch.ids_BT.numel() * self.world_size, batch.row_numbers, list(norms), values, loss_limit=loss_limit
        )
        if device.type == "cuda":
            update.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            update.values.copy_(values, non_blocking=True)
            update.arrived = torch.cuda.Event()
            update.arrived.record()
        if watch:
            update.ratios = optimizer.update_ratios()
        return update

    def _gradients(self, batch: Batch, count: Tensor) -> Tensor:
        model, (step_rows, tokens_per_row) = self.model, batch.ids_BT.shape
        rows = min(self.micro_batch_rows, step_rows)
        if self.is_sharded:  # ranks compute in step: one that tried again would leave the others waiting
            return batch_gradients(model, batch, rows, count)

        def forget() -> None:
            for weight in model.parameters():
                weight.grad = None

        loss, rows_that_fit = run_with_smaller_batches(
            lambda rows: batch_gradients(model, batch, rows, count),
            rows,
            undo=forget,
            step_rows=step_rows,
            tokens_per_row=tokens_per_row,
            note=self.note,
        )
        if rows_that_fit < rows:
            self.micro_batch_rows = rows_that_fit
        return loss


def learning_rates(options: OptimizerOptions, factor: float) -> dict[str, float]:
    """Rates of the groups that every model has."""
    full = {"matrices": options.matrix_lr, "embedding": options.embedding_lr, "head": options.head_lr}
    return {group: rate * factor for group, rate in full.items()}


def rows_in_words(rows: list[int], device: torch.device) -> str:
    """The rows that all ranks took, for people; every rank must ask. Empty where batches come from no file."""
    numbers = [number for part in exchange_json(rows, device) for number in part]
    more = f" and {len(numbers) - _ROWS_SHOWN} more" if len(numbers) > _ROWS_SHOWN else ""
    return f"rows {', '.join(str(number) for number in numbers[:_ROWS_SHOWN])}{more}" if numbers else ""
