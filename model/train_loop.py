"""The one training loop: pretraining, midtraining, fine-tuning and policy updates differ only in their batches.

    take a batch -> gradient -> update or skip (train_step.py) -> judge (divergence.py) -> figures, curve
    now and then: evaluate, save in the background (state_store.py), go back to an older state, plan the end anew

Everything a resumed run needs is in a state: weights, optimizer, random generators, position (train_position.py) and
the loader's position. A state is written before every evaluation, on request, at a time limit and by the clock.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from model.agreement import Agreement
from model.batches import Batch
from model.divergence import DivergenceGuard, Verdict
from model.gpt import GPT
from model.horizon import WallClock
from model.optim import Optimizer
from model.ranks import any_over_ranks, rank_and_world_size, sum_over_ranks
from model.train_compute import settle_compute
from model.train_figures import StepFigures
from model.train_options import (
    Batches,
    LoopOptions,
    Reporter,
    Schedule,
    TrainingDiverged,
    TrainingInterrupted,
    TrainResult,
)
from model.train_position import Position
from model.train_states import RunStates, State
from model.train_step import Outcome, Update, Updater, batch_gradients, learning_rates, rows_in_words

__all__ = [
    "Batches",
    "LoopOptions",
    "Reporter",
    "Schedule",
    "TrainResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "batch_gradients",
    "train",
]

Evaluate = Callable[[GPT], dict[str, float]]
Sample = Callable[[GPT, int], None]
BEST_BY = "val_bpb"
"""The value of an evaluation that decides which state is the best: the smallest."""
_LIVE_SECONDS = 1.0
_PLAN_EVERY = 10
"""Steps between plans of a wall-clock horizon, where several ranks have to agree on it."""


def train(
    model: GPT,
    batches: Batches,
    options: LoopOptions,
    *,
    resume_folder: Path,
    report: Reporter,
    stop_requested: Callable[[], bool] = lambda: False,
    evaluate: Evaluate | None = None,
    sample: Sample | None = None,
) -> TrainResult:
    """Run to the end of the schedule, from the newest state in `resume_folder` if there is one.

    Raises TrainingInterrupted after saving when a stop was requested or the time limit is reached, TrainingDiverged
    when the loss is lost again and again, ValueError when a saved state does not belong to this model, these options or
    these batches, or cannot be written in the end.
    """
    run = _Run(model, batches, options, resume_folder, report)
    try:
        resumed_from = run.restore()
        run.prepare()
        run.evaluate_if_due(evaluate)
        while run.has_steps_left():
            reason, save = run.agree(stop_requested())
            if reason:
                run.save(wait=True)
                steps = f"step {run.at.step} of {run.schedule.steps}"
                raise TrainingInterrupted(f"{reason} at {steps}; state is saved")
            if save:
                run.save()
            run.take_step()
            run.between_steps(evaluate, sample)
        if not run.at.finished:
            run.finish(evaluate)
    finally:
        run.states.close()
    return run.at.result(resumed_from, run.updater.micro_batch_rows)


class _Run:
    """One session of a run: the loop above calls its methods in order."""

    def __init__(self, model: GPT, batches: Batches, options: LoopOptions, folder: Path, report: Reporter) -> None:
        self.session_started = self.step_ended = time.monotonic()
        self.model, self.batches, self.options, self.report = model, batches, options, report
        self.optimizer = Optimizer(model, options.optimizer)
        self.updater = Updater(model, self.optimizer, options.micro_batch_rows or 16, report.note)
        self.rank, self.world_size = rank_and_world_size()
        self.states = RunStates(model, self.optimizer, batches, options, folder, report)
        self.guard = DivergenceGuard(options.guard)
        peak = options.peak_flops or None
        self.figures = StepFigures(options.flops_per_token or 1.0, peak, device=str(model.device))
        self.clock = WallClock(options.horizon_seconds) if options.horizon_seconds else None
        self.schedule = options.schedule
        self.at = Position()
        self.launched: Update | None = None
        self.last_update: Update | None = None
        self.step_seconds = self.wall_seconds_before = 0.0
        self.agreement, self.skipping, self.live_at = Agreement(model.device), False, 0.0

    # --- state ---------------------------------------------------------------------------------------------------

    def restore(self) -> int | None:
        """Continue from the newest state; -> its step, or None when there is none."""
        state = self.states.load()
        if state is None:
            torch.manual_seed(self.options.seed)
            return None
        self._take_up(state)
        at = self.at
        self.guard.load_state_dict(at.guard)
        self.wall_seconds_before = at.wall_seconds
        if state[1]["options"]["code_key"] != self.options.code_key:
            self.report.note(f"resuming at step {at.step} with code or inputs that changed since the state was saved")
            self.report.figures(resumed_across_code_change=1)
        # The newest row waits for its evaluation if the run was killed between saving and evaluating.
        to_evaluate = self._evaluation_is_due(at.step) or (at.step >= self.schedule.steps and not at.finished)
        self.states.publish_again(at, row_is_open=to_evaluate and at.evaluated_step != at.step)
        if not at.finished:
            self.report.note(f"resumed at step {at.step} of {self.schedule.steps}")
        return at.step

    def _take_up(self, state: State) -> None:
        at = self.at = self.states.take_up(state)
        self.figures.load_state_dict(at.figures)
        if at.micro_batch_rows:  # what was found by probing or running out of memory, unless less is asked for now
            self.updater.micro_batch_rows = min(
                self.options.micro_batch_rows or at.micro_batch_rows, at.micro_batch_rows
            )
        if at.planned_steps:
            self.schedule = replace(self.options.schedule, steps=at.planned_steps, warmup_done=at.warmup_done)

    def prepare(self) -> None:
        """Settle how this session computes."""
        if not self.at.finished:
            steps_left = self.schedule.steps - self.at.step
            settle_compute(self.model, self.batches, self.options, self.at, self.updater, steps_left, self.report.note)
        self.step_ended = time.monotonic()

    def save(self, *, wait: bool = False, best: bool = False, row_is_open: bool = False) -> None:
        """Take a state, unless the weights are lost: then the guard will go back, or, with `wait`, TrainingDiverged."""
        self.drain()
        at, started = self.at, time.monotonic()
        own = [getattr(weight, "_local_tensor", weight).isfinite().all() for weight in self.model.parameters()]
        (lost,) = any_over_ranks(not bool(torch.stack(own).all()), device=self.model.device)
        if lost and wait:
            raise TrainingDiverged(f"step {at.step}: the weights are not finite; {self._advice()}")
        if lost:
            self.report.note(f"step {at.step}: no state is saved, the weights are not finite")
            return
        at.guard, at.figures = self.guard.state_dict(), self.figures.state_dict()
        at.wall_seconds, at.states_saved = self._wall_seconds(), at.states_saved + 1
        self.states.save(at, wait=wait, best=best, row_is_open=row_is_open)
        self._leave_out(started)

    def _leave_out(self, started: float) -> None:
        """The time since `started` belongs to no step."""
        self.step_ended += time.monotonic() - started

    def has_steps_left(self) -> bool:
        """False when the last update has been judged; its judgement may lead back to an older state."""
        if self.at.step >= self.schedule.steps:
            self.drain()
        return self.at.step < self.schedule.steps

    def finish(self, evaluate: Evaluate | None) -> None:
        """Evaluate the trained model and store that the run is finished."""
        at = self.at
        if at.step and self.last_update is not None and (not at.curve or at.curve[-1]["step"] != at.step):
            self._add_row(self.last_update)  # a wall clock may end a run on a step where no row was due
        if evaluate is not None:
            self.save(wait=True, row_is_open=True)  # an evaluation that fails must not cost the run
            at.evaluation = self.evaluate(evaluate)
        at.finished = True
        self.save(wait=True)

    # --- one step ------------------------------------------------------------------------------------------------

    def agree(self, stop: bool) -> tuple[str, bool]:
        """What all ranks do now: (why to stop, or nothing; whether to save)."""
        limit = self.options.limit_seconds
        late = limit is not None and time.monotonic() - self.session_started >= limit
        # While steps are skipped the weights stand still, and a new state would push out one from before.
        save = self.at.step > 0 and not self.skipping and self.states.is_due()
        stop, late, save = self.agreement.reached(self.at.step, self.step_seconds, stop, late, save)
        return ("stopped on request" if stop else f"time limit of {limit:g} s reached" if late else ""), save

    def take_step(self) -> None:
        """Launch one update. Its outcome is read at once on a CPU, during the next update on CUDA."""
        at, schedule, step, optimizer = self.at, self.schedule, self.at.step, self.options.optimizer
        started = time.monotonic()
        batch: Batch = self.batches.next()
        waited = time.monotonic() - started
        factor = schedule.lr_factor(step) * self.guard.lr_factor
        self.optimizer.schedule(factor, schedule.decay_factor(step), schedule.momentum(step, optimizer))
        update = self.updater.launch(batch, step + 1, self.guard.limit(), self._row_is_due(step + 1))
        update.seconds_waited, update.learning_rates = waited, learning_rates(optimizer, factor)
        at.step, at.tokens = step + 1, at.tokens + update.tokens
        at.micro_batch_rows = self.updater.micro_batch_rows
        previous, self.launched = self.launched, update
        if previous is not None:
            self._settle(previous)
        if update.arrived is None:
            self.drain()

    def drain(self) -> None:
        """Read the outcome of the last update."""
        update, self.launched = self.launched, None
        if update is not None:
            self._settle(update)

    def _settle(self, update: Update) -> None:
        at, outcome = self.at, update.outcome()
        now = time.monotonic()
        seconds, self.step_ended = now - self.step_ended, now
        self.step_seconds = seconds
        at.loss, at.seconds = outcome.loss, at.seconds + seconds
        self.figures.add(
            step=update.step,
            tokens=update.tokens,
            loss=outcome.loss,
            seconds=seconds,
            data_wait_seconds=update.seconds_waited,
            norms=outcome.norms,
            applied=outcome.applied,
        )
        if self.clock is not None:
            self.clock.add_step(seconds)
        if outcome.supervised_tokens and self._judge(update, outcome) == "roll_back":
            return
        self.last_update = update
        if self._row_is_due(update.step):
            self._add_row(update)
        lr = update.learning_rates["matrices"]
        self.report.progress(update.step, self.schedule.steps, update.tokens, outcome.loss, lr)
        if now - self.live_at >= _LIVE_SECONDS:
            self.live_at = now
            self.report.live(self.figures.live(update.step, self.schedule.steps))

    def _add_row(self, update: Update) -> None:
        self.figures.steps = self.schedule.steps
        at, figures = self.at, self.figures.row(update.learning_rates, update.ratios)
        later = self.launched.tokens if self.launched is not None and self.launched.step > update.step else 0
        tokens = at.tokens - later
        at.curve.append({"step": update.step, "tokens": tokens, "lr": update.learning_rates["matrices"], **figures})

    def _row_is_due(self, step: int) -> bool:
        last = step >= self.schedule.steps
        return last or step % self.options.curve_interval == 0 or self._evaluation_is_due(step)

    def _evaluation_is_due(self, step: int) -> bool:
        every = self.options.eval_every
        return bool(every and step % every == 0 and step < self.schedule.steps)

    def between_steps(self, evaluate: Evaluate | None, sample: Sample | None) -> None:
        """Evaluate, show samples and plan the end anew, where due."""
        at, options = self.at, self.options
        self.states.publish(at)
        if self.clock is not None and (self.world_size == 1 or at.step % _PLAN_EVERY == 0):
            self._plan(self.clock)
        self.evaluate_if_due(evaluate)
        if sample is not None and options.sample_every and at.step % options.sample_every == 0 and self.rank == 0:
            self.drain()
            started = time.monotonic()
            sample(self.model, at.step)
            self._leave_out(started)

    def evaluate_if_due(self, evaluate: Evaluate | None) -> None:
        """Once at every step where it is due, also when the run was killed after saving and before evaluating."""
        step = self.at.step
        if evaluate is None or not self._evaluation_is_due(step) or self.at.evaluated_step == step:
            return
        self.save(row_is_open=True)
        if self.at.step == step:  # and not rolled back just now
            self._keep_best(self.evaluate(evaluate))

    def _keep_best(self, values: dict[str, float]) -> None:
        value = values.get(BEST_BY)
        if value is not None and value < self.at.best.get("value", float("inf")):
            self.at.best = {"step": self.at.step, "value": value}
            self.save(best=True)

    def _plan(self, clock: WallClock) -> None:
        at = self.at
        at_end = at.evaluation_seconds
        if not at_end and at.step:
            tokens_per_second = at.tokens / max(at.seconds, 1e-9)
            at_end = self.options.evaluation_tokens / (3.0 * tokens_per_second)  # forward is a third of a step
        steps = clock.plan(self.schedule, at.step, self._wall_seconds(), at_end).steps if self.rank == 0 else 0
        if self.world_size > 1:
            steps = int(sum_over_ranks(torch.tensor(float(steps), device=self.model.device)).item())
        self.schedule = self.schedule.replanned(steps, at.step)
        at.planned_steps, at.warmup_done = self.schedule.steps, self.schedule.warmup_done

    def evaluate(self, evaluate: Evaluate) -> dict[str, float]:
        """Evaluate and enter the values in the newest curve row."""
        self.drain()
        started = time.monotonic()
        self.model.eval()
        values = {name: float(value) for name, value in evaluate(self.model).items()}
        self.model.train()
        if self.at.curve:
            self.at.curve[-1].update(values)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.report.note(f"step {self.at.step}: {shown}")
        self.at.evaluated_step, self.at.evaluation_seconds = self.at.step, time.monotonic() - started
        self._leave_out(started)
        return values

    # --- divergence ----------------------------------------------------------------------------------------------

    def _judge(self, update: Update, outcome: Outcome) -> str:
        """What the guard says of a step, carried out: tell of a skipped one, go back to a saved state, or give up."""
        rows = "" if outcome.applied else rows_in_words(update.rows, self.model.device)
        verdict = self.guard.judge(
            update.step,
            outcome.loss,
            outcome.gradient_norm,
            limit=update.loss_limit,
            rate=update.learning_rates["matrices"],
            rows=rows,
        )
        self.skipping = verdict.action != "ok"
        if verdict.action == "ok":
            return "ok"
        if not outcome.applied:
            self.at.skipped_steps += 1
        self.report.note(verdict.text)
        if verdict.action == "fail":
            raise TrainingDiverged(verdict.text)
        if verdict.action == "roll_back":
            self._roll_back(verdict)
        return verdict.action

    def _roll_back(self, verdict: Verdict) -> None:
        self.states.close()  # the newest state may still be on its way to the disk
        state = self.states.load(before=verdict.before)
        if state is None:
            raise TrainingDiverged(f"{verdict.text}; no state was saved before that; {self._advice()}")
        skipped, rollbacks = self.at.skipped_steps, self.at.rollbacks + 1
        self.launched = None
        self._take_up(state)
        self.at.skipped_steps, self.at.rollbacks = skipped, rollbacks
        factor = self.guard.rolled_back(self.at.step)
        self.agreement.ask_again()
        self.report.note(f"went back to step {self.at.step}, learning rates times {factor:g}")
        self.save(wait=True)  # a run killed now must not go back to the old rates
        self.step_ended = time.monotonic()

    def _advice(self) -> str:
        lr = self.options.optimizer.matrix_lr * self.schedule.lr_factor(max(self.at.step - 1, 0)) * self.guard.lr_factor
        return f"matrix learning rate {lr:.3g}; next: lower learning_rate_scale or lengthen warmup_fraction"

    def _wall_seconds(self) -> float:
        return self.wall_seconds_before + time.monotonic() - self.session_started
