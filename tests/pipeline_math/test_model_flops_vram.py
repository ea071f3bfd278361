"""Parameters and FLOPs against published numbers, most of them of karpathy/nanochat."""

import dataclasses

import pytest

from pipeline_math.layouts import RESEARCH, sssl_windows, useful_keys
from pipeline_math.model_flops_vram import (
    FLOPS_CONVENTION,
    FLOPS_CONVENTIONS,
    ModelShape,
    block_parameters,
    blocked_keys,
    causal_window,
    checkpoint_bytes,
    flops_by_convention,
    forward_flops_per_token,
    power_of_two_floor,
    recomputed_flops_per_token,
    scaling_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
    total_parameters,
    train_flops_per_token,
    width_of_depth,
    windowed_flops_per_token,
)


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
    """GPT-2 124M at T = 1024: 6 * 124.4 M = 0.7464, with attention 0.8596 GFLOP/token.

    That figure counts positions and norms in N; the weights that multiply give 0.8545, what torch counts.
    """
    blocks = block_parameters(12, 768, 12, 12, 3072)
    with_head = train_flops_per_token(12, 768, 12, 12, 3072, 50257, 1024)
    attention = 12 * 12 * 768 * 1024
    assert (6 * 124.4e6 + attention) / 1e9 == pytest.approx(0.8596, abs=1e-4)
    assert with_head == 6 * (blocks + 50257 * 768) + attention
    assert with_head / 1e9 == pytest.approx(0.8545, abs=1e-4)
    assert forward_flops_per_token(12, 768, 12, 12, 3072, 50257, 1024) * 3 == pytest.approx(with_head)


def test_conventions_on_gpt2():
    """Chinchilla appendix F: 1.0873 GFLOP/token with the embedding product, 0.8558 without, 0.4 % from 0.8596."""
    gpt2 = ModelShape(12, 768, 12, 12, 3072, 50257, 1024)
    found = flops_by_convention(gpt2)
    assert set(found) == set(FLOPS_CONVENTIONS)
    assert FLOPS_CONVENTIONS["full"] == FLOPS_CONVENTION
    assert found["full"] == shape_train_flops_per_token(gpt2)
    assert found["chinchilla"] / 1e9 == pytest.approx(1.0873, abs=1e-4)
    assert found["chinchilla without embedding"] / 1e9 == pytest.approx(0.8558, abs=1e-4)
    assert found["kaplan"] == 6 * 84_934_656
    assert found["full"] - found["causal"] == pytest.approx(12 * 12 * 768 * 1023 / 2)


@pytest.mark.parametrize(("depth", "gflops"), [(8, 0.2957), (12, 0.7597), (16, 1.5855), (20, 2.8862), (24, 4.7752)])
def test_windowed_layout_flops(depth, gflops):
    """Catches the window of 768 that a public comment names: only 512 reaches these numbers."""
    shape = shape_of_depth(depth, 32768, 2048)
    assert RESEARCH.train_flops_per_token(shape) / 1e9 == pytest.approx(gflops, abs=2e-4)


def test_windows_of_the_research_layout():
    """The last layer always sees the whole row; 512 at T = 2048; half as long a window was used up to March 2026."""
    assert sssl_windows(6, 2048) == [512, 512, 512, 2048, 512, 2048]
    d24 = shape_of_depth(24, 32768, 2048)
    longer = [1024 if window == 512 else window for window in sssl_windows(24, 2048)]
    assert windowed_flops_per_token(d24, longer) / 1e9 == pytest.approx(4.9451, abs=2e-4)


def test_old_d20_with_a_large_vocabulary():
    assert shape_train_flops_per_token(shape_of_depth(20, 65536, 2048)) / 1e9 == pytest.approx(3.4918, abs=1e-4)


def test_three_conventions_of_one_step_time():
    """d12 at 0.96 s per 2^19 tokens on 989 TFLOP/s: 44.3, 41.9 or 40.1 %: the convention must be stated with an MFU."""
    shape = shape_of_depth(12, 32768, 2048)
    windows = sssl_windows(12, 2048)
    longer = [1024 if window == 512 else window for window in windows]
    found = [windowed_flops_per_token(shape, w) for w in (longer, windows, useful_keys(windows, 2048))]
    assert [flops / 1e9 for flops in found] == [pytest.approx(g, abs=2e-4) for g in (0.8022, 0.7597, 0.7261)]
    shares = [2**19 / 0.96 * flops / 989e12 for flops in found]
    assert shares == [pytest.approx(share, abs=6e-4) for share in (0.443, 0.419, 0.401)]


def test_keys_a_query_meets():
    """Full attention is T keys, the useful part of it (T + 1) / 2; blocks of 256 skip only what is wholly future."""
    assert causal_window(8, 8) == 4.5 == sum(range(1, 9)) / 8
    assert causal_window(2, 8) == (1 + 7 * 2) / 8
    assert blocked_keys(256) == 256
    assert blocked_keys(512) == (512 + 256) / 2
    assert blocked_keys(300) == (256 * 256 + 44 * 300) / 300
    assert blocked_keys(8, 1) == causal_window(8, 8)


def test_recomputation_repeats_the_layers_but_not_the_head():
    shape = shape_of_depth(12, 32768, 2048)
    forward = shape_train_flops_per_token(shape) / 3
    head = 2 * 32768 * 768
    assert recomputed_flops_per_token(shape, "none") == 0
    assert recomputed_flops_per_token(shape, "selective") == 4 * 12 * 768 * 2048
    assert recomputed_flops_per_token(shape, "full") == pytest.approx(forward - head)


def test_checkpoint_bytes_are_four_per_parameter():
    shape = shape_of_depth(4, 4096, 512)
    assert checkpoint_bytes(shape) == 4 * 5_242_880
    assert checkpoint_bytes(shape, 2) == 2 * 5_242_880


def test_power_of_two_floor():
    assert [power_of_two_floor(count) for count in (0, 1, 7, 8)] == [0, 1, 4, 8]


SHAPE = ModelShape(2, 64, 4, 2, 256, 320, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dataclasses.replace(SHAPE, n_layers=0), "n_layers=0: allowed are whole numbers of at least 1"),
        (lambda: dataclasses.replace(SHAPE, vocab_size=3.5), "vocab_size=3.5"),
        (lambda: dataclasses.replace(SHAPE, d_model=66), "d_model=66: allowed are multiples of n_heads=4"),
        (lambda: dataclasses.replace(SHAPE, n_kv_heads=3), "n_kv_heads=3: allowed are divisors of n_heads=4"),
        (lambda: width_of_depth(0), "depth=0"),
        (lambda: block_parameters(1, 8, 0, 1, 8), "n_heads=0"),
        (lambda: train_flops_per_token(1, 8, 1, 1, 8, float("nan"), 8), "vocab_size=nan"),
        (lambda: windowed_flops_per_token(SHAPE, [32]), "1 given; allowed is one per layer, 2"),
        (lambda: windowed_flops_per_token(SHAPE, [32, -1]), r"attended_keys\[1\]=-1"),
        (lambda: recomputed_flops_per_token(SHAPE, "some"), "recompute='some': allowed are none, selective, full"),
        (lambda: causal_window(1, 0), "tokens_per_row=0"),
        (lambda: blocked_keys(0), "tokens_per_row=0"),
        (lambda: checkpoint_bytes(SHAPE, 0), "bytes_per_parameter=0"),
        (lambda: power_of_two_floor(-1), "count=-1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
