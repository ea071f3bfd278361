"""Muon against torch's own, against exact singular values, and against what a masked or resumed step must keep."""

import dataclasses

import pytest
import torch

from model import muon
from model.muon import COEFFICIENTS, SINGULAR_VALUES, Muon, MuonOptions, orthogonalise

PLAIN = MuonOptions(
    0.02, 0.1, orthogonalisation="newton_schulz", normalise_rows=False, rescale=False, adaptive=False, cautious=False
)
EVERYTHING = MuonOptions(0.02, 0.1, normalise_rows=True, rescale=True, adaptive=True, cautious=True)
SHAPES = [(32, 32), (64, 32), (32, 32), (32, 64), (64, 32), (8, 48)]


@pytest.fixture
def exact_products(monkeypatch):
    """float32 products on any machine, so that tolerances do not depend on its hardware."""
    monkeypatch.setattr(muon, "compute_dtype", lambda device: torch.float32)


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.1) for shape in SHAPES]


def fill_gradients(owners, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in owners:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


def train(optimizer, owners, steps, first=0):
    for step in range(first, first + steps):
        fill_gradients(owners, seed=step + 1)
        optimizer.step()


def buffers_of(optimizer):
    return [{k: v.clone() for k, v in optimizer.state[p].items()} for p in optimizer.param_groups[0]["params"]]


@pytest.mark.parametrize("nesterov", [True, False])
def test_with_everything_off_it_is_the_muon_of_torch(nesterov):
    """torch's rounds its products to bfloat16 (2^-9 per entry): the updates agree to 3 %, one matrix at a time
    or stacked, tall or wide."""
    own, other = parameters(), parameters()
    ours = Muon(own, dataclasses.replace(PLAIN, nesterov=nesterov))
    reference = torch.optim.Muon(other, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=nesterov)
    before = [p.detach().clone() for p in own]
    train(ours, own, 3)
    train(reference, other, 3)
    for start, a, b in zip(before, own, other, strict=True):
        assert (a - b).norm() < 0.03 * (b - start).norm()


@pytest.mark.parametrize("method", list(COEFFICIENTS))
def test_singular_values_of_an_update_lie_in_the_band(exact_products, method):
    """A matrix made from known singular values over the whole promised interval; 0.005 for the rounded coefficients.

    The largest has to be 1 at a Frobenius norm of 1, so values are tried a few at a time, beside one that dominates.
    """
    (low, high), (least, most) = SINGULAR_VALUES[method]
    left, right = (torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(s)))[0] for s in (0, 1))
    found = []
    for value in torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), 60).tolist():
        rest = ((1 - value**2) / 7) ** 0.5  # Frobenius norm 1
        values = torch.tensor([value] + [rest] * 7)
        update = orthogonalise((left * values @ right.T)[None] * 37.0, method)
        found.append(torch.linalg.svdvals(update[0]))
    found = torch.cat(found)
    assert least - 0.005 < found.min() and found.max() < most + 0.005
    assert found.max() - found.min() > 0.1  # the iteration is no exact one; a fixed point would prove nothing


def test_polar_express_reaches_directions_that_newton_schulz_leaves_small(exact_products):
    """Singular values of a thousandth: why five other polynomials are worth having."""
    values = torch.tensor([0.999, 0.001] + [0.0] * 6)
    matrix = torch.diag(values)[None]
    polar, newton = (torch.linalg.svdvals(orthogonalise(matrix, m)[0])[1] for m in ("polar_express", "newton_schulz"))
    assert polar > 0.85 and newton < 0.6


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_the_direction_of_an_update_is_the_polar_factor(exact_products, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    for method in COEFFICIENTS:
        update = orthogonalise(matrix[None], method)[0]
        assert torch.nn.functional.cosine_similarity(update.flatten(), (u @ vh).flatten(), dim=0) > 0.95


def test_a_stack_is_orthogonalised_matrix_by_matrix():
    stack = (
        torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 50.0, 0.01])[:, None, None]
    )
    for method in COEFFICIENTS:
        together = orthogonalise(stack, method)
        for one, alone in zip(together, stack, strict=True):
            torch.testing.assert_close(one, orthogonalise(alone[None], method)[0], atol=0.02, rtol=0)  # bf16 products


