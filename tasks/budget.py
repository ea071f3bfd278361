"""budget: hours and hardware -> depth, tokens, batch, precision, and what every stage will take.

Reads    nothing but its parameters; asks its context what this machine can do (hardware: auto) and what earlier runs on
         it taught (calibrated: true). Neither is a dependency: it is asked when the stage runs, and makes nothing stale
Writes   artifacts/budget/plan.json      decisions alone: all that training depends on
         artifacts/budget/forecast.json  every stage's forecast with 90 % intervals, cost, amounts, warnings
         artifacts/budget/acceptance.json  what the gate will ask for
         artifacts/budget/hardware.json  the device class the plan was made for
         artifacts/budget/plan.md        the same for people
Promise  with a named class and calibrated: false the files are a pure function of the parameters; the plan fits the
         device's memory or the stage fails; every stage has predicted seconds
Limits   `workload` repeats amounts that other sections decide (a test keeps the shipped profiles consistent)
"""

import dataclasses
from typing import Annotated, Any, cast

from pydantic import Field, field_validator, model_validator

from pipeline_math.acceptance import reachable
from pipeline_math.forecast import Calibration
from pipeline_math.hardware import HARDWARE, Hardware, find_hardware, hardware_from_probe
from pipeline_math.layouts import DEFAULT, Layout
from pipeline_math.loss_law import BEST_RATIO
from pipeline_math.model_flops_vram import ModelShape, width_of_depth
from pipeline_math.plan import make_plan, plan_markdown
from pipeline_math.stage_seconds import Workload, memory_forecast
from pipeline_math.target_budget import Goal, Solution, memory_fits, solve
from tasks._acceptance import AcceptanceThreshold
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json, write_text
from tasks._params import StageParams

AUTO = "auto"
_DEFAULT = Workload()


class WorkloadParams(StageParams):
    """How much the other stages will be asked to do: used for predicted times only. Fields: stage_seconds.Workload."""

    corpus_bytes: Annotated[float, Field(gt=0)]
    """Raw text read by the corpus stage."""
    kept_share: Annotated[float, Field(gt=0, le=1)]
    """Share of it expected to survive."""
    documentation_sources: Annotated[int, Field(ge=0)] = _DEFAULT.documentation_sources
    """Sources of kind python_docs."""
    tokenizer_bytes: Annotated[float, Field(gt=0)]
    """Text the tokenizer is trained on."""
    bytes_per_token: Annotated[float, Field(gt=0)] = _DEFAULT.bytes_per_token
    """Compression expected of the tokenizer."""
    evaluations: Annotated[int, Field(ge=0)]
    """Measurements of bits per byte during pretraining."""
    evaluation_tokens: Annotated[int, Field(ge=0)]
    """Tokens of one such measurement."""
    midtrain_tokens: Annotated[int, Field(ge=0)]
    sft_tokens: Annotated[int, Field(ge=0)]
    chat_batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens per optimizer step of midtrain and sft."""
    chat_micro_batch_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows of one of their micro-batches; null: pretraining's."""
    sft_supervised_share: Annotated[float, Field(gt=0, le=1)] = _DEFAULT.sft_supervised_share
    """Share of fine-tuning's tokens that have a target."""
    rl_steps: Annotated[int, Field(ge=0)]
    """Policy updates; 0 = the stage passes the checkpoint through."""
    rl_samples_per_step: Annotated[int, Field(ge=1)]
    rl_new_tokens: Annotated[int, Field(ge=1)]
    """Most generated tokens per sample."""
    rl_row_tokens: Annotated[float, Field(gt=0)] = _DEFAULT.rl_row_tokens
    """Mean length of prompt and reply."""
    rl_micro_batch_rows: Annotated[int, Field(ge=1)] = _DEFAULT.rl_micro_batch_rows
    """Samples of one of the policy's micro-batches."""
    checkpoints: Annotated[int, Field(ge=1)]
    """Checkpoints the evaluation stage scores."""
    benchmark_tokens: Annotated[int, Field(ge=0)]
    """Tokens read by all benchmarks, held-out text included, per checkpoint."""
    benchmark_decode_steps: Annotated[int, Field(ge=0)]
    """Batched decode steps of all generative benchmarks, per checkpoint."""
    benchmark_rows: Annotated[float, Field(ge=1)] = _DEFAULT.benchmark_rows
    """Mean sequences decoded together."""
    champion_comparisons: Annotated[int, Field(ge=0, le=1)] = _DEFAULT.champion_comparisons
    """1 when gate.max_regression is set: the gate then asks the registry."""
    inference_prompt_tokens: Annotated[int, Field(ge=1)] = _DEFAULT.inference_prompt_tokens
    """Length of the prompts it is measured with."""
    inference_decode_steps: Annotated[int, Field(ge=0)] = _DEFAULT.inference_decode_steps
    """Decode steps of the engine's measurement."""
    inference_rows: Annotated[float, Field(ge=1)] = _DEFAULT.inference_rows
    chat_decode_steps: Annotated[int, Field(ge=0)] = _DEFAULT.chat_decode_steps
    """Tokens of the conversation held with the served model."""


