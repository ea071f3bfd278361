import pytest
import torch

from model.optim import MUON_MOMENTUM, Optimizer
from tests.model.test_gpt import randomised, small_config


def optimizer_for(model):
    return Optimizer(model, matrix_lr=0.02, embedding_lr=0.1, head_lr=0.01, weight_decay=0.1)


def fill_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_matrices_go_to_muon_and_tables_to_adamw():
    model = randomised(small_config())
    optimizer = optimizer_for(model)
    muon = {optimizer.names[p] for group in optimizer.muon.param_groups for p in group["params"]}
    assert set(dict(model.named_parameters())) - muon == {"model.embed_tokens.weight", "lm_head.weight"}


def test_a_muon_update_is_nearly_orthogonal_and_scaled_by_the_rate():
    """What Muon is: every singular value of an update is about the learning rate, whatever the gradient's size."""
    model = randomised(small_config())
    optimizer = optimizer_for(model)
    weight = model.model.layers[0].self_attn.o_proj.weight
    before = weight.detach().clone()
    fill_gradients(model)
    optimizer.schedule(0.5, 0.0, 1.0)
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach() - before) / 0.01
    assert 0.4 < values.median() < 1.3  # five Newton-Schulz steps leave values around 0.7 - 1.2
    assert weight.grad is None


def test_the_schedule_moves_rates_decay_and_momentum():
    model = randomised(small_config())
    optimizer = optimizer_for(model)
    optimizer.schedule(0.25, 0.5, 0.5)
    (muon,) = optimizer.muon.param_groups
    assert (muon["lr"], muon["weight_decay"]) == (0.005, 0.05)
    assert muon["momentum"] == pytest.approx(sum(MUON_MOMENTUM) / 2)
    assert [g["lr"] for g in optimizer.adamw.param_groups] == [0.025, 0.0025]
    optimizer.schedule(1.0, 1.0, 7.0)  # factors apply to the full rates, not to the previous ones
    assert (muon["lr"], muon["momentum"]) == (0.02, MUON_MOMENTUM[1])


def test_restored_state_gives_the_same_next_update():
    """Bug it catches: a lost momentum or step count changes the update after a resume."""
    model, other = randomised(small_config()), randomised(small_config(), seed=9)
    first, second = optimizer_for(model), optimizer_for(other)
    fill_gradients(model)
    first.step()
    other.load_state_dict(model.state_dict())
    second.load_state_tensors(first.state_tensors())
    for owner, optimizer in ((model, first), (other, second)):
        fill_gradients(owner, seed=1)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_state_of_another_model_is_refused():
    model = randomised(small_config())
    optimizer = optimizer_for(model)
    fill_gradients(model)
    optimizer.step()
    with pytest.raises(ValueError, match="does not have"):
        optimizer_for(randomised(small_config(n_layers=1))).load_state_tensors(optimizer.state_tensors())
    with pytest.raises(ValueError, match=r"shape \(256, 64\), not \(128, 64\)"):
        optimizer_for(randomised(small_config(mlp_width=128))).load_state_tensors(optimizer.state_tensors())
