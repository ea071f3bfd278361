"""Training and serving memory against public reports; against the real model: tests/model/test_exactness.py."""

import dataclasses

import pytest

from pipeline_math.inference_prefill_decode import max_concurrent_sequences
from pipeline_math.layouts import (
    DEFAULT,
    RESEARCH,
    mixed_model_bytes,
    mixed_optimizer_bytes,
    mixed_static,
    value_embedding_parameters,
)
from pipeline_math.memory_constants import (
    USABLE_MEMORY_SHARE,
    MemoryProbe,
    korthikanti_layer_bytes,
    largest_micro_batch_rows,
    training_memory_bytes,
)
from pipeline_math.model_flops_vram import ModelShape, shape_of_depth
from pipeline_math.serving_memory import largest_sequences, serving_memory
from pipeline_math.static_memory import StaticBytes, default_static, gathered_bytes, static_memory_bytes
from pipeline_math.training_memory import (
    MemoryOptions,
    explicit_attention_bytes,
    largest_rows,
    training_memory,
)

GIB = 1024**3
H100_GIB = 79.2  # what the driver leaves of 80 GB
PUBLIC = MemoryOptions(compiled=True, chunked_loss=False)
D12_STATIC = mixed_static(shape_of_depth(12, 32768, 2048))


def public_gib(depth: int, vocab_size: int, rows: int, shards: int, with_value_embeddings: bool) -> float:
    """Allocated GiB of karpathy/nanochat at a depth, T = 2048."""
    shape = shape_of_depth(depth, vocab_size, 2048)
    extra = value_embedding_parameters(shape) if with_value_embeddings else 0
    return training_memory(shape, rows, mixed_static(shape, shards, extra), PUBLIC).allocated_bytes / GIB


@pytest.mark.parametrize(
    ("case", "depth", "vocab_size", "value_embeddings", "rows", "shards", "device_gib", "gib", "fits"),
    [
        ("d26 B=32, out of memory", 26, 32768, True, 32, 8, H100_GIB, 95, False),
        ("d26 B=16, runs", 26, 32768, True, 16, 8, H100_GIB, 53, True),
        ("old d32 B=16, out of memory", 32, 65536, False, 16, 8, H100_GIB, 83, False),
        ("old d32 B=8, runs", 32, 65536, False, 8, 8, H100_GIB, 49, True),
        ("old d20 B=4 on 24 GB, runs", 20, 65536, False, 4, 1, 24.0, 15.8, True),
    ],
)
def test_five_published_memory_cases(case, depth, vocab_size, value_embeddings, rows, shards, device_gib, gib, fits):
    """What fits by public reports on karpathy/nanochat: its leaderboard (d26), issue 157 and pull request 237 (d20)."""
    allocated = public_gib(depth, vocab_size, rows, shards, value_embeddings)
    assert allocated == pytest.approx(gib, abs=0.55), case
    assert (allocated <= device_gib) == fits, case


@pytest.mark.parametrize(
    ("depth", "vocab_size", "value_embeddings", "rows", "shards", "gib"),
    [(20, 65536, False, 8, 1, 25.3), (24, 32768, True, 32, 8, 84), (20, 65536, False, 32, 8, 80.3)],
)
def test_public_reports_that_are_consistent_but_prove_nothing(depth, vocab_size, value_embeddings, rows, shards, gib):
    """Nobody used 8 rows of d20 on 24 GB, nor 32 of d24; old d20 with 32 rows is issue 443: one user runs out of
    memory on 80 GB, another does not."""
    allocated = public_gib(depth, vocab_size, rows, shards, value_embeddings)
    assert allocated == pytest.approx(gib, abs=0.55)
    assert allocated > (24.0 if shards == 1 else H100_GIB)


def test_published_d12_files():
    """Files of 793 and 1,246 MB with value embeddings, as on mlpatron.com; 490.7 and 641.7 MB without."""
    shape = shape_of_depth(12, 32768, 2048)
    extra = value_embedding_parameters(shape)
    assert mixed_model_bytes(shape, extra) / 1e6 == pytest.approx(792.7, abs=0.1)
    assert mixed_optimizer_bytes(shape, extra) / 1e6 == pytest.approx(1245.7, abs=0.1)
    assert mixed_model_bytes(shape) / 1e6 == pytest.approx(490.7, abs=0.1)
    assert mixed_optimizer_bytes(shape) / 1e6 == pytest.approx(641.7, abs=0.1)


def test_our_static_bytes_count_every_fp32_state():
    """8 B per weight and gradient; +4 B Muon for blocks and their longer sides, +8 B AdamW for both tables.

    Only the optimizer is sharded.
    """
    shape = ModelShape(1, 8, 2, 2, 32, 64, 16)
    blocks, tables = 12 * 64, 2 * 64 * 8
    sides = 4 * 8 + 2 * 32
    assert static_memory_bytes(shape) == 12 * blocks + 4 * sides + 16 * tables
    assert static_memory_bytes(shape, 4) == 9 * blocks + sides + 10 * tables
    assert default_static(shape, 4).weights_bytes == default_static(shape, 1).weights_bytes
    assert DEFAULT.static_memory_bytes(shape, 4) == static_memory_bytes(shape, 4)
    assert RESEARCH.static_memory_bytes(shape, 2) < RESEARCH.static_memory_bytes(shape, 1)


