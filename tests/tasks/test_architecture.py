"""architecture: what is predicted equals the real model, and contradictions are found before training."""

import dataclasses
import json

import pytest

from model.gpt import GPT, GPTConfig
from model.shape_of_config import config_of_shape
from model.tokenizer import byte_tokenizer_json
from pipeline_math.hardware import find_hardware
from pipeline_math.model_flops_vram import ModelShape, total_parameters
from tasks import architecture
from tasks._errors import StageError
from tasks._params import validate
from tasks.stages import Stage
from tests.stage_context import make_context

VOCABULARY = 320
"""256 bytes + nine specials, padded to a multiple of 64."""
PLAN = {
    "hardware": "cpu-2core",
    "depth": 2,
    "d_model": 128,
    "n_heads": 2,
    "n_kv_heads": 1,
    "tokens_per_row": 64,
    "vocab_size": VOCABULARY,
    "micro_batch_rows": 8,
    "precision": "bf16",
}


def run_stage(tmp_path, plan=PLAN, **params):
    for path, text in (
        ("artifacts/budget/plan.json", json.dumps(plan)),
        ("artifacts/budget/hardware.json", json.dumps({"device": dataclasses.asdict(find_hardware(plan["hardware"]))})),
        ("artifacts/tokenizer/tokenizer.json", byte_tokenizer_json()),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    context = make_context(tmp_path, Stage.ARCHITECTURE, validate(architecture.Params, params, "params.yaml"))
    architecture.run(context)
    report = json.loads((context.out / "report.json").read_text())
    return context, GPTConfig.from_json(context.out / "config.json"), report


def test_the_plan_decides_when_nothing_is_set(tmp_path):
    context, config, report = run_stage(tmp_path)
    assert (config.n_layers, config.d_model, config.n_heads, config.n_kv_heads) == (2, 128, 2, 1)
    assert (config.vocab_size, config.sequence_length, config.mlp_width) == (VOCABULARY, 64, 512)
    assert report["kv_bytes_per_token"] == 2 * 2 * 1 * 64 * 2
    assert "not halved" in report["flops_convention"]
    assert context.predicted["parameters"][0] == context.measured["parameters"]
    assert context.predicted["checkpoint_bytes"][0] == context.measured["checkpoint_bytes"]


@pytest.mark.parametrize(
    "shape",
    [
        ModelShape(1, 64, 2, 1, 256, 320, 32),
        ModelShape(3, 96, 6, 3, 192, 640, 64),
        ModelShape(2, 256, 2, 2, 1024, 4096, 512),
        ModelShape(12, 768, 6, 6, 3072, 32768, 2048),
    ],
)
def test_parameter_formula_equals_the_built_model(shape):
    """pipeline_math against torch, grouped heads and an unusual MLP included; no memory is used."""
    parameters, tensor_bytes = architecture.built_parameters(config_of_shape(shape))
    assert parameters == total_parameters(shape)
    assert tensor_bytes == 4 * parameters


def test_flops_count_the_real_matrices(tmp_path):
    """6 per weight of every Linear: found by walking the real model, not by the same formula again."""
    import torch

    _, config, report = run_stage(tmp_path)
    with torch.device("meta"):
        model = GPT(config)
    matmul_weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    attention = 12 * config.n_layers * config.d_model * config.sequence_length
    assert report["train_flops_per_token"] == 6 * matmul_weights + attention
    assert report["scaling_parameters"] == matmul_weights


def test_an_explicit_shape_overrides_the_plan(tmp_path):
    _, config, _ = run_stage(tmp_path, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2, mlp_ratio=2, tokens_per_row=32)
    assert (config.n_layers, config.d_model, config.n_heads, config.n_kv_heads) == (3, 64, 4, 2)
    assert (config.mlp_width, config.sequence_length, config.head_dim) == (128, 32, 16)


def test_a_depth_overrides_the_plan(tmp_path):
    _, config, _ = run_stage(tmp_path, depth=4)
    assert (config.n_layers, config.d_model, config.n_heads, config.n_kv_heads) == (4, 256, 2, 1)


@pytest.mark.parametrize(
    ("research", "extras"),
    [
        (True, {"window_pattern": "SSSL", "value_embeddings": True, "residual_scalars": True, "qk_scale": 1.2}),
        ({"window_pattern": "SL", "value_embeddings": False},
         {"window_pattern": "SL", "value_embeddings": False, "residual_scalars": True, "qk_scale": 1.2}),
    ],
)  # fmt: skip
def test_research_models_are_configured_and_counted(tmp_path, capsys, research, extras):
    """The stage fails if a formula is off by one gate: parameters and bytes are compared with the built model."""
    shape = {"n_layers": 3, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "tokens_per_row": 256}
    context, config, report = run_stage(tmp_path / "research", research=research, **shape)
    _, default, plain = run_stage(tmp_path / "default", research=False, **shape)
    assert dataclasses.asdict(config.research) == extras and default.research is None
    more = 2 * 3 + extras["value_embeddings"] * 2 * (VOCABULARY * 32 + 12 * 2)
    assert report["research_parameters"] == report["parameters"] - plain["parameters"] == more
    assert context.measured["parameters"] == report["parameters"]
    windows = (256 - 128) * (2 if extras["window_pattern"] == "SSSL" else 1)  # tokens that the first layers do not see
    gates = 6 * extras["value_embeddings"] * 2 * 12 * 2
    assert plain["train_flops_per_token"] - report["train_flops_per_token"] == 12 * 64 * windows - gates
    assert report["training_memory_bytes"] - plain["training_memory_bytes"] == pytest.approx(16 * more, rel=0.01)
    assert capsys.readouterr().out.count("the stage export will refuse it") == 1
    assert "each layer's window" in report["flops_convention"]


def test_precision_and_attention_change_the_memory_estimate(tmp_path):
    _, _, automatic = run_stage(tmp_path / "auto")
    _, _, fused = run_stage(tmp_path / "sdpa", attention="sdpa")
    _, _, wide = run_stage(tmp_path / "fp32", precision="fp32")
    assert (automatic["attention"], wide["attention"]) == ("explicit", "sdpa")
    assert fused["training_memory_bytes"] < automatic["training_memory_bytes"]
    assert wide["kv_bytes_per_token"] == 2 * automatic["kv_bytes_per_token"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"d_model": 100, "n_layers": 2, "n_heads": 3}, "d_model=100 is not divisible by architecture.n_heads=3; use"),
        ({"d_model": 6, "n_layers": 2, "n_heads": 2}, "head dimension 3 .* is odd"),
        ({"d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 3}, "n_kv_heads=3 does not divide.*1, 2, 4"),
        ({"d_model": 64, "n_layers": 2}, "architecture.n_heads is null"),
        ({"depth": 2, "d_model": 64, "n_layers": 2, "n_heads": 2}, "exclude each other"),
        ({"precision": "fp16"}, "precision"),
        ({"research": {"windows": "SL"}}, "unknown key 'windows' in architecture.research .allowed: window_pattern, "),
        ({"research": {"window_pattern": "SX"}}, "research.window_pattern"),
        ({"research": "published"}, "research"),
        ({"layers": 3}, "unknown key 'layers'"),
    ],
)
def test_impossible_shapes_say_what_is_allowed(params, message):
    with pytest.raises(StageError, match=message):
        validate(architecture.Params, params, "params.yaml: architecture")


def test_a_key_value_count_that_contradicts_the_plan_is_found(tmp_path):
    """Only together with the plan's heads is it wrong, so Params alone cannot see it."""
    with pytest.raises(StageError, match="n_kv_heads=3 does not divide n_heads=2"):
        run_stage(tmp_path, n_kv_heads=3)


def test_a_vocabulary_other_than_planned_is_an_error(tmp_path):
    with pytest.raises(StageError, match=r"budget.vocab_size=4096.*holds 320 tokens.*next"):
        run_stage(tmp_path, {**PLAN, "vocab_size": 4096})


def test_a_wrong_formula_fails_the_stage(tmp_path, monkeypatch):
    """The promise of the stage: prediction and model are compared, not just both reported."""
    monkeypatch.setattr(architecture, "built_parameters", lambda config: (1, 4))
    with pytest.raises(RuntimeError, match="parameters predicted"):
        run_stage(tmp_path)
