"""pretrain: train the base model on packed text.

Reads    artifacts/architecture/config.json, artifacts/shards (rows), artifacts/budget/plan.json (tokens and batch),
         artifacts/tokenizer/tokenizer.json (bytes per token)
Writes   artifacts/pretrain/checkpoint/ (weights, config, meta), curve.csv
Promise  killed at any moment it continues from its last saved state with the next batch it would have seen; on a CPU
         with the same number of threads the result is bit for bit that of an uninterrupted run
Limits   tokens are rounded up to whole steps; more tokens than the rows hold repeat them in a new order (`epochs`)
"""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, model_validator

from model.shape_of_config import shape_of_config
from pipeline_math.model_flops_vram import scaling_parameters, shape_train_flops_per_token
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._training import TrainingParams, train_stage
from tasks._training_report import evaluation_count

if TYPE_CHECKING:
    from model.gpt import GPTConfig


_HORIZONS = ("tokens", "steps", "tokens_per_parameter", "total_flops", "hours")


class Params(TrainingParams):
    """Training parameters of the base model; null takes what the plan says.

    How long it trains: at most one of tokens, steps, tokens_per_parameter, total_flops, hours; none takes the plan's
    tokens.
    """

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens to train on; rounded up to whole steps."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps."""
    tokens_per_parameter: Annotated[float, Field(gt=0)] | None = None
    """Tokens per scaling parameter (matrices of the layers and head); 10.5 is nanochat's measured optimum."""
    total_flops: Annotated[float, Field(gt=0)] | None = None
    """Training FLOPs (6 per matmul weight and token, attention not halved for causality)."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Wall clock, evaluations included: the steps, and with them the warm-down, follow the measured speed. Two such
    runs differ, since no two runs are equally fast."""

    @model_validator(mode="after")
    def _one_horizon(self) -> "Params":
        given = [name for name in _HORIZONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; next: set all but one to null")
        return self


def steps_of(params: Params, config: "GPTConfig", plan_tokens: int, batch_tokens: int, tokens_per_row: int) -> int:
    """Optimizer steps of the horizon that `params` name; of `hours` only a first guess, from the plan's tokens."""
    if params.steps is not None:
        return params.steps
    shape = shape_of_config(config, tokens_per_row)
    tokens: float = plan_tokens
    if params.tokens_per_parameter is not None:
        tokens = params.tokens_per_parameter * scaling_parameters(shape)
    elif params.total_flops is not None:
        tokens = params.total_flops / shape_train_flops_per_token(shape)
    return max(1, math.ceil(tokens / batch_tokens))


def expected_amounts(
    params: Params, steps: int, plan: Mapping[str, int], manifest: Mapping[str, Any], step_seconds: float | None
) -> dict[str, float]:
    """What a horizon other than the plan's will process, by the names of pipeline_math.stage_terms.

    `plan` as `read_plan` gives it, `manifest` of the rows; `hours` need `step_seconds`, the forecast of a step (None:
    `steps` are taken).
    """
    if params.hours is not None and step_seconds:
        steps = max(1, round(3600.0 * params.hours / step_seconds))
    tokens, text = steps * plan["batch_tokens"], manifest["train"]
    amounts: dict[str, float] = {"steps": steps, **{name: plan[name] for name in ("batch_tokens", "micro_batch_rows")}}
    rows = params.eval_rows if "val" in manifest else 0
    amounts["evaluation_tokens"] = evaluation_count(steps, params.eval_every) * rows * int(manifest["tokens_per_row"])
    if text.get("bytes"):
        amounts["trained_bytes"] = tokens * text["bytes"] / text["tokens"]
    return amounts


def read_plan(ctx: StageContext, params: Params) -> dict[str, int]:
    """{"train_tokens", "batch_tokens", "micro_batch_rows"}: the parameter where set, else the plan's."""
    path = ctx.input("artifacts/budget/plan.json")
    plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    wanted = {
        "train_tokens": params.tokens,
        "batch_tokens": params.batch_tokens,
        "micro_batch_rows": params.micro_batch_rows,
    }
    absent = sorted(name for name, value in wanted.items() if value is None and not plan.get(name))
    if absent:
        raise StageError(f"{path} lacks {', '.join(absent)}; next: `dvc repro budget`, or set it under pretrain")
    return {name: int(plan[name] if value is None else value) for name, value in wanted.items()}


def read_config(ctx: StageContext, tokens_per_row: int, vocab_size: int) -> "GPTConfig":
    """The frozen architecture; StageError if rows or vocabulary do not fit it."""
    from model.gpt import GPTConfig

    config = GPTConfig.from_json(ctx.input("artifacts/architecture/config.json"))
    if tokens_per_row > config.sequence_length or vocab_size > config.vocab_size:
        raise StageError(
            f"artifacts/shards has rows of {tokens_per_row} tokens over {vocab_size} ids; the architecture allows "
            f"{config.sequence_length} tokens over {config.vocab_size} ids; next: make shards.tokens_per_row and "
            f"architecture agree"
        )
    return config


def run(ctx: StageContext) -> None:
    """Train for as many steps as tokens and batch make."""
    from model.batches import read_manifest
    from model.tokenizer import Tokenizer

    params = cast(Params, ctx.params)
    plan = read_plan(ctx, params)
    rows = ctx.input("artifacts/shards")
    manifest = read_manifest(rows)
    tokenizer = Tokenizer.from_file(ctx.input("artifacts/tokenizer/tokenizer.json"))
    if manifest.get("tokenizer_sha256") != tokenizer.sha256:
        raise StageError(
            f"artifacts/shards was packed with tokenizer {manifest.get('tokenizer_sha256')}, artifacts/tokenizer holds "
            f"{tokenizer.sha256}; next: `dvc repro shards`"
        )
    config = read_config(ctx, int(manifest["tokens_per_row"]), int(manifest["vocab_size"]))
    training = params.model_copy(update={"micro_batch_rows": plan["micro_batch_rows"]})
    batch_tokens, tokens_per_row = plan["batch_tokens"], int(manifest["tokens_per_row"])
    steps = steps_of(params, config, plan["train_tokens"], batch_tokens, tokens_per_row)
    hours = None if params.hours is None else 3600.0 * params.hours
    if any(getattr(params, name) is not None for name in (*_HORIZONS, "batch_tokens", "micro_batch_rows")):
        ctx.foresee({name: plan[name] for name in ("batch_tokens", "micro_batch_rows")})  # the step of these
        step_seconds, *_ = ctx.predicted.get("step_seconds", (None,))
        ctx.foresee(expected_amounts(params, steps, plan, manifest, step_seconds))
    length = f"{steps} steps" if hours is None else f"{params.hours:g} hours"
    ctx.note(f"{length} of {batch_tokens} tokens a step, {config.n_layers} layers of width {config.d_model}")
    train_stage(ctx, rows, config, None, training, steps, batch_tokens, tokenizer, horizon_seconds=hours)
