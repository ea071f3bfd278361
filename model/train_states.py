"""The saved states of a training run: what goes in, what comes out, and which curve rows they have made permanent.

A state is {model/..., optimizer/..., rng/...} tensors, the position (train_position.py), the options and the loader's
position; how it reaches the disk is state_store.py's business. The first rank writes and reads; the others give and
receive their part.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import load_into
from model.gpt import GPT
from model.optim import Optimizer
from model.ranks import broadcast_state, rank_and_world_size
from model.state_store import StateStore
from model.train_options import MAY_DIFFER_ON_RESUME, Batches, LoopOptions, Reporter
from model.train_position import Position

State = tuple[dict[str, Tensor], dict[str, Any]]
_REFUSED = "refused"


class RunStates:
    """Takes states of a run and puts them back."""

    def __init__(
        self,
        model: GPT,
        optimizer: Optimizer,
        batches: Batches,
        options: LoopOptions,
        folder: Path,
        report: Reporter,
    ) -> None:
        self.model, self.optimizer, self.batches = model, optimizer, batches
        self.options, self.folder, self.report = options, folder, report
        self.rank = rank_and_world_size()[0]
        self.store = StateStore(
            folder,
            keep=options.keep_states,
            mean_seconds_between_failures=options.failure_seconds,
            note=report.note,
        )
        self._saved_at = time.monotonic()
        self._rows_saved = self._rows_published = 0

    def load(self, before: int | None = None) -> State | None:
        """The newest complete state (of fewer updates than `before`), on every rank; None if there is none.

        ValueError if it is of another run.
        """
        state: State | None = None
        if self.rank == 0:
            try:
                state = self.store.load(before=before)
            except ValueError as error:
                state = {}, {_REFUSED: str(error)}  # the others wait for a state, or for the reason why there is none
        state = broadcast_state(state, self.model.device, self._is_needed_here)
        if state is not None and _REFUSED in state[1]:
            raise ValueError(state[1][_REFUSED])
        if state is not None:
            self._check_options(state[1]["options"])
        return state

    def _is_needed_here(self, name: str) -> bool:
        kind, _, rest = name.partition("/")
        return kind != "optimizer" or self.optimizer.needs(rest)

    def _check_options(self, saved: dict[str, Any]) -> None:
        now = _leaves(asdict(self.options))
        for name, value in _leaves(saved).items():
            if name in now and name.partition(".")[0] not in MAY_DIFFER_ON_RESUME and now[name] != value:
                raise ValueError(
                    f"saved state in {self.folder} was trained with {name}={value}, now {name}={now[name]}; "
                    f"next: restore the old value to continue, or remove the folder to train from the start"
                )

    def take_up(self, state: State) -> Position:
        """Put model, optimizer, loader and random generators where the state was taken; -> its position."""
        tensors, info = state
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
        at = Position.from_json(info["position"])
        self._rows_saved = self._rows_published = len(at.curve)
        return at

    def is_due(self) -> bool:
        """True when the clock asks for a state (on the first rank)."""
        if self.rank != 0:
            return False
        fixed = self.options.checkpoint_seconds
        return self.store.due() if fixed is None else time.monotonic() - self._saved_at >= fixed

    def save(self, at: Position, *, wait: bool = False, best: bool = False, row_is_open: bool = False) -> None:
        """Take a state and write it in the background; `wait` until it is on the disk. Every rank must call.

        `row_is_open`: the newest curve row still gets the values of an evaluation and is not given away yet.
        ValueError when `wait` finds that it cannot be written.
        """
        self._saved_at = started = time.monotonic()
        optimizer_state, weights = self.optimizer.state_tensors(), self.model.state_dict()
        if self.rank != 0:
            return
        tensors = {f"model/{name}": value for name, value in weights.items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer_state.items()}
        tensors["rng/cpu"] = torch.get_rng_state()
        if self.model.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.model.device)
        info = {"position": asdict(at), "options": asdict(self.options), "batches": self.batches.state_dict()}
        self.publish(at)
        self._rows_saved = max(self._rows_published, len(at.curve) - int(row_is_open))
        self.store.save(at.step, tensors, info, wait=wait, best=best, since=started)
        self.publish(at)

    def publish(self, at: Position) -> None:
        """Give away the curve rows that are on the disk: a killed run takes none of them back."""
        if self.rank == 0 and self._rows_saved > self._rows_published and not (self.store.pending or self.store.failed):
            self.report.curve(at.curve[self._rows_published : self._rows_saved])
            self._rows_published = self._rows_saved

    def publish_again(self, at: Position, row_is_open: bool) -> None:
        """Give away all rows of a state that was taken up: the former session may have been killed before it did."""
        self._rows_saved = self._rows_published = max(0, len(at.curve) - int(row_is_open))
        self.report.curve(at.curve[: self._rows_published])

    def close(self) -> None:
        """Let the last state reach the disk."""
        self.store.close()


def _leaves(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer": {"matrix_lr": 1}} -> {"optimizer.matrix_lr": 1}."""
    leaves: dict[str, Any] = {}
    for name, value in options.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves
