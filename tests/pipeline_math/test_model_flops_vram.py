"""Parameters, FLOPs and memory against published numbers, most of them of karpathy/nanochat."""

import pytest

from pipeline_math.layouts import (
    RESEARCH,
    mixed_model_bytes,
    mixed_optimizer_bytes,
    mixed_static_bytes,
    sssl_windows,
    value_embedding_parameters,
)
from pipeline_math.model_flops_vram import (
    ModelShape,
    block_parameters,
    causal_window,
    checkpoint_bytes,
    explicit_attention_bytes,
    forward_flops_per_token,
    largest_micro_batch_rows,
    power_of_two_floor,
    scaling_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
    static_memory_bytes,
    total_parameters,
    train_flops_per_token,
    training_memory_bytes,
    width_of_depth,
)

GIB = 1024**3


@pytest.mark.parametrize(
    ("depth", "width", "heads", "total_millions", "scaling_millions", "gflops"),
    [
        (4, 256, 2, 19.9, 11.5, 0.0944),
        (8, 512, 4, 58.7, 41.9, 0.3523),
        (12, 768, 6, 135.3, 110.1, 0.8871),
        (16, 1024, 8, 268.4, 234.9, 1.8119),
        (20, 1280, 10, 477.1, 435.2, 3.2401),
        (24, 1536, 12, 780.1, 729.8, 5.2848),
        (26, 1664, 13, 972.9, 918.4, 6.5738),
        (32, 2048, 16, 1744.8, 1677.7, 11.677),
    ],
)
def test_default_layout_at_eight_depths(depth, width, heads, total_millions, scaling_millions, gflops):
    """Catches a tied head, a forgotten embedding or a causal factor of two: each changes a column."""
    shape = shape_of_depth(depth, 32768, 2048)
    assert (shape.d_model, shape.n_heads, shape.head_dim) == (width, heads, 128)
    assert total_parameters(shape) / 1e6 == pytest.approx(total_millions, abs=0.06)
    assert scaling_parameters(shape) / 1e6 == pytest.approx(scaling_millions, abs=0.06)
    assert shape_train_flops_per_token(shape) / 1e9 == pytest.approx(gflops, abs=6e-5, rel=1e-4)


def test_odd_depths_round_the_width_up_to_whole_heads():
    assert [width_of_depth(depth) for depth in (1, 2, 3, 5)] == [128, 128, 256, 384]


def test_published_parameter_counts():
    default_d12 = shape_of_depth(12, 32768, 2048)
    assert total_parameters(default_d12) == 84_934_656 + 2 * 25_165_824
    assert RESEARCH.total_parameters(default_d12) == 286_261_730  # a user's log of karpathy/nanochat
    assert total_parameters(shape_of_depth(20, 65536, 2048)) / 1e6 == pytest.approx(561.0, abs=0.05)


def test_grouped_heads_shrink_only_keys_and_values():
    """Catches a count that ignores n_kv_heads: 3/4 of two of four attention matrices go away."""
    full, grouped = block_parameters(2, 256, 8, 8, 1024), block_parameters(2, 256, 8, 2, 1024)
    assert full - grouped == 2 * 2 * 256 * 256 * 3 // 4


def test_gpt2_flops():
    """GPT-2 124M at T = 1024: 6 N = 0.7464, with attention 0.8596 GFLOP/token; its head is tied, so N has no table."""
    blocks = block_parameters(12, 768, 12, 12, 3072)
    with_head = train_flops_per_token(12, 768, 12, 12, 3072, 50257, 1024)
    # 0.7464 counts all 124.4M parameters (positions and norms included) in N: compare attention exactly.
    attention = 12 * 12 * 768 * 1024
    assert attention / 1e9 == pytest.approx(0.8596 - 0.7464, abs=1e-4)
    assert with_head == 6 * (blocks + 50257 * 768) + attention
    assert forward_flops_per_token(12, 768, 12, 12, 3072, 50257, 1024) * 3 == pytest.approx(with_head)


@pytest.mark.parametrize(("depth", "gflops"), [(8, 0.2957), (12, 0.7597), (16, 1.5855), (20, 2.8862), (24, 4.7752)])
def test_windowed_layout_flops(depth, gflops):
    """Catches the window of 768 that a public comment names: only 512 reaches these numbers."""
    shape = shape_of_depth(depth, 32768, 2048)
    assert RESEARCH.train_flops_per_token(shape) / 1e9 == pytest.approx(gflops, abs=2e-4)


def test_last_layer_always_sees_the_whole_row():
    assert sssl_windows(6, 2048) == [512, 512, 512, 2048, 512, 2048]


