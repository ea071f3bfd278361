"""The export stage on a small random model: files, equivalence with transformers, refusals, determinism."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.gpt import GPT
from tasks import export
from tasks._errors import StageError
from tasks.stages import Stage
from tests.model.engine import tiny
from tests.stage_context import make_context


def trained(root: Path, seed: int = 0) -> GPT:
    """artifacts/ as the stages before export leave it; weights far from zero, as after training."""
    from model.checkpoint import save_weights
    from model.tokenizer import byte_tokenizer_json

    torch.manual_seed(seed)
    model = GPT(tiny.config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    for number, stage in enumerate(export.CHECKPOINTS):
        meta = {
            "stage": str(stage),
            "step": number,
            "tokens": 100,
            "tokenizer_sha256": tiny.tokenizer().sha256,
            "key": "k",
        }
        save_weights(root / "artifacts" / stage / "checkpoint", model, meta)
    files: dict[str, Any] = {
        "gate/verdict.json": {"passed": True, "selected": "rl", "checks": [], "champion": None},
        "evaluation/scores.json": {"rl": {"arithmetic": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}}},
        "corpus/report.json": {"domains": {"python_docs": {"in": 5, "kept": 3, "in_bytes": 50, "kept_bytes": 30}}},
    }
    for name, content in files.items():
        file = root / "artifacts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    (root / "artifacts/tokenizer").mkdir()
    (root / "artifacts/tokenizer/tokenizer.json").write_text(byte_tokenizer_json())
    return model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    trained(tmp_path)
    return tmp_path


def run(root: Path, **params: Any) -> Any:
    context = make_context(root, Stage.EXPORT, export.Params(**params), key="abc")
    export.run(context)
    return context


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_folder_is_what_transformers_and_our_engine_load(root, dtype):
    from transformers import AutoConfig, AutoTokenizer

    from model.engine.engine import Engine

    context = run(root, dtype=dtype)
    assert {file.name for file in context.out.iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "README.md", "scores.json",
    }  # fmt: skip
    assert context.figures["max_logit_difference"] <= 1e-5
    assert context.figures["greedy_tokens_compared"] > 20
    assert context.measured["export_bytes"] == context.predicted["export_bytes"][0]
    config = AutoConfig.from_pretrained(context.out)
    assert (config.intermediate_size, config.num_key_value_heads, config.max_position_embeddings) == (128, 2, 96)
    assert str(config.dtype).endswith(dtype)
    engine = Engine.from_folder(context.out, dtype="float32")
    assert engine.config == tiny.config()
    tokenizer = AutoTokenizer.from_pretrained(context.out)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello, 12+30?"},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": "naïve"},
    ]
    from model.chat_format import render_prompt

    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert rendered == render_prompt(engine.tokenizer, messages)
    assert tokenizer("plain")["input_ids"] == engine.tokenizer.encode("plain")  # no token is added by itself


def test_equal_inputs_give_equal_bytes(root, tmp_path_factory):
    """Catches a time, a path or an unordered mapping in any file."""
    other = tmp_path_factory.mktemp("other")
    trained(other)
    first, second = run(root).out, run(other).out
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


def test_the_model_card_names_scores_sources_key_and_lineage(root):
    card = (run(root).out / "README.md").read_text()
    assert all(
        text in card
        for text in ("arithmetic", "0.4 to 0.6", "| python_docs | 3 | 5 | 30 |", "`abc`", "| rl (this model) | 3 |")
    )


def test_a_tensor_without_a_place_fails_the_stage(root):
    """Catches an export that silently drops what transformers has no place for."""
    from safetensors.torch import load_file, save_file

    file = root / "artifacts/rl/checkpoint/model.safetensors"
    save_file({**load_file(file), "model.layers.0.value_embedding.weight": torch.zeros(2)}, file)
    with pytest.raises(StageError, match="value_embedding"):
        run(root)


def test_a_research_model_is_refused_with_what_has_no_place_and_what_to_do(root):
    """Catches an export that writes NanoChatForCausalLM and leaves windows out: they are no tensor that could miss."""
    from model.checkpoint import save_weights
    from model.engine.hf_config import to_hf
    from model.research import ResearchConfig

    windows = ResearchConfig("SL", value_embeddings=False, residual_scalars=False, qk_scale=1.0)
    for research, told in (
        (windows, "windows SL have"),
        (ResearchConfig(), "SSSL, value embeddings, residual scalars"),
    ):
        model = GPT(tiny.config(research=research))
        model.init_weights(0)
        folder = root / "artifacts/rl/checkpoint"
        save_weights(folder, model, json.loads((folder / "meta.json").read_text()))
        with pytest.raises(StageError, match=rf"{told}.*research: false.*`dvc repro gate`"):
            run(root)
        assert not list((root / "work/export/out").glob("*"))
    with pytest.raises(ValueError, match="is a research model"):
        to_hf(model.config, tiny.tokenizer(), "float32")


def test_a_model_that_transformers_computes_differently_fails_the_stage(root, monkeypatch):
    """Catches a check that cannot fail: the folder gets another softcap than the model was trained with."""
    from model.engine import hf_config

    honest = hf_config.to_hf
    monkeypatch.setattr(hf_config, "to_hf", lambda *a: {**honest(*a), "final_logit_softcapping": 14.0})
    with pytest.raises(StageError, match="logits differ"):
        run(root)


def test_the_checkpoint_of_another_tokenizer_fails_the_stage(root):
    meta = root / "artifacts/rl/checkpoint/meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "tokenizer_sha256": "0" * 64}))
    with pytest.raises(StageError, match="trained with the tokenizer 000000000000"):
        run(root)


def test_the_gate_decides_unless_a_checkpoint_is_named():
    assert export.select_checkpoint(export.Params(), {"selected": "sft"}) == Stage.SFT
    assert export.select_checkpoint(export.Params(checkpoint="pretrain"), {"selected": "sft"}) == Stage.PRETRAIN
    with pytest.raises(StageError, match="selects 'budget'"):
        export.select_checkpoint(export.Params(), {"selected": "budget"})


def test_config_survives_the_round_trip_and_other_families_are_refused():
    from model.engine.hf_config import from_hf, to_hf

    fields = to_hf(tiny.config(), tiny.tokenizer(), "float32")
    assert from_hf(fields, "config.json") == tiny.config()
    for change in ({"model_type": "llama"}, {"attention_bias": True}, {"rope_parameters": {"rope_type": "yarn"}}):
        with pytest.raises(ValueError, match="allowed"):
            from_hf({**fields, **change}, "config.json")