class Params(StageParams):
    """What the user has and wants; null means: choose."""

    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Wall clock of the whole pipeline, from raw text to the served model."""
    hardware: str
    """Device class, a name in pipeline_math/hardware.py; auto: what this machine is measured to do."""
    calibrated: bool = True
    """Plan with what earlier runs on this machine taught; false: with the class's constants."""
    devices: Annotated[int, Field(ge=1)] = 1
    """Devices of that class in one machine."""
    tokens_per_row: Annotated[int, Field(ge=16)] = 2048
    """Context length in tokens."""
    vocab_size: Annotated[int, Field(ge=320, multiple_of=64)] = 32768
    """Vocabulary the tokenizer stage will produce, special tokens included."""
    ratio: Annotated[float, Field(gt=0)] = BEST_RATIO
    """Wanted training tokens per scaling parameter (blocks + head)."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Layers; null solves for the depth whose ratio is nearest."""
    d_model: Annotated[int, Field(ge=2)] | None = None
    """Channels; null: 64 per layer, in whole heads of 128."""
    n_heads: Annotated[int, Field(ge=1)] | None = None
    """Query heads; null: one per 128 channels."""
    n_kv_heads: Annotated[int, Field(ge=1)] | None = None
    """Key/value heads; null: as many as query heads."""
    train_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of pretraining; null: as many as the hours allow."""
    pretrain_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the hours for pretraining; null: what the other stages leave."""
    mfu: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of peak FLOP/s of a whole step; null takes what is known of the class and the machine."""
    unique_tokens: Annotated[float, Field(gt=0)] | None = None
    """Distinct training tokens there are; null means as many as needed."""
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens per optimizer step; null applies the batch rule."""
    micro_batch_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows per device and pass; null takes the largest that fits and helps."""
    minimum_steps: Annotated[int, Field(ge=1)] = 300
    """Steps a run should have before its batch may grow."""
    usd_per_hour: Annotated[float, Field(ge=0)] | None = None
    """Price of one device for an hour; null takes the default of the hardware class."""
    acceptance: tuple[AcceptanceThreshold, ...] = ()
    """What the finished run must reach: enforced by the gate; the plan warns of what it does not expect to reach."""
    workload: WorkloadParams

    @field_validator("hardware")
    @classmethod
    def hardware_is_known(cls, name: str) -> str:
        if name != AUTO and name not in HARDWARE:
            raise ValueError(f"unknown hardware; allowed: {AUTO}, {', '.join(HARDWARE)}")
        return name

    @model_validator(mode="after")
    def batch_fills_rows(self) -> "Params":
        one_row_each = self.tokens_per_row * self.devices
        if self.batch_tokens is not None and self.batch_tokens % one_row_each:
            raise ValueError(
                f"budget.batch_tokens={self.batch_tokens} is no multiple of budget.tokens_per_row * budget.devices = "
                f"{one_row_each}; use {max(1, round(self.batch_tokens / one_row_each)) * one_row_each}"
            )
        return self

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> "Params":
        if self.d_model is None and (self.n_heads or self.n_kv_heads):
            raise ValueError("budget.n_heads and budget.n_kv_heads need budget.d_model; next: set it, or both to null")
        heads = self.n_heads or max(1, (self.d_model or 128) // 128)
        if self.d_model is not None and (self.d_model % heads or self.d_model // heads % 2):
            raise ValueError(
                f"budget.d_model={self.d_model} over {heads} heads must give an even head dimension; next: use a "
                f"multiple of {2 * heads}"
            )
        if heads % (self.n_kv_heads or heads):
            raise ValueError(f"budget.n_kv_heads={self.n_kv_heads} does not divide {heads} query heads")
        return self


def layout_of(params: Params) -> Layout:
    """The default layout, with the width and heads that the parameters spell out."""

    def shape(depth: int, vocab_size: int, tokens_per_row: int) -> ModelShape:
        width = params.d_model or width_of_depth(depth)
        heads = params.n_heads or max(1, width // 128)
        return ModelShape(depth, width, heads, params.n_kv_heads or heads, 4 * width, vocab_size, tokens_per_row)

    return dataclasses.replace(DEFAULT, shape=shape)


def goal_of(params: Params, hardware: Hardware | None = None) -> Goal:
    """The solver's goal for these parameters; `hardware` replaces the name where that is auto."""
    return Goal(
        hours=params.hours,
        hardware=hardware or find_hardware(params.hardware),
        devices=params.devices,
        tokens_per_row=params.tokens_per_row,
        vocab_size=params.vocab_size,
        ratio=params.ratio,
        depth=params.depth,
        pretrain_share=params.pretrain_share,
        mfu=params.mfu,
        unique_tokens=params.unique_tokens,
        batch_tokens=params.batch_tokens,
        micro_batch_rows=params.micro_batch_rows,
        minimum_steps=params.minimum_steps,
        train_tokens=params.train_tokens,
    )


