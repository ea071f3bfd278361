"""Several ranks against one: the same losses, each part owned once, state that moves between world sizes."""

import pytest
import torch

from model.loss import softcap_cross_entropy
from model.optim import Optimizer, OptimizerOptions
from model.ownership import Replicated, divide, newton_schulz_flops
from model.ranks import (
    any_over_ranks,
    broadcast_state,
    gather_to_first,
    rank_and_world_size,
    spread_from_owners,
    sum_to_owners,
)
from model.sharding import _local, shard
from tests.model.rank_processes import on_ranks
from tests.model.test_gpt import randomised, small_config

CPU = torch.device("cpu")


def summed_and_spread(elements_per_bucket):
    """Tensors of several sizes and formats, one not contiguous, one empty, one that fills a bucket alone."""
    import model.ranks as ranks

    ranks._BUCKET_ELEMENTS = elements_per_bucket
    rank, world_size = rank_and_world_size()
    shapes = [(3,), (5, 4), (0,), (40,), (7,), (2, 3), (), (9,)]
    tensors = [torch.full(shape, float(i + 1) * (rank + 1)) for i, shape in enumerate(shapes)]
    tensors[1] = tensors[1].T.contiguous().T
    tensors.append(torch.full((6,), float(rank + 1), dtype=torch.float64))
    owned = [(tensor, i % world_size) for i, tensor in enumerate(tensors)]
    sum_to_owners(owned)
    sums = [t.flatten().tolist() for t, owner in owned if owner == rank]
    for tensor, owner in owned:
        tensor.fill_(100.0 + owner if owner == rank else -1.0)
    spread_from_owners(owned)
    spread = [sorted(set(t.flatten().tolist())) for t, _ in owned]
    flags = any_over_ranks(rank == 1, False, device=CPU)
    gathered = gather_to_first(
        {"rows|a": torch.full((rank + 1, 2), float(rank)), f"own|{rank}": torch.tensor(rank)}, CPU
    )
    state = ({"w": torch.arange(3.0), "left": torch.ones(2)}, {"step": 0.1}) if rank == 0 else None
    received = broadcast_state(state, CPU, wanted=lambda name: name == "w")
    nothing = broadcast_state(None, CPU)
    return {
        "sums": sums,
        "spread": spread,
        "flags": flags,
        "gathered": {name: tensor.tolist() for name, tensor in gathered.items()},
        "received": ({k: v.tolist() for k, v in received[0].items()}, received[1]),
        "nothing": nothing,
    }


def test_sums_copies_and_gathered_tensors_arrive_where_they_belong():
    first, second = on_ranks(2, summed_and_spread, 16)
    sizes = [3, 20, 0, 40, 7, 6, 1, 9, 6]
    expected = [[3.0 * (i + 1 if i < 8 else 1)] * size for i, size in enumerate(sizes)]
    assert first["sums"] == expected[0::2]
    assert second["sums"] == expected[1::2]
    assert first["spread"] == second["spread"] == [[100.0 + i % 2] if size else [] for i, size in enumerate(sizes)]
    assert first["flags"] == second["flags"] == [True, False]
    assert first["gathered"] == {"rows|a": [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]], "own|0": 0, "own|1": 1}
    assert second["gathered"] == {}
    assert first["received"] == ({"w": [0.0, 1.0, 2.0], "left": [1.0, 1.0]}, {"step": 0.1})
    assert second["received"] == ({"w": [0.0, 1.0, 2.0]}, {"step": 0.1})
    assert first["nothing"] is second["nothing"] is None


def test_one_process_needs_no_group():
    tensors = [(torch.ones(3), 0)]
    sum_to_owners(tensors)
    spread_from_owners(tensors)
    assert tensors[0][0].tolist() == [1.0] * 3
    assert any_over_ranks(True, False, device=CPU) == [True, False]
    assert gather_to_first({"a": tensors[0][0]}, CPU)["a"] is tensors[0][0]
    assert broadcast_state(None, CPU) is None


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 40])
def test_every_weight_belongs_to_exactly_one_rank(world_size):
    model = randomised(small_config(n_layers=3))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        parts = divide(model, world_size)
        for part in parts:
            assert 0 <= part.owner < world_size
            Replicated(parts).leaf(part).add_(1)  # shares memory with the model
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in model.parameters())


def test_the_costly_matrices_are_spread_first():
    """Four cheap matrices and two of three times the cost: two ranks take one of these, two take two of those.

    In the model's order, or by number, one rank would get a costly one on top of a cheap one.
    """
    work = [0] * 4
    for part in divide(randomised(small_config(n_layers=1)), 4):
        if part.group == "matrices":
            work[part.owner] += newton_schulz_flops(*part.parameter.shape)
    cheap, costly = newton_schulz_flops(64, 64), newton_schulz_flops(256, 64)
    assert sorted(work) == [2 * cheap, 2 * cheap, costly, costly]


def test_the_cost_of_newton_schulz_counts_three_products():
    assert newton_schulz_flops(64, 256) == newton_schulz_flops(256, 64) == 5 * (4 * 64 * 64 * 256 + 2 * 64**3)


