"""Terms of stages: they exist for every stage, grow with their amounts, and know what the model knows."""

import math

import pytest

from pipeline_math import step_time
from pipeline_math.calibrate import calibrate
from pipeline_math.constants import CONSTANTS, noise_of, prior_of
from pipeline_math.forecast import Observation, Terms, forecast, total
from pipeline_math.hardware import HARDWARE, find_hardware
from pipeline_math.ledger import RECORDED_RUNS, read_csv
from pipeline_math.model_flops_vram import QUERY_BLOCK, ModelShape, shape_of_depth
from pipeline_math.stage_seconds import FORECAST_QUANTITIES
from pipeline_math.stage_terms import (
    SMALL_SCALE_FLOPS,
    STAGE_ORDER,
    TRAINING_STAGES,
    bits_per_byte_terms,
    is_small_scale,
    peak_memory_terms,
    seconds_terms,
    shape_amounts,
    shape_of,
    terms_of,
)

CPU, GPU = find_hardware("cpu-2core"), find_hardware("rtx4090")
SHAPE = shape_of_depth(4, 4096, 512)
TRAINING = {
    **shape_amounts(SHAPE),
    "batch_tokens": 8192.0,
    "micro_batch_rows": 16.0,
    "steps": 100.0,
    "state_saves": 1.0,
    "conversation_tokens": 1000.0,
    "evaluation_tokens": 1000.0,
    "trained_bytes": 1.0e6,
}
DECODE = {**shape_amounts(SHAPE), "decode_steps": 100.0, "rows_per_decode_step": 8.0}
AMOUNTS = {
    "budget": {},
    "corpus": {"raw_bytes": 1.0e7, "documentation_sources": 1.0},
    "tokenizer": {"train_bytes": 1.0e7, "merges": 3000.0},
    "shards": {"kept_bytes": 1.0e7},
    "architecture": {},
    **dict.fromkeys(TRAINING_STAGES, TRAINING),
    "rl": {**DECODE, "steps": 2.0, "batch_tokens": 4096.0, "micro_batch_rows": 8.0},
    "evaluation": {**DECODE, "forward_tokens": 1.0e5, "checkpoints": 4.0, "text_bytes": 1.0e6},
    "gate": {"champion": 1.0},
    "export": {"parameters": 1.0e6},
    "inference": {**DECODE, "prompt_tokens": 128.0},
    "chat": DECODE,
}


@pytest.mark.parametrize("name", sorted(HARDWARE))
def test_every_stage_has_a_positive_forecast_on_every_class(name):
    hardware = find_hardware(name)
    known = prior_of(hardware)
    for stage in STAGE_ORDER:
        for quantity in FORECAST_QUANTITIES:
            terms = terms_of(stage, quantity, AMOUNTS[stage], hardware)
            assert terms is None or 0 < total(terms, known) < math.inf, (stage, quantity)
    assert terms_of("corpus", "kept_share", AMOUNTS["corpus"], hardware) is None


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
def test_more_work_takes_longer(hardware):
    known = prior_of(hardware)
    for stage, amounts in AMOUNTS.items():
        before = total(seconds_terms(stage, amounts, hardware), known)
        for name, value in amounts.items():
            if name in ("n_heads", "n_kv_heads", "micro_batch_rows", "trained_bytes", "parameters", "prompt_tokens"):
                continue  # counted elsewhere, or fewer calls
            grown = total(seconds_terms(stage, {**amounts, name: 2 * value}, hardware), known)
            assert grown >= before * 0.999, (stage, name)


def test_every_constant_is_used_and_every_term_has_one():
    for hardware in (CPU, GPU, find_hardware("cpu-2core-avx2")):
        used = set()
        for stage in STAGE_ORDER:
            for quantity in FORECAST_QUANTITIES:
                used |= set(terms_of(stage, quantity, AMOUNTS[stage], hardware) or ())
        assert used <= set(CONSTANTS[hardware.kind])
        if hardware is CPU:
            used |= set(step_time.step_terms(CPU, SHAPE, 8192, 16, mfu=0.3)) | {"fused_attention"}
            assert used == set(CONSTANTS["cpu"])
        elif hardware is GPU:
            assert used == set(CONSTANTS["gpu"])


def test_missing_amounts_are_named():
    with pytest.raises(KeyError, match="raw_bytes"):
        seconds_terms("corpus", {"documentation_sources": 1.0}, CPU)
    with pytest.raises(KeyError, match="n_layers"):
        terms_of("pretrain", "seconds", {"steps": 1.0}, CPU)


def test_a_policy_that_takes_no_step_costs_a_start():
    assert seconds_terms("rl", {"steps": 0.0}, CPU) == {"process": 1.0, "torch_import": 1.0}


def test_masked_tokens_cost_no_head_on_a_cpu():
    full = step_time.step_terms(CPU, SHAPE, 8192, 16)
    half = step_time.step_terms(CPU, SHAPE, 8192, 16, supervised_share=0.5)
    assert half["head_products"] == pytest.approx(full["head_products"] / 2)
    assert half["products"] == full["products"]


