"""What a finished training stage tells: exact sizes, speed, loss, memory, and the amounts behind them."""

from typing import TYPE_CHECKING

from model.shape_of_config import extras_of_config, shape_of_config
from pipeline_math.model_flops_vram import ModelShape, checkpoint_bytes
from tasks._context import StageContext
from tasks.stages import Stage

if TYPE_CHECKING:
    from model.batches import RowFolder
    from model.gpt import GPT
    from model.train_options import TrainResult
    from model.train_worker import TrainJob


def report_training(
    ctx: StageContext,
    model: "GPT",
    source: "RowFolder",
    result: "TrainResult",
    job: "TrainJob",
    batch_tokens: int,
    eval_every: int,
) -> None:
    """Figures, measurements and amounts of one run of the loop."""
    shape = shape_of_config(model.config, source.tokens_per_row)
    extras = extras_of_config(model.config)
    expected = checkpoint_bytes(shape) if extras is None else 4 * extras.total_parameters(shape)
    ctx.predict("checkpoint_bytes", expected, expected, expected)
    ctx.measure("checkpoint_bytes", sum(4 * weight.numel() for weight in model.parameters()))
    ctx.report(
        steps=result.steps,
        tokens=result.tokens,
        epochs=round(result.steps * job.rows_per_step / source.rows, 3),
        final_loss=result.final_loss,
        tokens_per_second=result.tokens_per_second,
        flops_per_second=result.tokens_per_second * job.options.flops_per_token,
        **{f"final_{name}": value for name, value in result.evaluation.items()},
    )
    if result.resumed_from is not None:
        ctx.report(resumed_from_step=result.resumed_from)
    ctx.report(**how_it_went(result, job.options.flops_per_token, job.options.peak_flops))
    _count(ctx, shape, source, result, job, batch_tokens, eval_every)
    ctx.measure("step_seconds", result.seconds / max(1, result.steps))
    ctx.measure("tokens_per_second", result.tokens_per_second)
    _measure_device_memory(ctx, job.device)


def how_it_went(result: "TrainResult", flops_per_token: float, peak_flops: float) -> dict[str, float]:
    """What a run was like besides its loss: skipped_steps, rollbacks, mfu where `peak_flops` is known (not 0).

    data_wait_share (mean of the curve's intervals, by their seconds) and grad_norm_<group>_largest are absent where the
    curve does not hold them.
    """
    figures: dict[str, float] = {"skipped_steps": result.skipped_steps, "rollbacks": result.rollbacks}
    if peak_flops > 0:
        figures["mfu"] = result.tokens_per_second * flops_per_token / peak_flops
    waited = seconds = tokens = 0.0
    for row in result.curve:
        if row.get("tokens_per_second", 0) > 0 and "data_wait_share" in row:
            own = (row["tokens"] - tokens) / row["tokens_per_second"]
            waited, seconds = waited + own * row["data_wait_share"], seconds + own
        tokens = row["tokens"]
        for name, norm in row.items():
            if name.startswith("grad_norm_"):
                figures[f"{name}_largest"] = max(norm, figures.get(f"{name}_largest", 0.0))
    if seconds > 0:
        figures["data_wait_share"] = waited / seconds
    return figures


def evaluation_count(steps: int, every: int) -> int:
    """Evaluations of a training of `steps` steps: one `every` so many (0: none), and one at the end."""
    return 1 + ((steps - 1) // every if every else 0)


def _count(
    ctx: StageContext,
    shape: ModelShape,
    source: "RowFolder",
    result: "TrainResult",
    job: "TrainJob",
    batch_tokens: int,
    eval_every: int,
) -> None:
    evaluations = evaluation_count(result.steps, eval_every)
    amounts = {
        **vars(shape),
        "batch_tokens": batch_tokens,
        "micro_batch_rows": min(result.micro_batch_rows, job.rows_per_step),
        "steps": result.steps,
        "devices": ctx.runtime.processes if job.device != "cpu" else 1,
        "supervised_share": ctx.figures.get("supervised_share", 1.0),
        "conversation_tokens": ctx.figures.get("conversation_tokens", 0),
        "evaluation_tokens": evaluations * job.eval_rows * source.tokens_per_row,
        "state_saves": result.states_saved,
    }
    text = source.manifest["train"]
    if ctx.stage == Stage.PRETRAIN and text.get("bytes") and "val_bpb" in result.evaluation:
        amounts["trained_bytes"] = result.tokens * text["bytes"] / text["tokens"]
        ctx.measure("bits_per_byte", result.evaluation["val_bpb"])
    ctx.count(**amounts)


def _measure_device_memory(ctx: StageContext, device: str) -> None:
    """Peak of the device's memory as its allocator reserved it. On a CPU the runner measures the process."""
    if device.startswith("cuda") and ctx.runtime.processes == 1:
        import torch

        ctx.measure("peak_memory_bytes", torch.cuda.max_memory_reserved(device))