def test_old_d20_with_a_large_vocabulary():
    assert shape_train_flops_per_token(shape_of_depth(20, 65536, 2048)) / 1e9 == pytest.approx(3.4918, abs=1e-4)


def test_causal_half_of_the_windowed_d12():
    """0.7261 GFLOP/token when only useful attention counts: the convention must be stated with every MFU."""
    shape = shape_of_depth(12, 32768, 2048)
    useful = sum(causal_window(window, 2048) for window in sssl_windows(12, 2048))
    assert (6 * scaling_parameters(shape) + 12 * 768 * useful) / 1e9 == pytest.approx(0.7261, abs=2e-4)


def test_static_bytes_of_the_published_d12_files():
    """Files of 793 and 1,246 MB with value embeddings, as on mlpatron.com; 490.7 and 641.7 MB without."""
    shape = shape_of_depth(12, 32768, 2048)
    extra = value_embedding_parameters(shape)
    assert mixed_model_bytes(shape, extra) / 1e6 == pytest.approx(792.7, abs=0.1)
    assert mixed_optimizer_bytes(shape, extra) / 1e6 == pytest.approx(1245.7, abs=0.1)
    assert mixed_model_bytes(shape) / 1e6 == pytest.approx(490.7, abs=0.1)
    assert mixed_optimizer_bytes(shape) / 1e6 == pytest.approx(641.7, abs=0.1)


def test_our_static_bytes_count_every_fp32_state():
    """8 B per weight and gradient; +4 B Muon for blocks, +8 B AdamW for both tables."""
    shape = ModelShape(1, 8, 2, 2, 32, 64, 16)
    blocks, tables = 12 * 64, 2 * 64 * 8
    assert static_memory_bytes(shape) == 12 * blocks + 16 * tables
    assert static_memory_bytes(shape, 4) == 9 * blocks + 10 * tables


def test_checkpoint_bytes_are_four_per_parameter():
    shape = shape_of_depth(4, 4096, 512)
    assert checkpoint_bytes(shape) == 4 * 5_242_880
    assert checkpoint_bytes(shape, 2) == 2 * 5_242_880


@pytest.mark.parametrize(
    ("case", "depth", "vocab_size", "value_embeddings", "rows", "shards", "device_gib", "gib", "fits"),
    [
        ("d26 B=32, out of memory", 26, 32768, True, 32, 8, 79.2, 95, False),
        ("d26 B=16, runs", 26, 32768, True, 16, 8, 79.2, 53, True),
        ("old d32 B=16, out of memory", 32, 65536, False, 16, 8, 79.2, 83, False),
        ("old d32 B=8, runs", 32, 65536, False, 8, 8, 79.2, 49, True),
        ("old d20 B=4 on 24 GB, runs", 20, 65536, False, 4, 1, 24.0, 15.8, True),
    ],
)
def test_five_published_memory_cases(case, depth, vocab_size, value_embeddings, rows, shards, device_gib, gib, fits):
    """What fits by public reports on karpathy/nanochat: its leaderboard (d26), issue 157 and pull request 237 (d20)."""
    shape = shape_of_depth(depth, vocab_size, 2048)
    static = mixed_static_bytes(shape, shards, value_embedding_parameters(shape) if value_embeddings else 0)
    allocated = training_memory_bytes(depth, shape.d_model, vocab_size, 2048, rows, static)
    assert allocated / GIB == pytest.approx(gib, abs=0.55), case
    assert (allocated <= device_gib * GIB) == fits, case


def test_largest_micro_batch_is_the_boundary_of_what_fits():
    """Catches an off-by-one: one row more must exceed the share of memory a plan may fill."""
    arguments = (4, 256, 4096, 512)
    static, context, memory = 1.0e8, 5.0e8, 2.0 * GIB
    rows = largest_micro_batch_rows(memory, *arguments, static, context_bytes=context)
    per_row = 1.15 * training_memory_bytes(*arguments, 1, 0.0)
    assert rows > 0
    assert rows * per_row <= memory * 0.92 - context - static < (rows + 1) * per_row


def test_nothing_fits_when_the_static_part_is_too_large():
    assert largest_micro_batch_rows(2.0 * GIB, 4, 256, 4096, 512, 3.0 * GIB) == 0
    assert [power_of_two_floor(count) for count in (0, 1, 7, 8)] == [0, 1, 4, 8]


def test_explicit_attention_keeps_all_weights_of_one_block():
    """A row no longer than the query block keeps T x T weights; a longer one skips the future."""
    assert explicit_attention_bytes(1, 1, 256, 1, 2) == 256 * 256 * 2
    assert explicit_attention_bytes(1, 1, 512, 1, 2) == 512 * 384 * 2
