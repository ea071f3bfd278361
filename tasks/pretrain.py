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
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from tasks._context import StageContext
from tasks._errors import StageError
from tasks._training import TrainingParams, train_stage

if TYPE_CHECKING:
    from model.gpt import GPTConfig


class Params(TrainingParams):
    """Training parameters of the base model; null takes what the plan says."""

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens to train on; rounded up to whole steps."""


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
    steps = math.ceil(plan["train_tokens"] / plan["batch_tokens"])
    ctx.note(f"{steps} steps of {plan['batch_tokens']} tokens, {config.n_layers} layers of width {config.d_model}")
    train_stage(ctx, rows, config, None, training, steps, plan["batch_tokens"], tokenizer)