D12 = shape_of_depth(12, 32768, 2048)
STATIC = default_static(D12)


def test_the_parts_are_the_total_and_allocated_is_without_overhead():
    found = training_memory(D12, 4, STATIC, MemoryOptions(explicit_attention=True))
    parts = dataclasses.asdict(found)
    assert len(parts) == 8 and all(value > 0 for value in parts.values())
    assert found.total_bytes == pytest.approx(sum(parts.values()))
    assert found.total_bytes - found.allocated_bytes == pytest.approx(found.fragmentation_bytes + found.context_bytes)
    growing = found.activations_bytes + found.logits_bytes + found.attention_scores_bytes
    assert found.fragmentation_bytes == pytest.approx(0.15 * growing)
    on_cpu = training_memory(D12, 4, STATIC, MemoryOptions(kind="cpu"))
    assert on_cpu.fragmentation_bytes / (on_cpu.activations_bytes + on_cpu.logits_bytes) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (MemoryOptions(recompute=True), MemoryOptions()),
        (MemoryOptions(compiled=True, recompute=True), MemoryOptions(compiled=True)),
        (MemoryOptions(compiled=True), MemoryOptions()),
        (MemoryOptions(), MemoryOptions(chunked_loss=False)),
        (MemoryOptions(compiled=True), MemoryOptions(compiled=True, chunked_loss=False)),
        (MemoryOptions(), MemoryOptions(activation_bytes=4)),
        (MemoryOptions(), MemoryOptions(explicit_attention=True)),
        (MemoryOptions(kind="cpu"), MemoryOptions(kind="gpu")),
    ],
)
def test_what_saves_memory(less, more):
    """Catches an option that is ignored or that works the wrong way round."""
    few, many = (training_memory(D12, 32, STATIC, options).allocated_bytes for options in (less, more))
    assert few < many
    less, more = (dataclasses.replace(options, reserved_over_allocated=1.0) for options in (less, more))
    assert largest_rows(80 * GIB, D12, STATIC, less) > largest_rows(80 * GIB, D12, STATIC, more)


def test_recomputation_keeps_two_bytes_per_token_layer_and_channel():
    """The slope over layers is 2 s b h of Korthikanti plus weights copied once, with a compiler and without."""
    for compiled in (False, True):
        options = MemoryOptions(compiled=compiled, recompute=True)
        nothing = StaticBytes(0, 0, 0)
        small, large = (
            training_memory(dataclasses.replace(D12, n_layers=layers), 8, nothing, options).activations_bytes
            for layers in (12, 13)
        )
        assert large - small == pytest.approx(korthikanti_layer_bytes(2048, 8, 768, 6, "full"))


def test_logits_are_half_of_a_compiled_d12_and_chunks_nearly_double_its_batch():
    """d12, 32 rows: 65,536 * 32,768 * 9.2 = 19.8 GB of the 34."""
    found = training_memory(D12, 32, D12_STATIC, PUBLIC)
    assert found.logits_bytes / 1e9 == pytest.approx(19.8, abs=0.06)
    chunked = MemoryOptions(compiled=True)
    growth = largest_rows(80 * GIB, D12, D12_STATIC, chunked) / largest_rows(80 * GIB, D12, D12_STATIC, PUBLIC)
    assert 1.7 < growth < 2.4


@pytest.mark.parametrize("options", [MemoryOptions(), PUBLIC, MemoryOptions(recompute=True, explicit_attention=True)])
def test_largest_rows_is_the_boundary_of_what_fits(options):
    """Catches an off-by-one: one row more must exceed the share of memory a plan may fill."""
    rows = largest_rows(24 * GIB, D12, STATIC, options)
    room = 24 * GIB * USABLE_MEMORY_SHARE
    assert rows > 0
    assert training_memory(D12, rows, STATIC, options).total_bytes <= room
    assert training_memory(D12, rows + 1, STATIC, options).total_bytes > room
    assert largest_rows(2 * GIB, D12, STATIC, options) == 0


@pytest.mark.parametrize("memory_gib", [8, 24, 80])
def test_both_solutions_for_the_rows_agree_where_both_apply(memory_gib):
    """`largest_micro_batch_rows` is the two-constant formula solved, `largest_rows` searches the breakdown."""
    closed = largest_micro_batch_rows(memory_gib * GIB, 12, 768, 32768, 2048, D12_STATIC.total_bytes)
    assert closed > 0
    assert closed == largest_rows(memory_gib * GIB, D12, D12_STATIC, PUBLIC)


def test_largest_micro_batch_is_zero_when_the_static_part_is_too_large():
    assert largest_micro_batch_rows(2.0 * GIB, 4, 256, 4096, 512, 3.0 * GIB) == 0


