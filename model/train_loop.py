"""The one training loop: pretraining, midtraining, fine-tuning and policy updates differ only in their batches.

A step takes one batch, in micro-batches, on every rank. Its loss is sum(weight * nats) / count, where count is the
number of tokens with a weight over ALL micro-batches and ranks; so no way of splitting a batch changes the gradient.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.batches import Batch
from model.checkpoint import load_into, load_state, save_state
from model.gpt import GPT
from model.loss import softcap_cross_entropy
from model.optim import Optimizer
from model.ranks import rank_and_world_size, sum_gradients, sum_over_ranks
from model.train_options import (
    Batches,
    LoopOptions,
    Reporter,
    Schedule,
    TrainingDiverged,
    TrainingInterrupted,
    TrainResult,
)

__all__ = [
    "Batches",
    "LoopOptions",
    "Reporter",
    "Schedule",
    "TrainResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "train",
]

_MAY_DIFFER_ON_RESUME = frozenset({"micro_batch_rows", "checkpoint_seconds", "code_key", "spike_nats"})
_STEPS_IN_A_ROW = 10
"""High losses one after the other that count as a jump: one odd batch of a few rows is none."""
_STEPS_BEFORE_GUARD = 20
"""Steps whose losses only feed the running mean of the spike guard."""
Evaluate = Callable[[GPT], dict[str, float]]


def train(
    model: GPT,
    batches: Batches,
    options: LoopOptions,
    *,
    resume_folder: Path,
    report: Reporter,
    stop_requested: Callable[[], bool] = lambda: False,
    evaluate: Evaluate | None = None,
) -> TrainResult:
    """Run to the end of the schedule, from the newest state in `resume_folder` if there is one.

    Raises TrainingInterrupted after saving when a stop was requested, TrainingDiverged when the loss is lost,
    ValueError when a saved state does not belong to this model, these options or these batches.
    """
    run = _Run(model, batches, options, resume_folder, report)
    resumed_from = run.restore()
    at = run.at
    if resumed_from is not None and not at.finished:
        report.note(f"resumed at step {resumed_from} of {options.schedule.steps}")
    while at.step < options.schedule.steps:
        stop, save = run.agree(stop_requested())
        if stop:
            run.save()
            raise TrainingInterrupted(
                f"stopped on request at step {at.step} of {options.schedule.steps}; state is saved"
            )
        run.take_step()
        run.record(evaluate)
        if save:
            run.save()
    if not at.finished:
        if evaluate is not None:
            run.save()  # an evaluation that fails must not cost the run
            at.evaluation = run.evaluate(evaluate)
        at.finished = True
        run.save()
    rate = at.tokens / at.seconds if at.seconds else 0.0
    return TrainResult(at.step, at.tokens, at.loss, at.seconds, rate, resumed_from, at.evaluation, at.curve)


def batch_gradients(model: GPT, batch: Batch, micro_batch_rows: int, count: float) -> Tensor:
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


@dataclass
class _Position:
    """Everything about the run that is neither a tensor nor the loader: stored as JSON, which keeps float64 exactly."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    mean_loss: float = 0.0
    """Running mean of the losses that were not high, for the spike guard."""
    high_losses: int = 0
    """Steps in a row whose loss was high."""
    interval_sum: float = 0.0
    interval_steps: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    evaluation: dict[str, float] = field(default_factory=dict)
    finished: bool = False


