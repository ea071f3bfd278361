"""Research models against their formulas, written out plainly; and what the switch leaves alone."""

import dataclasses
import json

import pytest
import torch

from model.gpt import GPT, GPTConfig
from model.norms import rope_tables
from model.research import ResearchConfig, add_value_embedding, layer_window, short_window
from pipeline_math.model_flops_vram import ModelShape
from pipeline_math.research_layout import ResearchExtras, pattern_windows
from tests.model.test_gpt import randomised, small_config

TOKENS = 260
"""Longer than two short windows of 128, so that windows matter."""


def research_config(research: ResearchConfig | None, **changes) -> GPTConfig:
    return small_config(**{"n_layers": 3, "n_heads": 4, "sequence_length": TOKENS, "research": research} | changes)


def written_out(model: GPT, ids_T: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of one row by the formulas of model/research.py, in float64, one head and one token at a time."""
    config, research = model.config, model.config.research
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    heads, shared, size, count = config.n_heads, config.n_kv_heads, config.head_dim, config.n_layers

    def norm(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_eps).sqrt()

    def place(x_TH):  # rotation by minus the angle, then norm
        cos, sin = (table.double() for table in rope_tables(size, config.rope_theta, torch.arange(len(ids_T))))
        x1, x2 = x_TH.chunk(2, -1)
        return norm(torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), -1))

    x0 = norm(weights["model.embed_tokens.weight"][ids_T])
    x = x0
    for layer in range(count):
        name = f"model.layers.{layer}."
        if research.residual_scalars:
            x = weights["model.residual_scalars"][layer] * x + weights["model.input_scalars"][layer] * x0
        h = norm(x)
        q, k, v = (h @ weights[f"{name}self_attn.{part}_proj.weight"].T for part in "qkv")
        if research.value_embeddings and layer % 2 == (count - 1) % 2:
            gates = 3 * torch.sigmoid(h[:, :12] @ weights[f"{name}self_attn.value_gate.weight"].T)
            v = v + gates.repeat_interleave(size, 1) * weights[f"{name}self_attn.value_embed.weight"][ids_T]
        window = TOKENS
        if layer < count - 1 and research.window_pattern[layer % len(research.window_pattern)] == "S":
            window = 128  # ceil(260 / 4 / 128) * 128
        mixed = torch.zeros_like(h)
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            other = slice(head // (heads // shared) * size, (head // (heads // shared) + 1) * size)
            queries, keys = research.qk_scale * place(q[:, mine]), research.qk_scale * place(k[:, other])
            for at in range(len(ids_T)):
                seen = slice(max(0, at - window + 1), at + 1)
                mixed[at, mine] = (keys[seen] @ queries[at] / size**0.5).softmax(0) @ v[seen, other]
        x = x + mixed @ weights[f"{name}self_attn.o_proj.weight"].T
        wide = (norm(x) @ weights[f"{name}mlp.fc1.weight"].T).relu() ** 2
        x = x + wide @ weights[f"{name}mlp.fc2.weight"].T
    z = norm(x) @ weights["lm_head.weight"].T
    return config.logit_softcap * torch.tanh(z / config.logit_softcap)


@pytest.mark.parametrize(
    "research",
    [
        ResearchConfig(),
        ResearchConfig("SL", value_embeddings=False, residual_scalars=False, qk_scale=1.0),
        ResearchConfig("L", residual_scalars=False, qk_scale=1.0),
        ResearchConfig("L", value_embeddings=False, qk_scale=1.0),
        ResearchConfig("L", value_embeddings=False, residual_scalars=False),
    ],
)
def test_logits_equal_the_formulas_written_out(research):
    """All extras together and each alone: a part that does nothing, or does it in the wrong layer, must show."""
    model = randomised(research_config(research), "sdpa")
    ids_T = torch.randint(0, 192, (TOKENS,), generator=torch.Generator().manual_seed(3))
    plain = GPT(research_config(None), "sdpa", "float32")
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    with torch.no_grad():
        found, without = (m.logits(m(ids_T[None]))[0] for m in (model, plain))
    assert (found - without).abs().max() > 0.01
    assert (found - written_out(model, ids_T)).abs().max() < 1e-4


def test_training_and_evaluating_compute_the_same_function():
    """Fused forms with gradients, plain ones without; every extra weight gets a gradient."""
    model = randomised(research_config(ResearchConfig()))
    ids = torch.randint(0, 192, (2, 200), generator=torch.Generator().manual_seed(3))
    hidden = model(ids)
    with torch.no_grad():
        torch.testing.assert_close(hidden, model(ids), atol=2e-5, rtol=0)
    model.logits(hidden).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(("layers", "kv_heads"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_parameters_are_those_of_the_formulas(layers, kv_heads):
    config = research_config(ResearchConfig(), n_layers=layers, n_kv_heads=kv_heads)
    with torch.device("meta"):
        model = GPT(config)
    groups, counts = model.parameter_groups(), {n: p.numel() for n, p in model.named_parameters()}
    found = {group: sum(counts[name] for name in names) for group, names in groups.items()}
    assert sorted(name for names in groups.values() for name in names) == sorted(counts)
    tables = -(-layers // 2)  # ceil(L / 2)
    assert found["value_embeddings"] == tables * 192 * kv_heads * 16
    assert found["scalars"] == 2 * layers
    with torch.device("meta"):
        plain = GPT(dataclasses.replace(config, research=None))
    default = plain.parameter_groups()
    assert default["value_embeddings"] == default["scalars"] == []
    gates = found["matrices"] - sum(counts[name] for name in default["matrices"])
    assert gates == tables * 12 * kv_heads
    shape = ModelShape(layers, 64, 4, kv_heads, 256, 192, TOKENS)
    assert ResearchExtras().total_parameters(shape) == sum(counts.values())


def test_extras_start_where_they_are_said_to_and_change_no_other_weight():
    model, plain = GPT(research_config(ResearchConfig())), GPT(research_config(None))
    model.init_weights(5)
    plain.init_weights(5)
    drawn = model.state_dict()
    assert all(torch.equal(drawn[name], tensor) for name, tensor in plain.state_dict().items())
    torch.testing.assert_close(drawn["model.residual_scalars"], torch.tensor([1.15, 1.10, 1.05]))
    torch.testing.assert_close(drawn["model.input_scalars"], torch.tensor([0.20, 0.125, 0.05]))
    assert drawn["model.layers.0.self_attn.value_embed.weight"].std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert not drawn["model.layers.2.self_attn.value_gate.weight"].any()
    assert "model.layers.1.self_attn.value_gate.weight" not in drawn
    one = torch.ones(1, 1, 2, 4)
    assert torch.equal(add_value_embedding(one, one, torch.zeros(1, 1, 2)), 2.5 * one)  # 3 sigmoid(0) = 1.5


def test_windows_follow_the_pattern_and_the_last_layer_sees_everything():
    assert [short_window(tokens) for tokens in (512, 2048, 513)] == [128, 512, 256]
    research = ResearchConfig()
    assert [layer_window(research, layer, 6, 2048) for layer in range(6)] == [512, 512, 512, None, 512, None]
    assert layer_window(research, 0, 6, 128) is None  # a window as long as the row is none
    assert layer_window(None, 0, 6, 2048) is None
    for pattern in ("S", "L", "SSSL", "LS"):
        for layers, tokens in ((1, 512), (5, 2048), (12, 1024), (4, 515)):
            found = [layer_window(ResearchConfig(pattern), n, layers, tokens) or tokens for n in range(layers)]
            assert found == pattern_windows(pattern, layers, tokens)


def test_a_config_with_extras_survives_a_file_and_older_files_load(tmp_path):
    config, file = research_config(ResearchConfig("SL", residual_scalars=False)), tmp_path / "config.json"
    config.to_json(file)
    assert GPTConfig.from_json(file) == config
    assert GPTConfig(**dataclasses.asdict(config)) == config  # how a training job is written
    research_config(None).to_json(file)
    assert "research" not in json.loads(file.read_text())  # a default model's file is what it always was
    assert GPTConfig.from_json(file) == research_config(None)
    off = ResearchConfig("L", value_embeddings=False, residual_scalars=False, qk_scale=1.0)
    assert research_config(off).research is None  # all extras off is the default architecture


@pytest.mark.parametrize(
    ("research", "told"),
    [
        ({"windows": "SL"}, r"unknown fields \['windows'\]; allowed: window_pattern, value_embeddings, "),
        ({"window_pattern": "SX"}, "window_pattern='SX'; allowed: letters S and L"),
        ({"window_pattern": ""}, "window_pattern=''"),
        ({"value_embeddings": 1}, "value_embeddings=1; allowed: true, false"),
        ({"qk_scale": 0}, "qk_scale=0; allowed: a number above 0"),
        (True, "research=True; allowed: null or an object"),
    ],
)
def test_impossible_extras_are_refused_by_name(research, told):
    with pytest.raises(ValueError, match=told):
        research_config(research)


def test_gates_need_the_channels_they_read():
    with pytest.raises(ValueError, match="d_model=8; allowed: 12 or more"):
        research_config(ResearchConfig(), d_model=8)
