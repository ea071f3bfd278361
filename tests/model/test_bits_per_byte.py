import math

import numpy as np
import pytest
import torch

from model.batches import write_rows
from model.bits_per_byte import bits_per_byte
from tests.model.test_gpt import randomised, small_config

INFO = {"vocab_size": 192, "bos_id": 183, "pad_id": 191, "tokenizer_sha256": "t"}
BYTES = [1 + i % 4 if i < 183 else 0 for i in range(192)]


def write(folder):
    ids = np.random.default_rng(0).integers(0, 183, (5, 13))
    ids[:, 0], ids[:, 7], ids[:, -1] = 183, 183, 191  # a second document starts in the row; the last place is padding
    write_rows(folder, "val", ids, None, INFO)
    return torch.from_numpy(ids)


def test_bpb_is_loss_over_bytes_of_text_targets_only(tmp_path):
    """Bugs it catches: specials or padding counted, a mean over rows instead of a sum, rows lost between batches."""
    ids, model = write(tmp_path), randomised(small_config())
    with torch.no_grad():
        logits = model.logits(model(ids[:, :-1]))
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    sizes = torch.tensor(BYTES)[ids[:, 1:].flatten()]
    expected = nats[sizes > 0].sum().item() / math.log(2) / sizes.sum().item()
    for rows in (2, 5):
        found = bits_per_byte(model, tmp_path, "val", BYTES, micro_batch_rows=rows)
        assert found["bpb"] == pytest.approx(expected, rel=1e-5)
        assert found["tokens"] == 5 * 10
        assert found["bytes"] == sizes.sum()


def test_a_split_without_text_is_refused(tmp_path):
    write_rows(tmp_path, "val", np.full((2, 5), 191), None, INFO)
    with pytest.raises(ValueError, match="no target that stands for text"):
        bits_per_byte(randomised(small_config()), tmp_path, "val", BYTES)
