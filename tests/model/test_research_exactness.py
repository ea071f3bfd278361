"""Prediction = measurement for research models: parameters, FLOPs and kept bytes of the real GPT, to the last digit."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import model.research
from model.gpt import GPT, GPTConfig
from model.research import ResearchConfig, layer_window
from model.shape_of_config import config_of_shape
from pipeline_math import research_layout
from pipeline_math.model_flops_vram import (
    QUERY_BLOCK,
    SMALL_QUERY_BLOCK,
    ModelShape,
    blocked_keys,
    windowed_flops_per_token,
)
from pipeline_math.research_layout import ResearchExtras
from pipeline_math.training_memory import MemoryOptions, explicit_attention_bytes, research_bytes
from tests.model.exactness import SHAPES, kept_bytes, summed_loss

NOTHING = {"window_pattern": "L", "value_embeddings": False, "residual_scalars": False, "qk_scale": 1.0}
CHANGES = [
    {},
    {"value_embeddings": True},
    {"residual_scalars": True},
    {"qk_scale": 1.2},
    {"value_embeddings": True, "residual_scalars": True, "qk_scale": 1.2},
]


def research_config(shape: ModelShape, **fields) -> GPTConfig:
    return dataclasses.replace(config_of_shape(shape), research=ResearchConfig(**fields))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "+".join(change) or "none")
def test_parameters_by_group(name, change):
    """Catches a table on the wrong layers or as wide as the stream, and a gate or scalar too many."""
    shape, fields = SHAPES[name], NOTHING | change
    with torch.device("meta"):
        built = GPT(research_config(shape, **fields))
    sizes = {parameter: weight.numel() for parameter, weight in built.named_parameters()}
    extras = ResearchExtras(**fields)
    assert sum(sizes.values()) == extras.total_parameters(shape)
    by_group = {group: sum(sizes[n] for n in names) for group, names in built.parameter_groups().items()}
    expected = extras.extra_parameters(shape)
    assert by_group["value_embeddings"] == expected["value_embeddings"]
    assert by_group["scalars"] == expected["scalars"]
    assert by_group["matrices"] + by_group["head"] == extras.scaling_parameters(shape)


@pytest.mark.parametrize("name", ["d2", "gqa", "one kv head", "d5, three heads"])
def test_flops_of_full_windows(name):
    """What torch counts with every extra but windows, gates included."""
    shape, fields = SHAPES[name], {"window_pattern": "L"}
    with torch.device("meta"):
        built = GPT(research_config(shape, **fields), "explicit", "float32")
        ids = torch.zeros(2, shape.tokens_per_row, dtype=torch.long)
    with FlopCounterMode(display=False) as counted:
        summed_loss(built, ids, torch.float32).backward()
    assert counted.get_total_flops() == ResearchExtras(**fields).train_flops_per_token(shape) * ids.numel()


@pytest.mark.parametrize("pattern", ["SSSL", "L", "LS", "S"])
@pytest.mark.parametrize("tokens", [64, 512, 514, 2048])
def test_windows_are_those_of_the_model(pattern, tokens):
    shape = ModelShape(7, 64, 2, 2, 256, 320, tokens)
    ours = ResearchExtras(pattern).windows(shape)
    theirs = [layer_window(ResearchConfig(pattern), layer, 7, tokens) or tokens for layer in range(7)]
    assert ours == theirs


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("attention", ["sdpa", "explicit"])
@pytest.mark.parametrize(("name", "rows"), [("gqa", 2), ("one kv head", 4), ("d2", 1)])
@pytest.mark.parametrize("change", CHANGES[1:], ids="+".join)
def test_bytes_the_extras_keep_for_the_backward_pass(change, name, rows, attention, dtype):
    """Beyond what the same model without them keeps; in bf16 also the copies of the gates' weights."""
    shape, e = SHAPES[name], 2 if dtype == "bfloat16" else 4
    plain, full = (
        kept_bytes(research_config(shape, **NOTHING | fields), rows, attention, dtype) for fields in ({}, change)
    )
    extras = ResearchExtras(**NOTHING | change)
    options = MemoryOptions(e, "cpu", explicit_attention=attention == "explicit", research=extras)
    copies = 2 * extras.extra_parameters(shape)["gates"] if e == 2 else 0
    assert full - plain == research_bytes(shape, rows, options) + copies


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("attention", ["sdpa", "explicit", "blocked"])
def test_bytes_kept_with_windows(attention, dtype):
    """Blocks keep fewer weights, a CPU's fused kernel keeps a mask: twice the layer with a window of 128 of 512."""
    shape, e = ModelShape(3, 64, 4, 2, 192, 320, 512), 2 if dtype == "bfloat16" else 4
    plain, narrow = (
        kept_bytes(research_config(shape, **NOTHING | {"window_pattern": p}), 2, attention, dtype) for p in ("L", "S")
    )
    if attention == "sdpa":
        assert narrow - plain == 2 * e * 512**2
        return
    block = SMALL_QUERY_BLOCK if attention == "blocked" else QUERY_BLOCK
    full, windowed = (explicit_attention_bytes(1, 4, 512, 2, e, block, window) for window in (None, 128))
    assert narrow - plain == 2 * (windowed - full) < 0


@pytest.mark.parametrize(("attention", "block"), [("explicit", QUERY_BLOCK), ("blocked", SMALL_QUERY_BLOCK)])
def test_flops_that_blocks_with_windows_do(attention, block):
    """Fewer than the convention says, which counts min(w, T) keys: what torch counts is `blocked_keys`."""
    shape = ModelShape(3, 64, 4, 2, 192, 320, 700)
    with torch.device("meta"):
        built = GPT(research_config(shape, **NOTHING | {"window_pattern": "S"}), attention, "float32")
        ids = torch.zeros(2, 700, dtype=torch.long)
    with FlopCounterMode(display=False) as counted:
        summed_loss(built, ids, torch.float32).backward()
    keys = [blocked_keys(700, block, 256), blocked_keys(700, block, 256), blocked_keys(700, block)]
    assert counted.get_total_flops() == pytest.approx(windowed_flops_per_token(shape, keys) * 1400, rel=1e-15)


def test_constants_are_those_of_the_model():
    """pipeline_math may not import the model; what it repeats is held together here."""
    assert research_layout.GATE_CHANNELS == model.research.GATE_CHANNELS
    assert research_layout.WINDOW_STEP == model.research.WINDOW_STEP
    published = dataclasses.asdict(ResearchConfig())
    assert {name: getattr(ResearchExtras(), name) for name in published} == published
