"""How a run computes, settled before its first step of a session: rows at once, attention path, compiled or not."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from model.allocator import keep_freed_memory
from model.compilation import ComputeChoice, apply, prepare_compute
from model.gpt import GPT
from model.micro_batch import largest_micro_batch
from model.ranks import exchange_json
from model.train_options import Batches, LoopOptions
from model.train_position import Position
from model.train_step import Updater


def settle_compute(
    model: GPT,
    batches: Batches,
    options: LoopOptions,
    at: Position,
    updater: Updater,
    steps_left: int,
    note: Callable[[str], None],
) -> None:
    """Choose by measuring and enter the choice in `at.compute`; a run that has one computes as it did.

    Sets the updater's micro-batch to what fits, where the batches have one shape (`step_shape`).
    """
    cache_folder = Path(options.cache_folder) if options.cache_folder else None
    if model.device.type == "cpu":
        keep_freed_memory()
    if at.compute:
        apply(ComputeChoice.from_values(at.compute), model, cache_folder=cache_folder, note=note)
        return
    rows = updater.micro_batch_rows
    step_rows, tokens = getattr(batches, "step_shape", None) or (rows, None)
    if tokens is not None and not at.step:
        most = options.micro_batch_rows
        rows = largest_micro_batch(model, step_rows, tokens, most_rows=most, note=note).rows
        rows = updater.micro_batch_rows = min(exchange_json(rows, model.device))
    choice = prepare_compute(
        model,
        model.device,
        rows=min(rows, step_rows),
        tokens=tokens,
        micro_batches=-(-step_rows // rows),
        steps_left=steps_left,
        seconds_left=options.horizon_seconds,
        request=options.compile,
        cache_folder=cache_folder,
        note=note,
    )
    at.compute = asdict(choice)
    note("; ".join(choice.reasons))
