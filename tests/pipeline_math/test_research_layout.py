"""Costs of research models against published numbers; the real model is in tests/model/test_research_exactness.py."""

import dataclasses

import pytest

from pipeline_math.layouts import DEFAULT, RESEARCH, research_layout
from pipeline_math.model_flops_vram import (
    ModelShape,
    scaling_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
    total_parameters,
)
from pipeline_math.research_layout import ResearchExtras, pattern_windows, short_window_tokens
from pipeline_math.static_memory import default_static
from pipeline_math.training_memory import MemoryOptions, research_bytes, training_memory

NONE = ResearchExtras("L", value_embeddings=False, residual_scalars=False, qk_scale=1.0)
D12 = shape_of_depth(12, 32768, 2048)


def test_the_published_set_has_26_weights_more():
    """Smear (24 + 1) and backout (1) are not ours; the total is that of a user's log of karpathy/nanochat d12."""
    assert ResearchExtras().total_parameters(D12) + 26 == 286_261_730 == RESEARCH.total_parameters(D12)


@pytest.mark.parametrize(("depth", "gflops"), [(8, 0.2957), (12, 0.7597), (16, 1.5855), (20, 2.8862), (24, 4.7752)])
def test_published_flops(depth, gflops):
    """The gates, which the published figures leave out, are 3 in a million."""
    shape = shape_of_depth(depth, 32768, 2048)
    found = ResearchExtras().train_flops_per_token(shape)
    assert found / 1e9 == pytest.approx(gflops, abs=2e-4)
    assert found - RESEARCH.train_flops_per_token(shape) == 6 * -(-depth // 2) * 12 * shape.n_kv_heads


def test_without_extras_everything_is_the_default_layout():
    options = MemoryOptions(research=NONE)
    assert NONE.total_parameters(D12) == total_parameters(D12)
    assert NONE.scaling_parameters(D12) == scaling_parameters(D12)
    assert NONE.train_flops_per_token(D12) == shape_train_flops_per_token(D12)
    assert NONE.static_bytes(D12, 2) == default_static(D12, 2)
    assert training_memory(D12, 4, default_static(D12), options) == training_memory(D12, 4, default_static(D12))
    layout = research_layout(NONE)
    for name in ("total_parameters", "scaling_parameters", "train_flops_per_token", "fixed_bytes"):
        assert getattr(layout, name)(D12) == getattr(DEFAULT, name)(D12)


def test_short_windows_are_a_quarter_of_the_row_in_whole_tiles():
    """514 / 4 is more than 128 tokens: rounding the quarter down first would lose a tile."""
    assert [short_window_tokens(tokens) for tokens in (2048, 1024, 1000, 512, 514, 16)] == [
        512,
        256,
        256,
        128,
        256,
        128,
    ]
    assert pattern_windows("SSSL", 6, 2048) == [512, 512, 512, 2048, 512, 2048]
    assert pattern_windows("S", 2, 64) == [64, 64]  # never longer than the row
    assert pattern_windows("LS", 4, 1024) == [1024, 256, 1024, 1024]


def test_windows_follow_the_longest_row_not_the_one_computed():
    """A model for 2,048 tokens keeps its window of 512 when it is trained on rows of 1,024."""
    shape = shape_of_depth(4, 4096, 1024)
    assert ResearchExtras().windows(shape) == [256, 256, 256, 1024]
    assert ResearchExtras(sequence_length=2048).windows(shape) == [512, 512, 512, 1024]


def test_static_bytes_of_the_extras():
    """Value embeddings cost 16 B a weight like other tables, gates 12 and their longer side; shards divide it."""
    shape = ModelShape(3, 96, 6, 3, 192, 640, 48)
    extras = ResearchExtras()
    tables, gates, scalars = extras.extra_parameters(shape).values()
    assert (tables, gates, scalars) == (2 * 640 * 48, 2 * 12 * 3, 6)
    added = extras.static_bytes(shape).total_bytes - default_static(shape).total_bytes
    assert added == 16 * tables + 12 * gates + 4 * (2 * 12) + 16 * scalars
    sharded, whole = extras.static_bytes(shape, optimizer_shards=4), extras.static_bytes(shape)
    assert sharded.optimizer_bytes == whole.optimizer_bytes / 4
    assert sharded.weights_bytes == whole.weights_bytes
    everything = extras.static_bytes(shape, weight_shards=4)
    assert everything.gradients_bytes == whole.gradients_bytes / 4
    assert everything.optimizer_bytes == whole.optimizer_bytes / 4


@pytest.mark.parametrize(
    "change",
    [{"value_embeddings": True}, {"residual_scalars": True}, {"qk_scale": 1.2}],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_extra_takes_memory_and_recomputation_saves_it(change, kind):
    extras = dataclasses.replace(NONE, **change)
    kept, again = (
        research_bytes(D12, 4, MemoryOptions(kind=kind, research=extras, recompute=recompute))
        for recompute in (False, True)
    )
    assert 0 <= again < kept
    assert research_bytes(D12, 8, MemoryOptions(kind=kind, research=extras)) == 2 * kept


@pytest.mark.parametrize("pattern", ["", "SXL", "ssl"])
def test_an_unknown_window_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match=r"window_pattern=.*allowed are the letters S and L"):
        ResearchExtras(pattern).train_flops_per_token(D12)