class _Run:
    """One session of a run: the loop above calls its methods in order."""

    def __init__(self, model: GPT, batches: Batches, options: LoopOptions, folder: Path, report: Reporter) -> None:
        self.model, self.batches, self.options, self.folder, self.report = model, batches, options, folder, report
        self.optimizer = Optimizer(
            model, options.matrix_lr, options.embedding_lr, options.head_lr, options.weight_decay
        )
        self.at = _Position()
        self.rank, self.world_size = rank_and_world_size()
        self.prefetched: Batch | None = None
        self.loader_state: dict[str, Any] = {}
        self.saved_at = time.monotonic()

    # --- state ---------------------------------------------------------------------------------------------------

    def restore(self) -> int | None:
        """Continue from the newest state; -> its step, or None when there is none."""
        state = load_state(self.folder)
        if state is None:
            torch.manual_seed(self.options.seed)
            return None
        tensors, info = state
        self._check_options(info)
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "rng": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            groups[kind][rest] = tensor
        load_into(self.model, groups["model"], f"saved state in {self.folder}")
        self.optimizer.load_state_tensors(groups["optimizer"])
        self.batches.load_state_dict(info["batches"])
        torch.set_rng_state(groups["rng"]["cpu"])
        if self.model.device.type == "cuda" and "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"], self.model.device)
        self.at = _Position(**info["position"])
        if info["options"]["code_key"] != self.options.code_key:
            self.report.note(
                f"resuming at step {self.at.step} with code or inputs that changed since the state was saved"
            )
            self.report.figures(resumed_across_code_change=1)
        self.report.curve(self.at.curve)
        return self.at.step

    def _check_options(self, info: dict[str, Any]) -> None:
        now = asdict(self.options)
        for name, value in info["options"].items():
            if name not in _MAY_DIFFER_ON_RESUME and now.get(name) != value:
                raise ValueError(
                    f"saved state in {self.folder} was trained with {name}={value}, now {name}={now.get(name)}; "
                    f"next: restore the old value to continue, or remove the folder to train from the start"
                )

    def save(self) -> None:
        """Write the state (first rank), then publish the curve. TrainingDiverged rather than keep a lost model."""
        for name, weight in self.model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise TrainingDiverged(
                    f"step {self.at.step}: {name} holds values that are not finite; {self._advice()}"
                )
        if self.rank == 0:
            tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
            tensors |= {f"optimizer/{k}": v for k, v in self.optimizer.state_tensors().items()}
            tensors["rng/cpu"] = torch.get_rng_state()
            if self.model.device.type == "cuda":
                tensors["rng/cuda"] = torch.cuda.get_rng_state(self.model.device)
            loader = self.loader_state if self.prefetched is not None else self.batches.state_dict()
            info = {"position": asdict(self.at), "options": asdict(self.options), "batches": loader}
            save_state(self.folder, self.at.step, tensors, info)
        self.report.curve(self.at.curve)
        self.saved_at = time.monotonic()

    # --- one step ------------------------------------------------------------------------------------------------

    def agree(self, stop: bool) -> tuple[bool, bool]:
        """What all ranks do: stop now (any rank asks), save after this step (the first rank's clock says so)."""
        save = self.rank == 0 and time.monotonic() - self.saved_at >= self.options.checkpoint_seconds
        if self.world_size == 1:
            return stop, save
        flags = sum_over_ranks(torch.tensor([float(stop), float(save)], device=self.model.device)).tolist()
        return flags[0] > 0, flags[1] > 0

    def take_step(self) -> None:
        """One update; afterwards `at` describes it."""
        started, schedule, step = time.monotonic(), self.options.schedule, self.at.step
        batch, self.prefetched = self.prefetched or self.batches.next(), None
        counts = torch.tensor(
            [float(batch.weights_BT.count_nonzero()), float(batch.ids_BT.numel())], dtype=torch.float64
        )
        count, tokens = sum_over_ranks(counts.float().to(self.model.device) if self.world_size > 1 else counts).tolist()
        loss = batch_gradients(self.model, batch, self.options.micro_batch_rows, max(count, 1.0))
        sum_gradients(self.model.parameters())
        sum_over_ranks(loss)
        self.optimizer.schedule(schedule.lr_factor(step), schedule.decay_factor(step), schedule.momentum_progress(step))
        if count:  # nothing supervised: no gradient, and momentum alone must not move the weights
            self.optimizer.step()
        if self.model.device.type != "cpu" and getattr(self.batches, "prefetchable", False):
            self.loader_state = self.batches.state_dict()
            self.prefetched = self.batches.next()  # the device is still at work; .item() below waits for it
        at = self.at
        at.step, at.tokens, at.loss = step + 1, at.tokens + int(tokens), loss.item()
        self._guard()
        at.interval_sum, at.interval_steps = at.interval_sum + at.loss, at.interval_steps + 1
        at.seconds += time.monotonic() - started
        lr = self.options.matrix_lr * schedule.lr_factor(step)
        self.report.progress(at.step, schedule.steps, int(tokens), at.loss, lr)

    def record(self, evaluate: Evaluate | None) -> None:
        """Add a curve row when one is due, with an evaluation when one is due (the last one belongs to the end)."""
        at, options = self.at, self.options
        last = at.step == options.schedule.steps
        due = bool(evaluate and options.eval_every and at.step % options.eval_every == 0 and not last)
        if not (due or last or at.step % options.curve_interval == 0):
            return
        lr = options.matrix_lr * options.schedule.lr_factor(at.step - 1)
        loss = at.interval_sum / at.interval_steps
        at.curve.append({"step": at.step, "tokens": at.tokens, "loss": loss, "lr": lr})
        at.interval_sum, at.interval_steps = 0.0, 0
        if due and evaluate is not None:
            self.evaluate(evaluate)

    def evaluate(self, evaluate: Evaluate) -> dict[str, float]:
        """Evaluate and enter the values in the newest curve row."""
        self.model.eval()
        values = {name: float(value) for name, value in evaluate(self.model).items()}
        self.model.train()
        if self.at.curve:
            self.at.curve[-1].update(values)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.report.note(f"step {self.at.step}: {shown}")
        return values

    def _guard(self) -> None:
        """TrainingDiverged if the loss is lost; otherwise move the running mean."""
        at, limit = self.at, self.options.spike_nats
        if not math.isfinite(at.loss):
            raise TrainingDiverged(f"step {at.step}: the loss is {at.loss}; {self._advice()}")
        if limit is not None and at.step > _STEPS_BEFORE_GUARD and at.loss > at.mean_loss + limit:
            at.high_losses += 1
            if at.high_losses >= _STEPS_IN_A_ROW:
                raise TrainingDiverged(
                    f"step {at.step}: the loss jumped to {at.loss:.3f}, for {at.high_losses} steps more than {limit} "
                    f"above its running mean {at.mean_loss:.3f}; {self._advice()}"
                )
            return
        at.high_losses = 0
        at.mean_loss = at.loss if at.step == 1 else 0.9 * at.mean_loss + 0.1 * at.loss

    def _advice(self) -> str:
        lr = self.options.matrix_lr * self.options.schedule.lr_factor(max(self.at.step - 1, 0))
        return f"matrix learning rate {lr:.3g}; next: lower learning_rate_scale or lengthen warmup_fraction"
