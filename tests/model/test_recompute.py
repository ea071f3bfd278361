"""Recomputing layers in the backward pass: the same gradients from far fewer kept bytes."""

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from model.gpt import GPT, GPTConfig
from model.research import ResearchConfig

CONFIG = {
    "vocab_size": 128, "n_layers": 4, "d_model": 64, "n_heads": 2, "n_kv_heads": 1, "mlp_width": 256,
    "sequence_length": 64,
}  # fmt: skip
ROWS = 4


def model_of(dtype: str, research: ResearchConfig | None = None) -> GPT:
    model = GPT(GPTConfig(**CONFIG, research=research), "sdpa", dtype)
    model.init_weights(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
    return model


def some_ids() -> torch.Tensor:
    return torch.randint(0, 128, (ROWS, 64), generator=torch.Generator().manual_seed(2))


def gradients(model: GPT) -> list[torch.Tensor]:
    model.zero_grad()
    model.logits(model(some_ids())).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def kept_bytes(model: GPT) -> int:
    """Bytes that are still allocated after a forward pass, by torch's record of allocations."""
    model(some_ids())  # what is made once is made before
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        hidden = model(some_ids())
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert hidden.requires_grad and events
    return sum(event.nbytes() for event in events)


@pytest.mark.parametrize("research", [None, ResearchConfig()])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_are_the_same_to_the_bit(dtype, research):
    model = model_of(dtype, research)
    expected = gradients(model)
    model.recompute = True
    found = gradients(model)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_only_the_inputs_of_the_layers_are_kept(dtype):
    """Catches a layer whose insides stay alive (a tensor on ctx, an output kept twice): the saving would be lost."""
    model, element = model_of(dtype), 2 if dtype == "bfloat16" else 4
    everything = kept_bytes(model)
    model.recompute = True
    hidden = ROWS * CONFIG["sequence_length"] * CONFIG["d_model"] * element
    norms = 2 * ROWS * CONFIG["sequence_length"] * 4  # one float32 scale per token of the first and the last norm
    # One input per layer (the first is the first norm's output) and the last norm's output; the ids are small.
    promised = (CONFIG["n_layers"] + 1) * hidden + norms
    assert promised <= kept_bytes(model) <= promised + 8192
    assert everything > 5 * promised


def test_nothing_is_recomputed_without_gradients(monkeypatch):
    import model.gpt

    model_ = model_of("float32")
    model_.recompute = True
    monkeypatch.setattr(model.gpt, "checkpoint", lambda *a, **k: pytest.fail("evaluation has no backward pass"))
    with torch.no_grad():
        assert model_(some_ids()).isfinite().all()
