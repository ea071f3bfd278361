"""budget: hours and hardware -> depth, tokens, batch, precision, and what every stage will take.

Reads    nothing but its parameters
Writes   artifacts/budget/plan.json (read by later stages and the runner), plan.md (the same for people)
Promise  the plan is a pure function of the parameters; it fits the device's memory or the stage fails; every stage has
         predicted seconds with a 90 % interval
Limits   the hours are met as well as pipeline_math/hardware.py and machine_constants.py know the machine; `workload`
         repeats amounts that other sections decide (a test keeps the shipped profiles consistent)
"""

import json
from typing import Annotated, cast

from pydantic import Field, field_validator, model_validator

from pipeline_math.hardware import HARDWARE, find_hardware
from pipeline_math.loss_law import BEST_RATIO
from pipeline_math.plan import make_plan, plan_markdown
from pipeline_math.stage_seconds import Workload
from pipeline_math.target_budget import Goal, memory_fits, solve
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._params import StageParams


class WorkloadParams(StageParams):
    """How much the other stages will be asked to do: used for predicted times only. Fields: stage_seconds.Workload."""

    corpus_bytes: Annotated[float, Field(gt=0)]
    """Raw text read by the corpus stage."""
    kept_share: Annotated[float, Field(gt=0, le=1)]
    """Share of it expected to survive."""
    tokenizer_bytes: Annotated[float, Field(gt=0)]
    """Text the tokenizer is trained on."""
    evaluations: Annotated[int, Field(ge=0)]
    """Measurements of bits per byte during pretraining."""
    evaluation_tokens: Annotated[int, Field(ge=0)]
    """Tokens of one such measurement."""
    midtrain_tokens: Annotated[int, Field(ge=0)]
    sft_tokens: Annotated[int, Field(ge=0)]
    chat_batch_tokens: Annotated[int, Field(ge=1)]
    """Tokens per optimizer step of midtrain and sft."""
    rl_steps: Annotated[int, Field(ge=0)]
    """Policy updates; 0 = the stage passes the checkpoint through."""
    rl_samples_per_step: Annotated[int, Field(ge=1)]
    rl_new_tokens: Annotated[int, Field(ge=1)]
    """Most generated tokens per sample."""
    checkpoints: Annotated[int, Field(ge=1)]
    """Checkpoints the evaluation stage scores."""
    benchmark_tokens: Annotated[int, Field(ge=0)]
    """Prompt tokens of all benchmarks, per checkpoint."""
    benchmark_decode_steps: Annotated[int, Field(ge=0)]
    """Batched decode steps of all generative benchmarks, per checkpoint."""


class Params(StageParams):
    """What the user has and wants; null means: choose."""

    hours: Annotated[float, Field(gt=0)]
    """Wall clock of the whole pipeline, from raw text to the served model."""
    hardware: str
    """Device class, a name in pipeline_math/hardware.py."""
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
    pretrain_share: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of the hours for pretraining; the rest holds data preparation, chat training and evaluation."""
    mfu: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of peak FLOP/s measured on this machine; null takes the prior of the hardware class."""
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
    target_val_bpb: Annotated[float, Field(gt=0)] | None = None
    """Validation loss asked for, bits per byte; the plan warns when it does not expect to reach it."""
    workload: WorkloadParams

    @field_validator("hardware")
    @classmethod
    def hardware_is_known(cls, name: str) -> str:
        if name not in HARDWARE:
            raise ValueError(f"unknown hardware; allowed: {', '.join(HARDWARE)}")
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


def goal_of(params: Params) -> Goal:
    """The solver's goal for these parameters."""
    return Goal(
        hours=params.hours,
        hardware=find_hardware(params.hardware),
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
    )


def run(ctx: StageContext) -> None:
    """Solve for the plan and write it as JSON and Markdown."""
    params = cast(Params, ctx.params)
    try:
        found = solve(goal_of(params))
    except ValueError as error:
        raise StageError(
            f"budget: no plan for {params.hours:g} h on {params.devices} x {params.hardware}: {error}; "
            f"next: change budget.depth, budget.tokens_per_row, budget.micro_batch_rows or budget.hardware"
        ) from None
    if not memory_fits(found):
        raise StageError(
            f"budget: {found.memory_bytes / 1e9:.1f} GB per device needed, {params.hardware} has "
            f"{found.goal.hardware.memory_bytes / 1e9:.1f} GB; next: lower budget.micro_batch_rows or budget.depth"
        )
    plan = make_plan(found, Workload(**params.workload.model_dump()), params.usd_per_hour, params.target_val_bpb)
    text = json.dumps(plan, indent=2, sort_keys=True) + "\n"
    (ctx.out / "plan.json").write_text(text, encoding="utf-8")
    (ctx.out / "plan.md").write_text(plan_markdown(plan), encoding="utf-8")
    for warning in plan["warnings"]:
        ctx.note(f"warning: {warning}")
    total = plan["total"]
    ctx.note(
        f"{plan['depth']} layers, {plan['d_model']} channels, {plan['train_tokens']:,} tokens; "
        f"about {total['seconds'] / 60:.1f} min in all, {total['val_bpb']['value']:.2f} bits/byte"
    )
    ctx.report(
        depth=plan["depth"],
        d_model=plan["d_model"],
        parameters=plan["total_parameters"],
        train_tokens=plan["train_tokens"],
        batch_tokens=plan["batch_tokens"],
        planned_seconds=total["seconds"],
        planned_usd=total["usd"],
        planned_kwh=total["kwh"],
        planned_memory_bytes=total["vram_bytes"],
        planned_val_bpb=total["val_bpb"]["value"],
        warnings=len(plan["warnings"]),
    )
