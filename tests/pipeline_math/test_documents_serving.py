"""Arithmetic that only documents 06 to 10 use, and the inputs their examples take from the laptop profile."""

import math
from pathlib import Path

import pytest
import yaml

from pipeline_math.documents import (
    step_06,
    step_06_rl,
    step_07,
    step_07_cost,
    step_08,
    step_09,
    step_09_public,
    step_10,
)
from pipeline_math.documents.examples import D12, recorded_hardware
from pipeline_math.documents.levers import D20, term_share
from pipeline_math.documents.recorded import newest
from pipeline_math.hardware import HARDWARE
from pipeline_math.inference_prefill_decode import kv_cache_bytes
from pipeline_math.stage_terms import seconds_terms, shape_amounts
from pipeline_math.statistics import wilson_interval

LAPTOP = yaml.safe_load((Path(__file__).parents[2] / "profiles" / "laptop.yaml").read_text(encoding="utf-8"))


def test_examples_called_laptop_are_those_of_the_laptop_profile():
    asked, rl = LAPTOP["evaluation"], LAPTOP["rl"]
    items = {
        "arithmetic": asked["arithmetic_items"],
        "ends_properly": asked["arithmetic_items"] + asked["form_items"],
        "multiple_choice": asked["multiple_choice_items"],
    }
    assert items == step_07.OWN_ITEMS
    assert len(asked["checkpoints"]) == step_07_cost.SCORED_CHECKPOINTS
    assert sum(stage != "pretrain" for stage in asked["checkpoints"]) == step_07_cost.SPOKEN_CHECKPOINTS
    assert rl["samples_per_prompt"] == step_06_rl.GROUP
    assert rl["prompts_per_step"] * rl["samples_per_prompt"] == step_06_rl.DECODE_ROWS["wide"]
    assert rl["max_reply_tokens"] == step_06_rl.REPLY_TOKENS
    assert LAPTOP["inference"]["new_tokens"] == step_09.NEW_TOKENS


@pytest.mark.parametrize("hardware", ["cpu-2core", "cpu-2core-avx2", "h100"])
@pytest.mark.parametrize("row_tokens", [512, 2048])
def test_parts_of_a_step_are_all_of_it(hardware, row_tokens):
    """Explicit and fused attention, fp32 and bf16, and the single term of a GPU: the shares add up to one."""
    amounts = shape_amounts(D12) | {"tokens_per_row": row_tokens, "batch_tokens": 2 * row_tokens}
    amounts |= {"micro_batch_rows": 1, "supervised_share": 0.4}
    shares = [step_06.step_part(amounts, HARDWARE[hardware], names) for names in step_06.STEP_PARTS.values()]
    assert sum(shares) == pytest.approx(1.0)


def test_parts_of_a_stage_are_all_of_it():
    row, hardware = newest("export", "seconds"), recorded_hardware("export", "seconds")
    names = seconds_terms("export", row.amounts, hardware)
    assert sum(term_share("export", "seconds", row.amounts, hardware, name) for name in names) == pytest.approx(1.0)


def test_chance_of_passing_a_threshold():
    assert step_07.pass_probability(0.5, 2, 0.5) == pytest.approx(0.75)
    assert step_07.pass_probability(0.3, 50, 0.0) == pytest.approx(1.0)
    assert step_07.pass_probability(0.9, 10, 0.9) == pytest.approx(0.9**10 + 10 * 0.9**9 * 0.1)  # 9 of 10 pass
    assert step_07.pass_probability(0.9, 300, 0.9) < step_07.pass_probability(0.92, 300, 0.9)


def test_true_score_that_passes_nineteen_times_in_twenty():
    """The document reads it off Wilson's bound; the exact binomial agrees to a few per cent at 250 items."""
    items = step_07.OWN_ITEMS["arithmetic"]
    safe = wilson_interval(step_07.THRESHOLD * items, items, step_07.Z_90)[1]
    assert step_07.pass_probability(safe, items, step_07.THRESHOLD) == pytest.approx(0.95, abs=0.02)


def test_drop_that_chance_explains():
    low, high = wilson_interval(95, 100)
    assert step_07.chance_difference(0.95, 100) == pytest.approx(math.hypot((high - low) / 2, (high - low) / 2))
    assert step_07.chance_difference(0.95, 100, 1.0) == 0
    assert step_07.miss_at_margin(2.0, 1.6, 2.5, 0.0) == pytest.approx(0.5)
    assert step_07.miss_at_margin(2.0, 1.6, 2.5, 0.25) == pytest.approx(0.05)


def test_exported_file_is_predicted_to_the_byte(tmp_path):
    """Names and shapes as the model has them, size as safetensors writes it; grouped heads, more than ten layers."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from model.engine.forward import expected_shapes
    from model.gpt import GPTConfig
    from pipeline_math.model_flops_vram import ModelShape

    shape = ModelShape(11, 32, 4, 2, 64, 320, 16)
    config = GPTConfig(
        vocab_size=320, n_layers=11, d_model=32, n_heads=4, n_kv_heads=2, mlp_width=64, sequence_length=16
    )
    tensors = step_08.exported_tensors(shape, "bf16")
    assert {tensor.name: tensor.shape for tensor in tensors} == expected_shapes(config)
    zeros = {tensor.name: torch.zeros(tensor.shape, dtype=torch.bfloat16) for tensor in tensors}
    save_file(zeros, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").stat().st_size == step_08.exported_file_bytes(shape, "bf16")


def test_caches_outweigh_the_weights_from_the_crossing_on():
    model, sequences = step_09_public.decoder(D20), 64
    crossing = step_09_public.crossing_tokens(model.weight_bytes, model.kv_bytes_per_token, sequences)
    caches = kv_cache_bytes(int(model.kv_bytes_per_token), round(crossing), sequences)
    assert caches == pytest.approx(model.weight_bytes, rel=0.01)


def test_a_forecast_decode_step_grows_with_its_rows_but_less_than_in_proportion():
    row, hardware = newest("inference", "seconds_per_output_token"), recorded_hardware("inference", "seconds")
    one, many = (step_09.step_seconds(row.amounts, hardware, rows) for rows in (1, 64))
    assert one < many < 64 * one
    assert step_10.slowed_seconds(0.002, one, many) == pytest.approx(0.002 * many / one)
