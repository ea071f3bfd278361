"""The facade over Muon and AdamW: groups, rates, masked steps, norms, saved state."""

import pytest
import torch

from model.optim import Optimizer, OptimizerOptions
from model.research import ResearchConfig
from tests.model.test_gpt import randomised, small_config

KINDS = ["muon", "torch_muon", "adamw"]


def optimizer_for(model, **changes):
    rates = {"matrix_lr": 0.02, "embedding_lr": 0.1, "head_lr": 0.01, "weight_decay": 0.1}
    return Optimizer(model, OptimizerOptions(**(rates | changes)))


def fill_gradients(model, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = scale * torch.randn(weight.shape, generator=generator)


def copies(tensors):
    return [t.detach().clone() for t in tensors]


def test_matrices_go_to_muon_and_tables_to_adamw():
    model = randomised(small_config())
    optimizer = optimizer_for(model)
    groups = {part.name: part.group for part in optimizer.own}
    assert set(groups) == set(dict(model.named_parameters()))
    in_muon = {id(p) for group in optimizer.muon.param_groups for p in group["params"]}
    assert in_muon == {id(part.parameter) for part in optimizer.own if part.group == "matrices"}
    assert {name for name, group in groups.items() if group != "matrices"} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }


@pytest.mark.parametrize("kind", ["muon", "torch_muon"])
def test_a_muon_update_is_nearly_orthogonal_and_scaled_by_the_rate(kind):
    """What Muon is: every singular value of an update is about the learning rate, whatever the gradient's size."""
    model = randomised(small_config())
    optimizer = optimizer_for(model, matrix_optimizer=kind, adaptive=False, normalise_rows=False)
    weight = model.model.layers[0].self_attn.o_proj.weight
    before = weight.detach().clone()
    fill_gradients(model)
    optimizer.schedule(0.5, 0.0, 0.95)
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach() - before) / 0.01
    assert 0.4 < values.median() < 1.3  # five iterations leave values around 0.7 - 1.2
    assert weight.grad is None


def test_adamw_on_matrices_is_torchs():
    """The control of every comparison must be the real thing."""
    model, other = randomised(small_config()), randomised(small_config())
    optimizer = optimizer_for(model, matrix_optimizer="adamw")
    matrices = [part.name for part in optimizer.own if part.group == "matrices"]
    theirs = [p for name, p in other.named_parameters() if name in matrices]
    reference = torch.optim.AdamW(theirs, lr=0.02, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.1, fused=False)
    for step in range(3):
        for owner in (model, other):
            fill_gradients(owner, step)
        optimizer.step()
        reference.step()
    ours = dict(model.named_parameters())
    for name, weight in other.named_parameters():
        if name in matrices:
            torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-6)


def test_the_schedule_moves_rates_decay_and_momentum():
    model = randomised(small_config())
    optimizer = optimizer_for(model)
    optimizer.schedule(0.25, 0.5, 0.9)
    (muon,) = optimizer.muon.param_groups
    assert (muon["lr"], muon["weight_decay"], muon["momentum"]) == (0.005, 0.05, 0.9)
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.adamw.param_groups} == {
        "embedding": (0.025, 0.001),
        "head": (0.0025, 0.01),
    }
    optimizer.schedule(1.0, 1.0, 0.95)  # factors apply to the full rates, not to the previous ones
    assert (muon["lr"], muon["weight_decay"]) == (0.02, 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_step_changes_nothing_even_with_bad_gradients(kind):
    model = randomised(small_config())
    optimizer = optimizer_for(model, matrix_optimizer=kind)
    fill_gradients(model)
    optimizer.step(torch.tensor(True))
    weights, state = copies(model.parameters()), copies(optimizer.state_tensors().values())
    fill_gradients(model, scale=float("nan"))
    optimizer.step(torch.tensor(False))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state, optimizer.state_tensors().values(), strict=True))
    assert all(weight.grad is None for weight in model.parameters())
    fill_gradients(model, seed=1)
    optimizer.step(torch.tensor(True))
    assert not any(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_without_a_look_at_its_value_does_the_same(kind):
    """The path of a GPU, taken on the CPU: kernels that get the mask as a tensor, from the first step on."""
    model, plain = randomised(small_config()), randomised(small_config())
    masked, reference = (optimizer_for(m, matrix_optimizer=kind) for m in (model, plain))
    for step, good in enumerate([False, True, False, True]):
        fill_gradients(model, step, 1.0 if good else float("nan"))
        with torch.no_grad():
            masked._update(torch.tensor(good))
        if good:
            fill_gradients(plain, step)
            reference.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_gradient_norms_and_update_ratios_are_those_of_the_groups():
    model = randomised(small_config())
    optimizer = optimizer_for(model)
    optimizer.watch_updates = True
    fill_gradients(model)
    names = {part.name: part.group for part in optimizer.own}
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    norms = optimizer.gradient_norms()
    optimizer.step()
    assert set(norms) == {"matrices", "embedding", "head"} == set(optimizer.update_ratios())
    after = {n: p.detach() for n, p in model.named_parameters()}
    for group, norm in norms.items():
        chosen = [n for n, g in names.items() if g == group]
        flat = [torch.cat([t[n].flatten() for n in chosen]) for t in (gradients, before, after)]
        torch.testing.assert_close(norm, flat[0].norm())
        assert optimizer.update_ratios()[group] == pytest.approx(float((flat[2] - flat[1]).norm() / flat[1].norm()))


@pytest.mark.parametrize("kind", KINDS)
def test_restored_state_gives_the_same_next_update(kind):
    """Bug it catches: a lost momentum or step count changes the update after a resume."""
    model, other = randomised(small_config()), randomised(small_config(), seed=9)
    first, second = (optimizer_for(m, matrix_optimizer=kind) for m in (model, other))
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


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="allowed: muon, torch_muon, adamw"):
        optimizer_for(randomised(small_config()), matrix_optimizer="sgd")


def test_research_parameters_have_rates_of_their_own():
    """Scalars on the input learn a hundred times faster; tables of values half as fast as the embedding."""
    research = ResearchConfig(value_embeddings=True, residual_scalars=True)
    model = randomised(small_config(research=research))
    optimizer = optimizer_for(model)
    fill_gradients(model)
    optimizer.schedule(0.5, 1.0, 0.9)
    norms = optimizer.gradient_norms()
    optimizer.step()
    assert set(norms) == {"matrices", "embedding", "head", "value_embeddings", "scalars"}
    rates = {group["name"]: group["lr"] for group in optimizer.adamw.param_groups}
    expected = {"embedding": 0.05, "head": 0.005, "value_embeddings": 0.025}
    assert rates == pytest.approx(expected | {"residual_scalars": 0.0025, "input_scalars": 0.25})