def workload_of(params: Params) -> Workload:
    """The amounts of the other stages."""
    return Workload(**params.workload.model_dump())


def solve_for(params: Params, hardware: Hardware | None = None, calibration: Calibration | None = None) -> Solution:
    """The plan for these parameters; ValueError when nothing fits."""
    return solve(goal_of(params, hardware), layout_of(params), work=workload_of(params), calibration=calibration)


def run(ctx: StageContext) -> None:
    """Solve for the plan and write it for stages, gate and people."""
    params = cast(Params, ctx.params)
    hardware = hardware_of(ctx, params)
    calibration = ctx.calibration(hardware) if params.calibrated else None
    found = _solve(params, hardware, calibration)
    plan = make_plan(found, workload_of(params), calibration, params.usd_per_hour)
    forecast = plan["forecast"]
    warnings = (reachable(threshold.threshold(), forecast) for threshold in params.acceptance)
    forecast["warnings"] += [warning for warning in warnings if warning]
    _, parts = memory_forecast(found.shape, found.micro_batch_rows, hardware, calibration=calibration)
    forecast["memory"] |= {"parts": parts, "limit_bytes": hardware.memory_bytes}
    write_json(ctx.out / "plan.json", plan["decisions"])
    write_json(ctx.out / "forecast.json", forecast)
    write_json(
        ctx.out / "acceptance.json",
        {"hours": params.hours, "thresholds": [threshold.model_dump() for threshold in params.acceptance]},
    )
    write_json(ctx.out / "hardware.json", {"device": dataclasses.asdict(hardware), "asked_for": params.hardware})
    write_text(ctx.out / "plan.md", plan_markdown(plan))
    _report(ctx, plan)


def hardware_of(ctx: StageContext, params: Params) -> Hardware:
    """The named device class, or what this machine was measured to do."""
    if params.hardware != AUTO:
        return find_hardware(params.hardware)
    try:
        return hardware_from_probe(ctx.machine())
    except ValueError as error:
        raise StageError(f"budget.hardware=auto: {error}") from None


def _solve(params: Params, hardware: Hardware, calibration: Calibration | None) -> Solution:
    try:
        found = solve_for(params, hardware, calibration)
    except ValueError as error:
        raise StageError(
            f"budget: no plan for {params.hours:g} h on {params.devices} x {hardware.name}: {error}; "
            f"next: change budget.depth, budget.tokens_per_row, budget.micro_batch_rows or budget.hardware"
        ) from None
    if not memory_fits(found):
        raise StageError(
            f"budget: {found.memory_bytes / 1e9:.1f} GB per device needed, {hardware.name} has "
            f"{hardware.memory_bytes / 1e9:.1f} GB; next: lower budget.micro_batch_rows or budget.depth"
        )
    return found


def _report(ctx: StageContext, plan: dict[str, Any]) -> None:
    decisions, forecast = plan["decisions"], plan["forecast"]
    total = forecast["total"]
    for warning in forecast["warnings"]:
        ctx.note(f"warning: {warning}")
    bpb = forecast["predictions"]["pretrain"]["bits_per_byte"]["value"]
    ctx.note(
        f"{decisions['depth']} layers, {decisions['d_model']} channels, {decisions['train_tokens']:,} tokens; "
        f"about {total['seconds'] / 60:.1f} min in all, {bpb:.2f} bits/byte"
    )
    ctx.report(
        depth=decisions["depth"],
        d_model=decisions["d_model"],
        parameters=forecast["total_parameters"],
        train_tokens=decisions["train_tokens"],
        batch_tokens=decisions["batch_tokens"],
        planned_seconds=total["seconds"],
        planned_usd=total["usd"],
        planned_kwh=total["kwh"],
        planned_memory_bytes=total["vram_bytes"],
        planned_val_bpb=bpb,
        warnings=len(forecast["warnings"]),
    )