def trained(steps, state, kind, save_at=None, sharded=False):
    """`steps` updates on this rank's share of eight rows; -> losses, norms, bytes of state, saved state on rank 0."""
    rank, world_size = rank_and_world_size()
    model = randomised(small_config(vocab_size=190))  # does not divide by 4
    if sharded:
        shard(model, CPU)
    optimizer = Optimizer(model, OptimizerOptions(0.02, 0.05, 0.01, 0.1, matrix_optimizer=kind))
    start = 0
    if state is not None:
        start, weights, tensors = state
        model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        needed = {name: torch.tensor(value) for name, value in tensors.items() if optimizer.needs(name)}
        optimizer.load_state_tensors(needed)
    losses, norms, saved = [], [], None
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(step % 4)
        ids = torch.randint(0, 190, (8, 17), generator=generator)[rank::world_size]
        loss = torch.zeros(())
        for row in ids.split(2):
            hidden = model(row[:, :-1]).flatten(0, 1)
            targets = row[:, 1:].flatten()
            part = softcap_cross_entropy(
                hidden, model.lm_head.weight, targets, torch.full((targets.numel(),), 1 / 128), 15.0, torch.float32
            )
            part.backward()
            loss += part.detach()
        optimizer.reduce_gradients()
        if world_size > 1:
            torch.distributed.all_reduce(loss)
        optimizer.schedule(1.0, 1.0, 0.9)
        norms.append({name: float(norm) for name, norm in optimizer.gradient_norms().items()})
        optimizer.watch_updates = step == start
        optimizer.step(torch.tensor(step != 5))  # one skipped step
        losses.append(float(loss))
        if step + 1 == save_at:
            tensors = optimizer.state_tensors()
            weights = {name: t.tolist() for name, t in model.state_dict().items() if rank == 0 or not sharded}
            saved = (step + 1, weights, {name: tensor.tolist() for name, tensor in tensors.items()})
    shards = sum(_local(p).numel() for p in model.parameters())
    final = {name: float(t.double().abs().sum()) for name, t in model.state_dict().items() if rank == 0 or not sharded}
    held = [t for made in optimizer._made for buffers in made.state.values() for t in buffers.values()]
    return {
        "losses": losses,
        "norms": norms,
        "ratios": optimizer.update_ratios(),
        "bytes": sum(t.numel() * t.element_size() for t in held),
        "elements": shards,
        "weights": final,
        "saved": saved,
    }


def assert_equal_runs(ranks, alone, tolerance=1e-5):
    assert alone["losses"][0] - alone["losses"][-1] > 0.5  # it learns
    for run in ranks:
        assert run["losses"] == pytest.approx(alone["losses"], rel=tolerance)
        if run["weights"]:  # a sharded model's are on the first rank only
            assert run["weights"] == ranks[0]["weights"]  # to the last bit
        for group, ratio in alone["ratios"].items():
            assert run["ratios"][group] == pytest.approx(ratio, rel=1e-4)
            assert [n[group] for n in run["norms"]] == pytest.approx([n[group] for n in alone["norms"]], rel=1e-3)


@pytest.fixture(scope="module")
def alone():
    """What one rank learns, alone."""
    return on_ranks(1, trained, 20, None, "muon")[0]


def lopsided():
    """The second rank's share leaves one weight out of the loss: zero there, not missing."""
    rank, _ = rank_and_world_size()
    model = randomised(small_config())
    optimizer = Optimizer(model, OptimizerOptions(0.02, 0.05, 0.01))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    if rank == 1:
        model.lm_head.weight.grad = None
    optimizer.reduce_gradients()
    return {name: float(norm) for name, norm in optimizer.gradient_norms().items()}


def test_a_missing_gradient_counts_as_zero():
    first, second = on_ranks(2, lopsided)
    assert first == second
    assert first["head"] == pytest.approx((192 * 64) ** 0.5)
    assert first["embedding"] == pytest.approx(2 * (192 * 64) ** 0.5)


def test_two_ranks_learn_what_one_learns_and_one_takes_over_their_state(alone):
    ranks = on_ranks(2, trained, 20, None, "muon", 8)
    assert_equal_runs(ranks, alone)
    for run in ranks:
        assert run["bytes"] == pytest.approx(alone["bytes"] / 2, rel=0.1)
    [resumed] = on_ranks(1, trained, 20, ranks[0]["saved"], "muon")
    assert resumed["losses"] == pytest.approx(alone["losses"][8:], rel=1e-5)


def test_a_sharded_model_learns_the_same_and_its_state_fits_a_plain_one(alone):
    ranks = on_ranks(2, trained, 20, None, "muon", 8, True)
    assert_equal_runs(ranks, alone)
    for run in ranks:
        assert run["elements"] == pytest.approx(alone["elements"] / 2, rel=0.01)
    [plain] = on_ranks(1, trained, 20, ranks[0]["saved"], "muon")
    assert plain["losses"] == pytest.approx(alone["losses"][8:], rel=1e-5)
    sharded, _ = on_ranks(2, trained, 20, ranks[0]["saved"], "muon", None, True)
    assert sharded["losses"] == pytest.approx(alone["losses"][8:], rel=1e-5)
