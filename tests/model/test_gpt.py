"""The network against transformers' own implementation of the same function, and its invariants."""

import pytest
import torch

from model.gpt import GPT, GPTConfig

SHAPES = {  # name: (layers, width, query heads, key heads, mlp width, tokens)
    "mha": (2, 64, 2, 2, 256, 33),
    "gqa": (3, 128, 4, 2, 512, 48),
    "one_kv_head": (2, 96, 3, 1, 160, 17),
}


def small_config(**changes: float) -> GPTConfig:
    values = {"vocab_size": 192, "n_layers": 2, "d_model": 64, "n_heads": 2, "n_kv_heads": 2, "mlp_width": 256}
    return GPTConfig(**({"sequence_length": 64} | values | changes))  # type: ignore[arg-type]


def randomised(config: GPTConfig, attention: str = "auto", dtype: str = "float32", seed: int = 0) -> GPT:
    """Weights that are nowhere zero, unlike the initial ones: a wrong output projection must show."""
    model = GPT(config, attention, dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight.size(-1) ** -0.5)
    return model


def transformers_model(config: GPTConfig):
    from transformers import NanoChatConfig, NanoChatForCausalLM

    return NanoChatForCausalLM(
        NanoChatConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            intermediate_size=config.mlp_width,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            max_position_embeddings=config.sequence_length,
            rms_norm_eps=config.rms_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            final_logit_softcapping=config.logit_softcap,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).eval()


@pytest.mark.parametrize("attention", ["sdpa", "explicit"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_those_of_transformers(shape, attention):
    """Bug it catches: a wrong rotation sign, norm, head grouping or soft cap trains well and fails after export."""
    layers, width, heads, kv_heads, mlp, tokens = SHAPES[shape]
    config = GPTConfig(
        192, layers, width, heads, kv_heads, mlp, 64, rope_theta=5000.0, rms_eps=1e-5, logit_softcap=12.0
    )
    model, theirs = randomised(config, attention), transformers_model(config)
    assert set(model.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict(model.state_dict())
    ids = torch.randint(0, 192, (3, tokens), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, expected = model.logits(model(ids)), theirs(ids).logits
    assert expected.abs().max() > 1.0  # a comparison of zeros would prove nothing
    assert (ours - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("attention", "theirs_attention"), [("sdpa", "sdpa"), ("explicit", "eager")])
def test_float32_logits_equal_those_of_transformers_bit_for_bit(attention, theirs_attention):
    """Fused norms were 1.4e-5 away on a trained model, whose weights amplify rounding: the export refused itself."""
    config = GPTConfig(192, 4, 256, 2, 2, 1024, 128)
    model, theirs = randomised(config, attention), transformers_model(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    theirs.load_state_dict(model.state_dict())
    theirs.set_attn_implementation(theirs_attention)
    ids = torch.randint(0, 192, (1, 100), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert torch.equal(model.logits(model(ids)), theirs(ids).logits)


def test_future_tokens_cannot_change_past_logits():
    model = randomised(small_config(), "explicit")
    ids = torch.randint(0, 192, (1, 40), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 25:] = 5
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.equal(before[:, 25:], after[:, 25:])


def test_initial_model_is_uniform_and_the_seed_decides_it():
    """Zero output projections and a tiny head: the first loss must be log V, not above it."""
    model, other = GPT(small_config(), compute_dtype="float32"), GPT(small_config(), compute_dtype="float32")
    model.init_weights(3)
    other.init_weights(4)
    logits = model.logits(model(torch.arange(50)[None]))
    assert logits.abs().max() < 0.1
    assert not torch.equal(model.model.embed_tokens.weight, other.model.embed_tokens.weight)
    other.init_weights(3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert model.model.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)


def test_bf16_products_stay_near_float32():
    """Bug it catches: rotation or norm done in bfloat16 loses the position of late tokens."""
    model = randomised(small_config(), "explicit")
    ids = torch.randint(0, 192, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = model.logits(model(ids))
        model.compute_dtype = "bfloat16"
        rounded = model.logits(model(ids))
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.15  # logits of size ~4; bfloat16 keeps 8 bits
    assert torch.corrcoef(torch.stack((exact.flatten(), rounded.flatten())))[0, 1] > 0.999


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads=3"),
        ({"d_model": 65}, "d_model=65"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"vocab_size": 10.5}, "vocab_size=10.5"),
    ],
)
def test_impossible_shapes_are_refused_by_name(changes, told):
    with pytest.raises(ValueError, match=told):
        small_config(**changes)


def test_config_survives_a_file_and_unknown_fields_are_named(tmp_path):
    config = small_config(rope_theta=12345.0)
    config.to_json(tmp_path / "config.json")
    assert GPTConfig.from_json(tmp_path / "config.json") == config
    (tmp_path / "bad.json").write_text('{"vocab_size": 8, "hidden": 3}')
    with pytest.raises(ValueError, match=r"unknown fields \['hidden'\].*missing fields"):
        GPTConfig.from_json(tmp_path / "bad.json")


def test_a_row_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="65 tokens does not fit sequence_length=64"):
        GPT(small_config())(torch.zeros(1, 65, dtype=torch.int64))
