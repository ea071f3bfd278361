"""What the training stages share: parameters, the way into model/train_loop.py, the outputs."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from pipeline_math.pretrain_step import learning_rate_factor, muon_weight_decay, width_learning_rate_factor
from tasks._context import Progress, StageContext
from tasks._errors import Interrupted, StageError
from tasks._params import StageParams
from tasks._ranks import run_ranks
from tasks._runtime import Runtime
from tasks._training_report import report_training

if TYPE_CHECKING:
    from model.gpt import GPTConfig
    from model.tokenizer import Tokenizer
    from model.train_options import LoopOptions, TrainResult

_DEFAULT_MICRO_BATCH_ROWS = 16

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]


class TrainingParams(StageParams):
    """Parameters of every training stage. Rates are quoted at 2^19 tokens per step and (AdamW) width 768."""

    learning_rate_scale: Rate = 1.0
    """Factor on all learning rates, after the rules for batch and width."""
    matrix_lr: Rate = 0.02
    """Muon, the matrices of the layers."""
    embedding_lr: Rate = 0.3
    """AdamW, the embedding."""
    head_lr: Rate = 0.008
    """AdamW, the head."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.28
    """Muon's, at most: long runs get less (pipeline_math.pretrain_step.muon_weight_decay); falls to 0 over the run."""
    warmup_fraction: Fraction = 0.02
    """Share of the steps in which the learning rates rise from 0."""
    warmdown_fraction: Fraction = 0.65
    """Share of the steps, at the end, in which they fall."""
    final_lr_fraction: Fraction = 0.05
    """What they fall to, relative to the full rates."""
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens per optimizer step over all processes; null takes the plan's."""
    micro_batch_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows one process computes at once; null takes the plan's in pretrain, 16 in midtrain and sft.

    Changes speed and memory, hardly the result.
    """
    eval_every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations on the val split; 0 evaluates at the end only."""
    eval_rows: Annotated[int, Field(ge=0)] = 256
    """Rows of the val split an evaluation takes, spread over the whole split; 0 evaluates nothing."""
    seed: int = 0
    """Of the initial weights and of the order of the rows."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainingParams":
        if self.warmup_fraction + self.warmdown_fraction > 1:
            raise ValueError(
                f"warmup_fraction={self.warmup_fraction} + warmdown_fraction={self.warmdown_fraction} exceed 1; "
                f"next: lower one"
            )
        return self


def device_of(runtime: Runtime) -> str:
    """The device name `runtime.device` stands for; StageError if it is not there."""
    import torch

    if runtime.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = runtime.device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not there:
        raise StageError(f"runtime.yaml: device: {runtime.device} is not available here; next: device: auto")
    return runtime.device


def train_stage(
    ctx: StageContext,
    rows: Path,
    config: "GPTConfig",
    init: Path | None,
    training: TrainingParams,
    steps: int,
    batch_tokens: int,
    tokenizer: "Tokenizer",
) -> "TrainResult":
    """Train on a row folder for `steps` updates of `batch_tokens` tokens; writes checkpoint/ and curve.csv to ctx.out.

    Continues from ctx.resume and returns at once if that holds the finished state. Raises Interrupted after saving when
    a stop was requested, StageError for parameters, rows or states that do not fit together.
    """
    from model.batches import RowFolder
    from model.checkpoint import save_weights
    from model.train_options import TrainingInterrupted
    from model.train_worker import TrainJob, run_job

    try:
        source = RowFolder(rows, "train")
        rows_per_step = _rows_per_step(ctx, batch_tokens, source.tokens_per_row, source.rows)
        job = TrainJob(
            config=config,
            rows=rows,
            rows_per_step=rows_per_step,
            init=init,
            options=_options(ctx, training, config.d_model, steps, batch_tokens),
            resume_folder=ctx.resume / "states",
            bytes_per_id=tokenizer.bytes_per_id(),
            eval_rows=training.eval_rows if "val" in source.manifest else 0,
            device=device_of(ctx.runtime),
            threads=ctx.runtime.threads or max(1, ctx.cores // ctx.runtime.processes),
            tokenizer_sha256=tokenizer.sha256,
        )
        with ctx.progress(str(ctx.stage), steps * batch_tokens, "tok") as bar:
            report = ContextReporter(ctx, bar)
            if ctx.runtime.processes > 1:
                run_ranks(job, ctx.runtime.processes, report, ctx.stop_requested)
                # It ended with a finished state, which the next line only loads.
            model, result = run_job(job, report, ctx.stop_requested)
    except TrainingInterrupted as interruption:
        raise Interrupted(str(interruption)) from None
    except ValueError as error:
        raise StageError(f"stage {ctx.stage}: {error}") from error
    meta = {
        "stage": str(ctx.stage),
        "step": result.steps,
        "tokens": result.tokens,
        "tokenizer_sha256": tokenizer.sha256,
        "key": ctx.key,
    }
    save_weights(ctx.out / "checkpoint", model, meta)
    write_curve(ctx.out / "curve.csv", result.curve)
    report_training(ctx, model, source, result, job, batch_tokens, training.eval_every)
    return result


class ContextReporter:
    """Passes what the loop reports on to the stage's context."""

    def __init__(self, ctx: StageContext, bar: Progress) -> None:
        self.ctx, self.bar = ctx, bar

    def progress(self, step: int, steps: int, tokens: int, loss: float, lr: float) -> None:
        self.bar.update(tokens, step=f"{step}/{steps}", loss=f"{loss:.3f}", lr=f"{lr:.2g}")

    def curve(self, rows: list[dict[str, float]]) -> None:
        self.ctx.log_curve(rows)

    def note(self, text: str) -> None:
        self.ctx.note(text)

    def figures(self, **values: float) -> None:
        self.ctx.report(**values)


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """The curve as CSV; a column that a row lacks (an evaluation not due) stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _rows_per_step(ctx: StageContext, batch_tokens: int, tokens_per_row: int, rows: int) -> int:
    unit = tokens_per_row * ctx.runtime.processes
    if batch_tokens % unit or batch_tokens < unit:
        nearest = max(unit, batch_tokens // unit * unit)
        raise StageError(
            f"stage {ctx.stage}: batch_tokens={batch_tokens} is not a multiple of {unit} (rows of {tokens_per_row} "
            f"tokens on {ctx.runtime.processes} process(es)); next: use {nearest}"
        )
    rows_per_step = batch_tokens // tokens_per_row
    if rows < rows_per_step:
        raise StageError(
            f"stage {ctx.stage}: the train split has {rows} rows, one step takes {rows_per_step} "
            f"(batch_tokens={batch_tokens}); next: more text, or batch_tokens <= {rows // ctx.runtime.processes * unit}"
        )
    return rows_per_step


def _options(ctx: StageContext, training: TrainingParams, d_model: int, steps: int, batch_tokens: int) -> "LoopOptions":
    from model.train_options import LoopOptions, Schedule

    factor = training.learning_rate_scale * learning_rate_factor(batch_tokens)
    adamw_factor = factor * width_learning_rate_factor(d_model)
    return LoopOptions(
        schedule=Schedule(steps, training.warmup_fraction, training.warmdown_fraction, training.final_lr_fraction),
        matrix_lr=training.matrix_lr * factor,
        embedding_lr=training.embedding_lr * adamw_factor,
        head_lr=training.head_lr * adamw_factor,
        weight_decay=muon_weight_decay(batch_tokens, steps * batch_tokens, ceiling=training.weight_decay),
        seed=training.seed,
        micro_batch_rows=training.micro_batch_rows or _DEFAULT_MICRO_BATCH_ROWS,
        eval_every=training.eval_every,
        checkpoint_seconds=ctx.runtime.checkpoint_seconds,
        code_key=ctx.code_key,
    )