def update_of(options, gradient, weight=None):
    """What one step subtracts from a matrix, over lr."""
    parameter = torch.nn.Parameter(torch.zeros_like(gradient) if weight is None else weight.clone())
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    Muon([parameter], options).step()
    return (before - parameter.detach()) / options.lr


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64)])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_rescaled_update_has_the_size_of_an_orthogonal_matrix(shape, adaptive):
    """Times the factor sqrt(rows / columns) of tall matrices; with and without the second moment."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    options = dataclasses.replace(PLAIN, rescale=True, adaptive=adaptive)
    expected = min(shape) ** 0.5 * max(1.0, shape[0] / shape[1]) ** 0.5
    assert update_of(options, gradient).norm().item() == pytest.approx(expected, rel=1e-4)


def test_row_normalisation_forgets_the_size_of_a_row():
    gradient = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    larger = gradient * torch.linspace(0.1, 9.0, 16)[:, None]
    normalised = dataclasses.replace(PLAIN, normalise_rows=True)
    torch.testing.assert_close(update_of(normalised, larger), update_of(normalised, gradient), atol=0.02, rtol=0)
    assert (update_of(PLAIN, larger) - update_of(PLAIN, gradient)).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(64, 16), (16, 64)])
def test_the_second_moment_evens_out_the_longer_side(shape):
    """A tall orthogonal matrix has columns of length 1 and rows of any; one step evens the rows (wide: columns)."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    dim = 1 if shape[0] > shape[1] else 0
    spread = [
        update_of(dataclasses.replace(PLAIN, adaptive=on), gradient).norm(dim=dim).std().item() for on in (True, False)
    ]
    assert spread[0] < 0.02 * spread[1]


def test_the_second_moment_is_a_running_mean():
    """Two steps by hand, from the updates torch-like Muon makes: V = (1 - beta2)(beta2 x1^2 + x2^2)."""
    parameter = torch.nn.Parameter(torch.zeros(32, 8))
    optimizer = Muon([parameter], dataclasses.replace(PLAIN, momentum=0.0, adaptive=True, beta2=0.75))
    expected = torch.zeros(32, 1)
    for seed in (1, 2):
        fill_gradients([parameter], seed)
        direction = orthogonalise(parameter.grad[None], "newton_schulz")[0]
        expected = 0.75 * expected + 0.25 * direction.square().mean(1, keepdim=True)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[parameter]["second_moment"], expected)


def test_cautious_decay_takes_only_weights_the_update_shrinks():
    gradient = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    none = update_of(dataclasses.replace(PLAIN, weight_decay=0.0), gradient, weight)
    cautious = update_of(dataclasses.replace(PLAIN, cautious=True), gradient, weight)
    decayed = none * weight >= 0
    assert 0.3 < decayed.float().mean() < 0.7
    torch.testing.assert_close(cautious - none, torch.where(decayed, 0.1 * weight, 0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(update_of(PLAIN, gradient, weight) - none, 0.1 * weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [PLAIN, EVERYTHING])
def test_a_gradient_of_zeros_moves_nothing_but_the_decay(options):
    assert torch.equal(
        update_of(dataclasses.replace(options, weight_decay=0.0), torch.zeros(16, 32)), torch.zeros(16, 32)
    )


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("options", [PLAIN, EVERYTHING])
def test_a_step_that_is_not_applied_changes_nothing_whatever_the_gradient(monkeypatch, options, on_host):
    """Both ways to leave it out: reading the flag (host) and masking without reading it (device)."""
    monkeypatch.setattr(muon, "_is_on_host", lambda apply: on_host)
    own, other = parameters(), parameters()
    masked, reference = Muon(own, options), Muon(other, options)
    train(masked, own, 2)
    train(reference, other, 2)
    before = buffers_of(masked)
    for poison in (float("nan"), float("inf"), 1e30):
        for parameter in own:
            parameter.grad = torch.full_like(parameter, poison)
        masked.step(apply=torch.tensor(0.0))
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    after = buffers_of(masked)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(before, after, strict=True) for name in a)
    fill_gradients(own, 7)
    masked.step(apply=torch.tensor(True))
    fill_gradients(other, 7)
    reference.step()
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))  # 1 is the plain step, bit for bit


