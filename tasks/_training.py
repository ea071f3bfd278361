"""What the training stages share: parameters, the way into model/train_loop.py, the outputs."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from model.shape_of_config import extras_of_config, shape_of_config
from pipeline_math.model_flops_vram import shape_train_flops_per_token
from pipeline_math.pretrain_step import bounded_learning_rate_factor, muon_weight_decay, width_learning_rate_factor
from tasks._context import Progress, StageContext
from tasks._errors import Interrupted, StageError
from tasks._params import StageParams
from tasks._ranks import run_ranks
from tasks._runtime import Runtime
from tasks._training_report import report_training

if TYPE_CHECKING:
    from model.gpt import GPTConfig
    from model.optim import OptimizerOptions
    from model.rank_launcher import Launch
    from model.tokenizer import Tokenizer
    from model.train_options import LoopOptions, TrainResult

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]


class TrainingParams(StageParams):
    """Parameters of every training stage. Rates are quoted at 2^19 tokens per step and (AdamW) width 768."""

    matrix_optimizer: Literal["muon", "torch_muon", "adamw"] = "muon"
    """What moves the matrices of the layers: muon (model/muon.py), torch_muon (torch.optim.Muon) or adamw, the last two
    for comparison; adamw wants a `matrix_lr` some ten times smaller."""
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
    """Rows one process computes at once; null takes what fits the device by forecast and one probe (pretrain: at most
    the plan's). Halved when memory runs out all the same. Changes speed and memory, hardly the result."""
    eval_every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations on the val split; 0 evaluates at the end only."""
    eval_rows: Annotated[int, Field(ge=0)] = 256
    """Rows of the val split an evaluation takes, spread over the whole split; 0 evaluates nothing."""
    sample_every: Annotated[int, Field(ge=0)] = 0
    """Steps between samples of what the model writes, shown in the log and kept in samples.jsonl; 0: none."""
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
    horizon_seconds: float | None = None,
) -> "TrainResult":
    """Train on a row folder for `steps` updates of `batch_tokens` tokens; writes checkpoint/ and curve.csv to ctx.out.

    With `horizon_seconds` of wall clock the steps are a first guess, and the run ends on time.

    Continues from ctx.resume and returns at once if that holds the finished state. Raises Interrupted after saving when
    a stop was requested, StageError for parameters, rows or states that do not fit together.
    """
    from model.batches import RowFolder
    from model.checkpoint import save_weights
    from model.train_options import TrainingInterrupted
    from model.train_worker import SAMPLES, TrainJob, run_job

    try:
        source = RowFolder(rows, "train")
        rows_per_step = _rows_per_step(ctx, batch_tokens, source.tokens_per_row, source.rows)
        job = TrainJob(
            config=config,
            rows=rows,
            rows_per_step=rows_per_step,
            init=init,
            options=_options(ctx, training, config, steps, batch_tokens, source.tokens_per_row, horizon_seconds),
            resume_folder=ctx.resume / "states",
            bytes_per_id=tokenizer.bytes_per_id(),
            eval_rows=training.eval_rows if "val" in source.manifest else 0,
            device=device_of(ctx.runtime),
            threads=ctx.runtime.threads or max(1, ctx.cores // ctx.runtime.processes),
            tokenizer_sha256=tokenizer.sha256,
            tokenizer=ctx.input("artifacts/tokenizer/tokenizer.json") if training.sample_every else None,
            shard_model=ctx.runtime.shard_model,
            recompute=ctx.runtime.recompute_activations,
            float8=ctx.runtime.float8,
        )
        with ctx.progress(str(ctx.stage), steps * batch_tokens, "tok") as bar:
            report = ContextReporter(ctx, bar)
            if ctx.runtime.processes * ctx.runtime.nodes > 1:
                here = run_ranks(job, _launch(ctx.runtime), report, ctx.stop_requested)
                if not here:
                    raise Interrupted(f"node {ctx.runtime.node_rank} has helped; node 0 has the result")
                # It ended with a finished state, which is only loaded; one device may be too small for it.
                model, result = run_job(replace(job, device="cpu", shard_model=False), report, ctx.stop_requested)
            else:
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
    if (job.resume_folder / SAMPLES).exists():
        shutil.copyfile(job.resume_folder / SAMPLES, ctx.out / SAMPLES)
    report_training(ctx, model, source, result, job, batch_tokens, training.eval_every)
    return result


class ContextReporter:
    """Passes what the loop reports on to the stage's context."""

    def __init__(self, ctx: StageContext, bar: Progress) -> None:
        self.ctx, self.bar = ctx, bar

    def progress(self, step: int, steps: int, tokens: int, loss: float, lr: float) -> None:
        self.bar.update(tokens, step=f"{step}/{steps}", loss=f"{loss:.3f}", lr=f"{lr:.2g}")

    def live(self, values: dict[str, float]) -> None:
        self.ctx.live(values)

    def curve(self, rows: list[dict[str, float]]) -> None:
        self.ctx.log_curve(rows)

    def note(self, text: str) -> None:
        self.ctx.note(text)

    def figures(self, **values: float) -> None:
        self.ctx.report(**values)


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """The curve as CSV; a column that a row lacks (an evaluation not due) stays empty.

    Left out is what depends on the machine's mood: the same training gives the same file. MLflow has those figures.
    """
    from model.train_options import TIMING_COLUMNS

    names = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in names if name not in TIMING_COLUMNS]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _rows_per_step(ctx: StageContext, batch_tokens: int, tokens_per_row: int, rows: int) -> int:
    processes = ctx.runtime.processes * ctx.runtime.nodes
    unit = tokens_per_row * processes
    if batch_tokens % unit or batch_tokens < unit:
        nearest = max(unit, batch_tokens // unit * unit)
        raise StageError(
            f"stage {ctx.stage}: batch_tokens={batch_tokens} is not a multiple of {unit} (rows of {tokens_per_row} "
            f"tokens on {processes} process(es)); next: use {nearest}"
        )
    rows_per_step = batch_tokens // tokens_per_row
    if rows < rows_per_step:
        raise StageError(
            f"stage {ctx.stage}: the train split has {rows} rows, one step takes {rows_per_step} "
            f"(batch_tokens={batch_tokens}); next: more text, or batch_tokens <= {rows // processes * unit}"
        )
    return rows_per_step


def _options(
    ctx: StageContext,
    training: TrainingParams,
    config: "GPTConfig",
    steps: int,
    batch_tokens: int,
    tokens_per_row: int,
    horizon_seconds: float | None = None,
) -> "LoopOptions":
    from model.train_options import LoopOptions, Schedule

    runtime = ctx.runtime
    return LoopOptions(
        schedule=Schedule(steps, training.warmup_fraction, training.warmdown_fraction, training.final_lr_fraction),
        optimizer=optimizer_options(training, config.d_model, steps, batch_tokens),
        seed=training.seed,
        micro_batch_rows=training.micro_batch_rows,
        eval_every=training.eval_every,
        sample_every=training.sample_every,
        horizon_seconds=horizon_seconds,
        evaluation_tokens=training.eval_rows * tokens_per_row,
        checkpoint_seconds=runtime.checkpoint_seconds,
        failure_seconds=3600.0 * runtime.hours_between_failures,
        keep_states=runtime.keep_states,
        limit_seconds=None if runtime.wall_clock_limit_hours is None else 3600.0 * runtime.wall_clock_limit_hours,
        compile=runtime.compile,
        cache_folder=str(ctx.cache / "compiled"),
        flops_per_token=_flops_per_token(config, tokens_per_row),
        peak_flops=_peak_flops(ctx, config),
        code_key=ctx.code_key,
    )


def optimizer_options(training: TrainingParams, d_model: int, steps: int, batch_tokens: int) -> "OptimizerOptions":
    """Final rates: the parameters', times the rules for batch and width; the decay bounded by its rule."""
    from model.optim import OptimizerOptions

    factor = training.learning_rate_scale * bounded_learning_rate_factor(batch_tokens)
    adamw_factor = factor * width_learning_rate_factor(d_model)
    return OptimizerOptions(
        matrix_lr=training.matrix_lr * factor,
        embedding_lr=training.embedding_lr * adamw_factor,
        head_lr=training.head_lr * adamw_factor,
        weight_decay=muon_weight_decay(batch_tokens, steps * batch_tokens, ceiling=training.weight_decay),
        matrix_optimizer=training.matrix_optimizer,
    )


def _launch(runtime: Runtime) -> "Launch":
    from model.rank_launcher import Launch

    return Launch(runtime.processes, runtime.nodes, runtime.node_rank, runtime.rendezvous, runtime.max_restarts)


def _flops_per_token(config: "GPTConfig", tokens_per_row: int) -> float:
    shape, extras = shape_of_config(config, tokens_per_row), extras_of_config(config)
    return shape_train_flops_per_token(shape) if extras is None else extras.train_flops_per_token(shape)


def _peak_flops(ctx: StageContext, config: "GPTConfig") -> float:
    """FLOP/s of all devices of the run as the budget's hardware states them; 0 where that is another kind of device.

    For display only, so it is no declared input: a better estimate of a device must not train again.
    """
    from model.precision import compute_dtype

    device = device_of(ctx.runtime)
    name = (
        "peak_flops_bf16" if str(compute_dtype(device, config.compute_dtype)) == "torch.bfloat16" else "peak_flops_fp32"
    )
    try:
        planned = json.loads((ctx.root / "artifacts/budget/hardware.json").read_text(encoding="utf-8"))["device"]
        if (planned["kind"] == "gpu") != device.startswith("cuda"):
            return 0.0
        return float(planned[name] or 0.0) * ctx.runtime.nodes * (1 if device == "cpu" else ctx.runtime.processes)
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