def test_a_given_mfu_is_the_time_of_its_flops():
    terms = step_time.step_terms(CPU, SHAPE, 8192, 16, mfu=0.25)
    assert terms == {"whole_model": pytest.approx(31457280 * 8192 / (CPU.peak_flops() * 0.25))}


def test_the_attention_path_is_the_models_own():
    """The rule for the explicit path is repeated here because this package imports nothing: it must stay the same."""
    attention = pytest.importorskip("model.attention")
    assert step_time.LONGEST_EXPLICIT_ROW == attention.LONGEST_EXPLICIT_ROW
    assert step_time.uses_explicit_attention(CPU, 512) and not step_time.uses_explicit_attention(CPU, 513)
    assert not step_time.uses_explicit_attention(GPU, 128)
    assert not step_time.uses_explicit_attention(find_hardware("cpu-2core-avx2"), 128)


@pytest.mark.parametrize("tokens_per_row", [100, 256, 300, 511, 512])
def test_scores_are_those_of_the_blocks_that_are_formed(tokens_per_row):
    """A last block that is not full was counted as a full one: 6 % too many scores for rows of 300 tokens."""
    rows, tokens = 4, 4.0 * tokens_per_row
    formed = 0
    for start in range(0, tokens_per_row, QUERY_BLOCK):  # as model.attention does
        end = min(start + QUERY_BLOCK, tokens_per_row)
        formed += rows * (end - start) * end
    shape = shape_of_depth(4, 4096, tokens_per_row)
    terms = step_time.gradient_terms(CPU, shape, tokens, rows)
    passes = 4.0 / CPU.bandwidth_bytes_per_second
    assert terms["scores"] == pytest.approx(shape.n_layers * shape.n_heads * formed * passes)
    assert terms["score_products"] == pytest.approx(12 * shape.n_layers * shape.d_model * formed / CPU.peak_flops())


def test_a_given_mfu_is_nearly_known():
    """Whoever gave it has measured it: what remains is what the formula of a step leaves out."""
    known, noise = prior_of(CPU), noise_of("step_seconds")
    given = forecast("pretrain.step_seconds", step_time.step_terms(CPU, SHAPE, 8192, 16, mfu=0.3), known, noise)
    assert given.high / given.value < 1.30  # a step of a shape like those measured is known as well


def test_packing_little_text_takes_its_imports():
    """Without a fixed cost a small run was forecast far too low, and what it taught about bytes was too slow."""

    def terms(kept_bytes: float) -> Terms:
        return seconds_terms("shards", {"kept_bytes": kept_bytes}, CPU)

    recorded = next(row for row in read_csv(RECORDED_RUNS) if (row.stage, row.quantity) == ("shards", "seconds"))
    large = terms(recorded.amounts["kept_bytes"])
    noise, before = noise_of("seconds"), prior_of(CPU)
    assert forecast("shards.seconds", large, before, noise).value == pytest.approx(recorded.measured, rel=0.1)
    small = Observation("shards.seconds", terms(347_037), 1.07)  # a pulse on the machine of the recorded run
    assert total(small.terms, before) == pytest.approx(small.measured, rel=0.1)
    after = calibrate(before, [small], {"shards.seconds": noise}, "here")
    # A tenth: what the formula of a stage's seconds is expected to leave out, and repetition.
    assert forecast("shards.seconds", large, after, noise).value == pytest.approx(recorded.measured, rel=0.1)


def test_shapes_survive_the_ledger():
    assert shape_of(shape_amounts(SHAPE)) == SHAPE


def test_memory_is_made_of_the_parts_of_step_four():
    parts = peak_memory_terms(TRAINING, CPU)
    twice = peak_memory_terms({**TRAINING, "micro_batch_rows": 32.0}, CPU)
    assert twice["static_bytes"] == parts["static_bytes"]
    assert twice["activation_bytes"] == pytest.approx(2 * parts["activation_bytes"], rel=0.05)
    assert parts["process_bytes"] == 1.0


def test_the_small_loss_falls_with_parameters_and_bytes():
    known = prior_of(CPU)

    def loss(parameters: float, text: float, vocabulary: float) -> float:
        return total(bits_per_byte_terms(parameters, text, vocabulary), known)

    assert loss(1e6, 1e7, 512) > loss(2e6, 1e7, 512) > loss(2e6, 2e7, 512) > loss(2e6, 2e7, 1024)
    assert loss(2e6, 2e7, 1024) > known.value("irreducible")


def test_large_runs_are_not_forecast_from_small_ones():
    assert is_small_scale(TRAINING)
    steps = SMALL_SCALE_FLOPS / (6 * ModelShape(**{k: int(TRAINING[k]) for k in shape_amounts(SHAPE)}).d_model)
    assert not is_small_scale({**TRAINING, "steps": steps})
    assert not is_small_scale({k: v for k, v in TRAINING.items() if k != "trained_bytes"})
