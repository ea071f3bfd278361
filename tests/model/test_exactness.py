"""Prediction = measurement: pipeline_math against the real model, its files, its cache, and torch's own counters.

Counts are equal to the last digit. FLOPs are those torch.utils.flop_counter sees, which are matrix products only.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.checkpoint import save_weights
from model.engine.engine import Engine
from model.gpt import GPT
from model.shape_of_config import config_of_shape
from pipeline_math.export_cost import safetensors_file_bytes
from pipeline_math.inference_prefill_decode import kv_bytes_per_token, kv_cache_bytes
from pipeline_math.model_flops_vram import (
    QUERY_BLOCK,
    ModelShape,
    blocked_keys,
    checkpoint_bytes,
    forward_flops_per_token,
    scaling_parameters,
    shape_train_flops_per_token,
    total_parameters,
    windowed_flops_per_token,
)
from tasks.export import Params, header_bytes, write_folder
from tests.model.engine import tiny
from tests.model.exactness import SHAPES, SMALL, summed_loss


@pytest.mark.parametrize("name", SHAPES)
def test_parameters(name):
    with torch.device("meta"):
        built = GPT(config_of_shape(SHAPES[name]))
    assert total_parameters(SHAPES[name]) == sum(p.numel() for p in built.parameters())
    products = sum(m.weight.numel() for m in built.modules() if isinstance(m, torch.nn.Linear))
    assert scaling_parameters(SHAPES[name]) == products


def counted_flops(shape: ModelShape, rows: int, attention: str = "explicit") -> tuple[int, int]:
    """(forward of model and head, training) FLOPs as torch counts them, on tensors without storage."""
    with torch.device("meta"):
        built = GPT(config_of_shape(shape), attention, "float32")
        ids = torch.zeros(rows, shape.tokens_per_row, dtype=torch.long)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        built.logits(built(ids))
    with FlopCounterMode(display=False) as training:
        summed_loss(built, ids, torch.float32).backward()
    return forward.get_total_flops(), training.get_total_flops()


@pytest.mark.parametrize("name", SHAPES)
def test_flops(name):
    """The explicit path with rows of one query block forms every T x T product: the convention 6 N + 12 L d T."""
    shape, rows = SHAPES[name], 2
    assert shape.tokens_per_row <= QUERY_BLOCK
    forward, training = counted_flops(shape, rows)
    tokens = rows * shape.tokens_per_row
    assert training == shape_train_flops_per_token(shape) * tokens
    assert forward == pytest.approx(forward_flops_per_token(**vars(shape)) * tokens, rel=1e-15)


@pytest.mark.parametrize("tokens", [257, 300, 512, 700])
def test_flops_of_rows_longer_than_a_query_block(tokens):
    """Blocks skip keys wholly in their future, so the counter sees fewer than T keys per query: `blocked_keys`."""
    shape = ModelShape(2, 64, 4, 2, 256, 320, tokens)
    _, training = counted_flops(shape, 3)
    seen = windowed_flops_per_token(shape, [blocked_keys(tokens)] * shape.n_layers)
    assert training == pytest.approx(seen * 3 * tokens, rel=1e-15)
    assert seen < shape_train_flops_per_token(shape)


def test_the_fused_kernel_is_counted_in_full_too():
    """torch counts a fused causal attention as T x T; the forward pass equals ours, no half is taken off."""
    forward, _ = counted_flops(SHAPES["d12"], 1, "sdpa")
    assert forward == pytest.approx(forward_flops_per_token(**vars(SHAPES["d12"])) * 256, rel=1e-15)


@pytest.mark.parametrize("name", SMALL)
def test_checkpoint_bytes(name, tmp_path):
    """The real file: 8 bytes, the header whose length they hold, the tensors."""
    shape = SHAPES[name]
    save_weights(tmp_path / "checkpoint", GPT(config_of_shape(shape)), {})
    file = tmp_path / "checkpoint" / "model.safetensors"
    assert file.stat().st_size == 8 + header_bytes(file) + checkpoint_bytes(shape)


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "fp32"), ("bfloat16", "bf16")])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_export_bytes(dtype, stored, kv_heads, tmp_path):
    config = tiny.config(n_layers=3, n_kv_heads=kv_heads)
    shape = ModelShape(3, config.d_model, config.n_heads, kv_heads, config.mlp_width, config.vocab_size, 96)
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in GPT(config).state_dict().items()}
    source = tmp_path / "tokenizer.json"
    source.write_text("{}", encoding="utf-8")
    write_folder(tmp_path, weights, config, tiny.tokenizer(), source, Params(dtype=dtype))
    file = tmp_path / "model.safetensors"
    assert file.stat().st_size == safetensors_file_bytes(total_parameters(shape), stored, header_bytes(file))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("layers", "kv_heads"), [(1, 4), (2, 2), (3, 1)])
def test_kv_bytes(layers, kv_heads, dtype):
    """The cache of the real engine: per token, and for five rows of 96 positions, reserved in steps of 64."""
    config = tiny.config(n_layers=layers, n_kv_heads=kv_heads)
    cache = Engine(GPT(config).state_dict(), config, tiny.tokenizer(), dtype).forward.new_cache()
    per_token = kv_bytes_per_token(layers, kv_heads, config.head_dim, 4 if dtype == "float32" else 2)
    assert cache.bytes_per_token == per_token
    cache.add_rows([0] * 5, 96)
    assert cache.bytes_allocated == kv_cache_bytes(per_token, 128, 5)