def test_a_masked_first_step_leaves_buffers_of_zeros():
    (parameter,) = own = [torch.nn.Parameter(torch.ones(8, 16))]
    optimizer = Muon(own, EVERYTHING)
    parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step(apply=torch.tensor(False))
    assert torch.equal(parameter, torch.ones(8, 16))
    assert not any(buffer.any() for buffer in optimizer.state[parameter].values())


def test_state_put_back_continues_bit_for_bit():
    own, other = parameters(), parameters(seed=9)
    first, second = Muon(own, EVERYTHING), Muon(other, EVERYTHING)
    train(first, own, 2)
    for a, b in zip(own, other, strict=True):
        b.data.copy_(a.detach())
        for name, buffer in first.state[a].items():
            second.state[b][name] = buffer.clone()
    train(first, own, 2, first=2)
    train(second, other, 2, first=2)
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    shapes = [tuple(first.state[p]["second_moment"].shape) for p in own]
    assert shapes == [(32, 1), (64, 1), (32, 1), (1, 64), (64, 1), (1, 48)]


def test_rates_and_momentum_are_read_at_every_step():
    (parameter,) = own = [torch.nn.Parameter(torch.zeros(16, 16))]
    optimizer = Muon(own, PLAIN)
    fill_gradients(own, 1)
    optimizer.param_groups[0].update(lr=0.0, momentum=0.5)
    optimizer.step()
    assert torch.equal(parameter, torch.zeros(16, 16))
    torch.testing.assert_close(optimizer.state[parameter]["momentum_buffer"], 0.5 * parameter.grad)


def test_a_parameter_without_gradient_is_left_alone():
    own = parameters()
    optimizer = Muon(own, EVERYTHING)
    fill_gradients(own, 1)
    own[0].grad = None
    before = own[0].detach().clone()
    optimizer.step()
    assert torch.equal(own[0], before) and not optimizer.state[own[0]]


def test_the_compiled_update_is_one_graph_for_all_rates(monkeypatch):
    """fullgraph: a value read by the host would be an error. A rate inside the graph would make a second graph."""
    graphs = []
    own, other = ([parameters()[1], parameters()[4]] for _ in range(2))  # two of 64 x 32
    plain, compiled = Muon(own, EVERYTHING), Muon(other, EVERYTHING)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **given: compile_with(function, backend=backend, **given))
    compiled.compile_update()
    monkeypatch.setattr(muon, "_is_on_host", lambda apply: False)
    for step in range(4):
        for optimizer, owners in ((plain, own), (compiled, other)):
            optimizer.param_groups[0].update(lr=0.02 / (step + 1), weight_decay=0.1 * step, momentum=0.8 + 0.03 * step)
            fill_gradients(owners, seed=step)
            optimizer.step(apply=torch.tensor(step != 2))
    assert len(graphs) == 1
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(a, b)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        Muon([torch.nn.Parameter(torch.zeros(5))], PLAIN)
    with pytest.raises(ValueError, match="allowed: newton_schulz, polar_express"):
        MuonOptions(0.1, orthogonalisation="svd")
    with pytest.raises(ValueError, match="momentum and beta2"):
        MuonOptions(0.1, momentum=1.0)