def test_explicit_attention_keeps_all_weights_of_one_block():
    """A row no longer than the query block keeps T x T weights; a longer one skips the future."""
    assert explicit_attention_bytes(1, 1, 256, 1, 2) == 256 * 256 * 2
    assert explicit_attention_bytes(1, 1, 512, 1, 2) == 512 * 384 * 2
    assert explicit_attention_bytes(1, 1, 300, 1, 2) == (256 * 256 + 44 * 300) * 2


def test_serving_memory_counts_grouped_heads_and_finds_the_boundary():
    """d20 in bf16: 102,400 B per token; 64 sequences of 2,048 tokens take 13.4 GB, with 5 queries per key 2.7 GB."""
    d20 = shape_of_depth(20, 32768, 2048)
    grouped = dataclasses.replace(d20, n_kv_heads=2)
    assert serving_memory(d20, 1, 1).kv_bytes == 102_400
    assert serving_memory(d20, 64, 2048).kv_bytes / 1e9 == pytest.approx(13.4, abs=0.03)
    assert serving_memory(grouped, 64, 2048).kv_bytes / 1e9 == pytest.approx(2.7, abs=0.03)
    most = largest_sequences(24 * GIB, d20, 2048)
    assert serving_memory(d20, most, 2048).total_bytes <= 24 * GIB * USABLE_MEMORY_SHARE
    assert serving_memory(d20, most + 1, 2048).total_bytes > 24 * GIB * USABLE_MEMORY_SHARE
    assert largest_sequences(1.0, d20, 2048) == 0


@pytest.mark.parametrize("shape", [shape_of_depth(4, 4096, 512), shape_of_depth(20, 32768, 2048)])
@pytest.mark.parametrize("gib", [1, 2, 8, 24, 80, 141])
@pytest.mark.parametrize("tokens_each", [1, 1000, 2048, 32768])
def test_sequences_are_counted_as_step_nine_counts_them(shape, gib, tokens_each):
    """One formula for both: the usable memory that weights and context leave, over the cache of one sequence."""
    one = serving_memory(shape, 1, tokens_each)
    expected = (gib * GIB * USABLE_MEMORY_SHARE - one.weights_bytes - one.context_bytes) // one.kv_bytes
    assert largest_sequences(gib * GIB, shape, tokens_each) == max(0, expected)
    per_token = serving_memory(shape, 1, 1).kv_bytes
    resident = one.weights_bytes + one.context_bytes
    fit = max_concurrent_sequences(gib * GIB, resident, int(per_token), tokens_each, USABLE_MEMORY_SHARE)
    assert largest_sequences(gib * GIB, shape, tokens_each) == fit


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MemoryOptions(activation_bytes=3), "activation_bytes=3: allowed are 2"),
        (lambda: MemoryOptions(kind="tpu"), "kind='tpu': allowed are cpu, gpu"),
        (lambda: MemoryOptions(reserved_over_allocated=0.9), "reserved_over_allocated=0.9"),
        (lambda: MemoryOptions(context_bytes=float("nan")), "context_bytes=nan"),
        (lambda: MemoryOptions(compiled=True, explicit_attention=True), "explicit_attention=True"),
        (lambda: StaticBytes(-1, 0, 0), "weights_bytes=-1"),
        (lambda: training_memory(D12, 0, STATIC), "rows=0"),
        (lambda: largest_rows(float("inf"), D12, STATIC, PUBLIC), "memory_bytes=inf"),
        (lambda: default_static(D12, 0), "optimizer_shards=0"),
        (lambda: explicit_attention_bytes(1, 1, 16, -1, 2), "rows=-1"),
        (lambda: training_memory_bytes(1, 1, 1, 1, -1, 0), "rows=-1"),
        (lambda: korthikanti_layer_bytes(1, 1, 1, 1, "half"), "recompute='half': allowed are none, selective, full"),
        (lambda: serving_memory(D12, -1, 1), "sequences=-1"),
        (lambda: largest_sequences(1e9, D12, 0), "tokens_each=0"),
        (lambda: MemoryProbe(1, 1, 1, 1, 1, 1, float("nan")), "peak_bytes=nan"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fully_sharded_training_divides_all_three_and_gathers_two_layers_and_the_tables():
    """ZeRO-3 on 8 devices: of 12 + 16 B only an eighth, but what is at work is whole."""
    whole, sharded = default_static(D12), default_static(D12, weight_shards=8)
    assert sharded.gradients_bytes == whole.gradients_bytes / 8
    assert sharded.optimizer_bytes == whole.optimizer_bytes / 8
    gathered = 4 * (2 * 12 * 768**2 + 2 * 32768 * 768)
    assert sharded.weights_bytes == whole.weights_bytes / 8 + gathered
    assert default_static(D12, optimizer_shards=8, weight_shards=8) == sharded
    assert gathered_bytes(D12, 1) == 0
    one_layer = dataclasses.replace(D12, n_layers=1)
    assert gathered_bytes(one_layer, 2) == 4 * (12 * 768**2 + 2 * 32768 * 768)
    with pytest.raises(ValueError, match="weight_shards=0"):
        default_static(D12, weight_shards=0)
