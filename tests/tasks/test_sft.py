"""sft end to end, tiny: only the assistant is supervised, and training from the mask lowers its loss."""

import numpy as np
import pytest

from model.batches import RowFolder
from model.checkpoint import load_weights, save_weights
from tasks import sft
from tasks.conversations.mixture import Mixture
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.conversations.corpus_files import TOKENS_PER_ROW, write_corpus
from tests.tasks.test_rl import small_model


@pytest.fixture
def root(tmp_path):
    tokenizer = write_corpus(tmp_path)
    meta = {"stage": "midtrain", "step": 1, "tokens": 1, "tokenizer_sha256": tokenizer.sha256, "key": "k"}
    save_weights(tmp_path / "artifacts/midtrain/checkpoint", small_model(tokenizer), meta)
    return tmp_path


def test_only_the_assistant_is_supervised_and_its_loss_falls(root):
    params = sft.Params(
        mixture=Mixture(conversation_tokens=30_000), batch_tokens=TOKENS_PER_ROW * 4, learning_rate_scale=0.4
    )
    ctx = make_context(root, Stage.SFT, params)
    sft.run(ctx)
    source = RowFolder(ctx.resume / "rows", "train")
    batch = source.batch(np.arange(source.rows))
    specials = {name: write_corpus(root).special_id(name) for name in ("<|user_end|>", "<|output_end|>", "<|bos|>")}
    for number in specials.values():
        assert not ((batch.targets_BT == number) & (batch.weights_BT > 0)).any()
    assert 0.2 < ctx.figures["supervised_share"] < 0.6
    curve = (ctx.out / "curve.csv").read_text().splitlines()
    losses = [float(line.split(",")[curve[0].split(",").index("loss")]) for line in curve[1:]]
    assert losses[-1] < losses[0] - 0.5
    assert load_weights(ctx.out / "checkpoint")[1]["stage"] == "sft"
    assert ctx.figures["epochs"] >= 1
