"""sft: the model learns to be the assistant; only what the assistant must produce is supervised.

Reads    artifacts/midtrain/checkpoint, artifacts/shards, artifacts/corpus/documents,
         artifacts/tokenizer/tokenizer.json, data/chat and data/benchmarks (for jsonl parts),
         artifacts/budget/plan.json (when batch_tokens is not set)
Writes   artifacts/sft/checkpoint, curve.csv, conversations.parquet (every conversation with its origin),
         mixture_report.json
Promise  no conversation is cut: one that fits a row is whole, a longer one is split between turns or dropped and
         counted; objects whose document is held out are in no conversation; conversations from files contain no item
         of the benchmarks in data/benchmarks (those left out are counted per benchmark in mixture_report.json)
Limits   conversations in one row see each other (no document mask), as in pretraining
"""

from typing import Annotated

from pydantic import Field

from tasks._context import StageContext
from tasks._training import TrainingParams, train_stage
from tasks.conversations.mixture import Mixture
from tasks.conversations.rows import prepare_rows, publish_conversations
from tasks.conversations.steps import batch_tokens_of, steps_for


class Params(TrainingParams):
    """Parameters of fine-tuning: the mixture, and those every training stage has."""

    mixture: Mixture = Mixture(conversation_tokens=600_000, seed=2)
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the rows; the last step is filled up with rows of another pass."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps; null makes as many as `epochs` needs."""


def run(ctx: StageContext) -> None:
    params = ctx.params
    assert isinstance(params, Params)
    from model.gpt import GPTConfig
    from model.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(ctx.input("artifacts/tokenizer/tokenizer.json"))
    init = ctx.input("artifacts/midtrain/checkpoint")
    config = GPTConfig.from_json(init / "config.json")
    batch_tokens = batch_tokens_of(ctx, params.batch_tokens)

    rows = prepare_rows(ctx, params.mixture, tokenizer, all_tokens=False)
    steps = steps_for(rows, params.epochs, batch_tokens, params.steps)

    train_stage(ctx, rows, config, init, params, steps, batch_tokens, tokenizer)
    publish_conversations(rows, ctx.out)
