"""midtrain end to end, tiny: it starts from the base model and publishes what it trained on."""

import json

import numpy as np
import polars as pl
import pytest

from model.batches import RowFolder
from model.checkpoint import load_weights, save_weights
from tasks import midtrain
from tasks._errors import StageError
from tasks.conversations.mixture import Mixture
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.conversations.corpus_files import TOKENS_PER_ROW, write_corpus
from tests.tasks.test_rl import small_model

MIXTURE = Mixture(conversation_tokens=8_000)


@pytest.fixture
def root(tmp_path):
    tokenizer = write_corpus(tmp_path)
    meta = {"stage": "pretrain", "step": 1, "tokens": 1, "tokenizer_sha256": tokenizer.sha256, "key": "k"}
    save_weights(tmp_path / "artifacts/pretrain/checkpoint", small_model(tokenizer), meta)
    return tmp_path


def test_it_trains_from_the_base_model_on_all_tokens(root):
    params = midtrain.Params(mixture=MIXTURE, steps=2, batch_tokens=TOKENS_PER_ROW * 4, pretraining_share=0.3)
    ctx = make_context(root, Stage.MIDTRAIN, params)
    midtrain.run(ctx)
    model, meta = load_weights(ctx.out / "checkpoint")
    base, _ = load_weights(root / "artifacts/pretrain/checkpoint")
    assert meta["stage"] == "midtrain"
    assert meta["step"] == 2
    assert model.config == base.config
    assert not model.lm_head.weight.equal(base.lm_head.weight)
    source = RowFolder(ctx.resume / "rows", "train")
    batch = source.batch(np.arange(source.rows))
    left_out = batch.weights_BT == 0
    assert (batch.targets_BT[left_out] == source.pad_id).all()
    # The padding id also closes tool outputs; those are supervised, and padding is all that follows a row's last token.
    assert (left_out.float().diff(dim=1) >= 0).all()
    assert pl.read_parquet(ctx.out / "conversations.parquet")["kind"].n_unique() == len(MIXTURE.parts)


def test_without_batch_tokens_the_plan_decides(root):
    params = midtrain.Params(mixture=MIXTURE, steps=1)
    ctx = make_context(root, Stage.MIDTRAIN, params)
    plan = root / "artifacts/budget/plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text("{}")
    with pytest.raises(StageError, match=r"lacks batch_tokens(?s:.*)midtrain\.batch_tokens"):
        midtrain.run(ctx)
    plan.write_text(json.dumps({"batch_tokens": TOKENS_PER_ROW * 2}))
    midtrain.run(ctx)
    assert ctx.figures["tokens"] == TOKENS_PER_ROW * 2
