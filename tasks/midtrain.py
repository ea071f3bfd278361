"""midtrain: the base model learns the chat format and the tool, with the pretraining loss on every token.

Reads    artifacts/pretrain/checkpoint, artifacts/shards, artifacts/corpus/documents,
         artifacts/tokenizer/tokenizer.json, data/chat and data/benchmarks (for jsonl parts),
         artifacts/budget/plan.json (when batch_tokens is not set)
Writes   artifacts/midtrain/checkpoint, curve.csv, conversations.parquet (every conversation with its origin),
         mixture_report.json
Promise  no conversation is cut: one that fits a row is whole, a longer one is split between turns or dropped and
         counted; objects whose document is held out are in no conversation; conversations from files contain no item
         of the benchmarks in data/benchmarks (those left out are counted per benchmark in mixture_report.json)
Limits   tool outputs are supervised here, though the engine will force them; pretraining rows come from the train split
"""

from typing import Annotated

from pydantic import Field

from tasks._context import StageContext
from tasks._training import TrainingParams, train_stage
from tasks.conversations.mixture import Mixture
from tasks.conversations.rows import prepare_rows, publish_conversations
from tasks.conversations.steps import batch_tokens_of, steps_for


class Params(TrainingParams):
    """Parameters of midtraining: the mixture, and those every training stage has."""

    mixture: Mixture = Mixture(conversation_tokens=250_000, seed=1)
    pretraining_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the rows that is ordinary pretraining text, so that the model does not forget it."""
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
    init = ctx.input("artifacts/pretrain/checkpoint")
    config = GPTConfig.from_json(init / "config.json")
    batch_tokens = batch_tokens_of(ctx, params.batch_tokens)

    rows = prepare_rows(ctx, params.mixture, tokenizer, all_tokens=True, pretraining_share=params.pretraining_share)
    steps = steps_for(rows, params.epochs, batch_tokens, params.steps)

    train_stage(ctx, rows, config, init, params, steps, batch_tokens, tokenizer)
    publish_conversations(rows, ctx.out)
