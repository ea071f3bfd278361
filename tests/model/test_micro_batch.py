"""The micro-batch: forecast, probed, and halved when memory runs out, with the gradient it would have had."""

import dataclasses
import itertools
import weakref

import pytest
import torch

from model import micro_batch
from model.gpt import GPT, GPTConfig
from model.loss import softcap_cross_entropy
from model.micro_batch import (
    divided_rows,
    halved,
    is_out_of_memory,
    largest_micro_batch,
    memory_options,
    probe_step,
    run_with_smaller_batches,
)
from model.research import ResearchConfig
from model.shape_of_config import shape_of_config
from pipeline_math.research_layout import ResearchExtras
from pipeline_math.static_memory import default_static, gathered_bytes
from pipeline_math.training_memory import training_memory

T = 16
CONFIG = GPTConfig(64, 2, 32, 2, 1, 64, T)


def tiny() -> GPT:
    model = GPT(CONFIG, "sdpa", "float32")
    model.init_weights(0)
    with torch.no_grad():  # output projections start at zero, which would hide most gradients
        for name, weight in model.named_parameters():
            if "o_proj" in name or "fc2" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return model


def exhaust_memory() -> None:
    """The real error of torch's CPU allocator: an exbibyte."""
    torch.empty(2**60, dtype=torch.uint8)


def gradients(model: GPT, ids: torch.Tensor, rows: int, fail_from: int = 10**9) -> float:
    """Loss of a step in micro-batches of `rows`, as the loop computes it; runs out of memory on larger ones midway."""
    total = 0.0
    for start in range(0, len(ids), rows):
        part = ids[start : start + rows]
        weights = torch.full((part.numel(),), 1 / ids.numel())
        hidden = model(part).flatten(0, 1)
        loss = softcap_cross_entropy(hidden, model.lm_head.weight, part.flatten(), weights, 15.0, torch.float32)
        loss.backward()
        total += loss.item()
        if rows >= fail_from:
            exhaust_memory()
    return total


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_recognised(error):
    assert is_out_of_memory(error)
    outer = RuntimeError("a compiled part failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


def test_the_error_torch_really_raises_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        exhaust_memory()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("shape '[2]' is invalid for input of size 3"),
        ValueError("DefaultCPUAllocator: can't allocate memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("step_rows", "most", "rows"),
    [(16, 16, 16), (16, 15, 8), (12, 5, 4), (12, 100, 12), (1, 1, 1), (9, 4, 3), (7, 6, 4), (7, 3, 3), (31, 8, 8)],
)
def test_rows_divide_the_step_where_that_costs_less_than_half(step_rows, most, rows):
    """7 rows of which 6 fit go as 4 + 3, not as seven single rows."""
    assert divided_rows(step_rows, most) == rows


@pytest.mark.parametrize("step_rows", range(1, 41))
def test_halving_ends_at_one_row_and_never_exceeds_half(step_rows):
    rows, sizes = step_rows, [step_rows]
    while rows > 1:
        rows = halved(rows, step_rows)
        sizes.append(rows)
    assert sizes[-1] == 1
    assert all(2 * small <= large for large, small in itertools.pairwise(sizes))


def test_a_single_row_that_does_not_fit_names_the_row_and_the_way_out():
    with pytest.raises(ValueError, match=r"a single row of 2048 tokens does not fit.*next: activation recomputation"):
        halved(1, 8, 2048)
    with pytest.raises(ValueError, match="micro_batch_rows=0; allowed: 1 or more"):
        halved(0)
    with pytest.raises(ValueError, match="0 rows per step"):
        divided_rows(0, 4)


def test_halved_micro_batches_give_the_same_loss_and_gradient():
    """The failed try has added a gradient of its own: were it kept, the step would count those rows twice."""
    ids = torch.randint(64, (8, T), generator=torch.Generator().manual_seed(2))
    plain, retried = tiny(), tiny()
    expected, notes = gradients(plain, ids, 8), []
    loss, rows = run_with_smaller_batches(
        lambda rows: gradients(retried, ids, rows, fail_from=4),
        8,
        undo=lambda: retried.zero_grad(set_to_none=True),
        step_rows=8,
        note=notes.append,
    )
    assert rows == 2
    assert [note.split(" (")[0] for note in notes] == [f"out of memory with {rows} rows at once" for rows in (8, 4)]
    assert "allocate" in notes[0] and "going on with 4" in notes[0]
    assert loss == pytest.approx(expected, rel=1e-6)
    for one, two in zip(plain.parameters(), retried.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None and one.grad.abs().sum() > 0
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-7)


def test_what_the_failed_try_held_is_gone_before_memory_is_freed(monkeypatch):
    """The traceback of an error keeps all tensors of its frames: while it lives, nothing can be freed."""
    model, held, alive = tiny(), [], []
    freeing = lambda: alive.append(sum(reference() is not None for reference in held))  # noqa: E731
    monkeypatch.setattr(micro_batch, "free_unused_memory", freeing)

    def compute(rows: int) -> int:
        local = torch.zeros(1000)
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        held.extend(weakref.ref(part) for part in (local, *(weight.grad for weight in model.parameters())))
        if rows > 1:
            exhaust_memory()
        return rows

    found = run_with_smaller_batches(compute, 4, undo=lambda: model.zero_grad(set_to_none=True))
    assert found == (1, 1)
    assert len(held) == 3 * (1 + len(list(model.parameters())))
    assert alive == [0, 0]


def test_other_errors_and_a_single_row_end_the_retries():
    tried = []

    def bad(rows: int) -> None:
        tried.append(rows)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run_with_smaller_batches(bad, 4, undo=lambda: tried.append(-1))
    assert tried == [4]
    with pytest.raises(ValueError, match="a single row of 16 tokens does not fit"):
        run_with_smaller_batches(lambda rows: exhaust_memory(), 4, undo=lambda: None, tokens_per_row=T)


def test_the_probe_leaves_everything_as_it_was():
    model = tiny()
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    kept, weights = model.lm_head.weight.grad, {name: w.clone() for name, w in model.state_dict().items()}
    state = torch.get_rng_state()
    assert probe_step(model, 4, T) >= 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert model.lm_head.weight.grad is kept and bool((kept == 1).all())
    assert all(w.grad is None for name, w in model.named_parameters() if name != "lm_head.weight")


def test_the_probe_puts_gradients_back_when_memory_runs_out(monkeypatch):
    model = tiny()
    monkeypatch.setattr(micro_batch, "softcap_cross_entropy", lambda *a: exhaust_memory())
    with pytest.raises(RuntimeError, match="allocate"):
        probe_step(model, 2, T)
    assert all(weight.grad is None for weight in model.parameters())


def free_for(model: GPT, rows: int) -> int:
    """Memory in which exactly `rows` rows fit by forecast."""
    static = default_static(shape_of_config(model.config, T))
    static = type(static)(0.0, static.gradients_bytes, static.optimizer_bytes)
    options = memory_options(model, T)
    return int(training_memory(shape_of_config(model.config, T), rows, static, options).total_bytes / 0.92) + 1


@pytest.mark.parametrize(("fit", "expected"), [(1, 1), (5, 4), (12, 12), (1000, 12)])
def test_as_many_rows_as_fit_the_free_memory(fit, expected, monkeypatch):
    """Beside gradients and optimizer state that are still to come; of 12 rows per step a divisor."""
    model = tiny()
    monkeypatch.setattr(micro_batch, "free_bytes", lambda device, ranks: free_for(model, fit))
    found = largest_micro_batch(model, 12, T, probe=False)
    assert (found.rows, found.rows_that_fit, found.measured_bytes) == (expected, fit, None)
    assert largest_micro_batch(model, 12, T, most_rows=3, probe=False).rows == min(expected, 3)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    there = largest_micro_batch(model, 12, T, probe=False, optimizer_bytes=0)
    assert there.rows_that_fit is not None and there.rows_that_fit > fit
    assert there.forecast_bytes < found.forecast_bytes or there.rows > found.rows


def test_no_row_that_fits_is_an_error_on_a_cpu_and_unknown_memory_is_none(monkeypatch):
    model = tiny()
    monkeypatch.setattr(micro_batch, "free_bytes", lambda device, ranks: 1000)
    with pytest.raises(ValueError, match="a single row of 16 tokens does not fit"):
        largest_micro_batch(model, 12, T)
    monkeypatch.setattr(micro_batch, "free_bytes", lambda device, ranks: None)
    assert largest_micro_batch(model, 12, T).rows == 12


def test_a_cpu_takes_no_more_rows_than_its_cache_profits_from(monkeypatch):
    model = tiny()
    monkeypatch.setattr(micro_batch, "free_bytes", lambda device, ranks: 10**12)
    monkeypatch.setitem(micro_batch.USEFUL_MICRO_BATCH_TOKENS, "cpu", 4 * T)
    assert largest_micro_batch(model, 12, T).rows == 4


def test_a_probe_that_fails_or_takes_too_much_halves_the_rows(monkeypatch):
    """What the optimizer will take counts: a probe before its first step does not see it."""
    model, tried, notes = tiny(), [], []
    free = free_for(model, 100)

    def taken(_model: GPT, rows: int, tokens: int) -> int:
        tried.append((rows, tokens))
        if rows == 12:
            exhaust_memory()
        return free if rows == 6 else 10

    monkeypatch.setattr(micro_batch, "free_bytes", lambda device, ranks: free)
    monkeypatch.setattr(micro_batch, "probe_step", taken)
    found = largest_micro_batch(model, 12, T, probe=True, note=notes.append)
    assert tried == [(12, T), (6, T), (3, T)]
    assert (found.rows, found.measured_bytes, len(notes)) == (3, 10, 2)
    assert "of the optimizer exceed" in notes[1]


def test_a_cpu_is_probed_only_when_the_forecast_is_close(monkeypatch):
    model = tiny()
    for fit, probed in ((12, True), (100, False)):
        monkeypatch.setattr(micro_batch, "free_bytes", lambda device, ranks, fit=fit: free_for(model, fit))
        monkeypatch.setattr(micro_batch, "probe_step", lambda *a: 1)
        assert (largest_micro_batch(model, 12, T).measured_bytes is not None) == probed


@pytest.mark.parametrize(("peak", "taken"), [(350, 250), (50, 0)])
def test_the_probe_tells_its_peak_beyond_what_was_allocated(peak, taken, monkeypatch):
    monkeypatch.setattr(micro_batch, "allocated_bytes", lambda device: 100)
    monkeypatch.setattr(micro_batch, "peak_bytes", lambda device: peak)
    assert probe_step(tiny(), 1, T) == taken


@pytest.mark.parametrize(
    ("path", "tokens", "explicit", "block"),
    [("auto", 512, True, 256), ("auto", 513, False, 256), ("blocked", 600, True, 128), ("sdpa", 16, False, 256)],
)
def test_the_forecast_counts_the_path_the_model_takes(path, tokens, explicit, block):
    """An undecided CPU is counted with scores for short rows, which take more."""
    model = GPT(dataclasses.replace(CONFIG, sequence_length=1024), path, "bfloat16", recompute=True)
    found = memory_options(model, tokens, compiled=True)
    assert (found.explicit_attention, found.query_block, found.compiled) == (explicit, block, False)
    assert (found.activation_bytes, found.kind, found.recompute, found.research) == (2, "cpu", True, None)


def test_research_models_count_their_extras():
    config = dataclasses.replace(CONFIG, research=ResearchConfig("SL"))
    model = GPT(config, "sdpa", "float32")
    assert memory_options(model, T).research == ResearchExtras("SL", sequence_length=T)
    more = largest_micro_batch(model, 12, T, probe=False).forecast_bytes
    assert more > largest_micro_batch(tiny(), 12, T, probe=False).forecast_bytes


def test_ranks_share_the_memory_of_a_cpu_and_the_state_of_the_optimizer(monkeypatch):
    model, asked = tiny(), []
    monkeypatch.setattr(micro_batch, "free_bytes", lambda device, ranks: asked.append(ranks) or 10**9)
    alone = largest_micro_batch(model, 12, T)
    monkeypatch.setattr(micro_batch, "rank_and_world_size", lambda: (0, 4))
    four = largest_micro_batch(model, 12, T)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two machines
    largest_micro_batch(model, 12, T)
    largest_micro_batch(model, 12, T, ranks_on_device=3)
    assert asked == [1, 4, 2, 3]
    state = default_static(shape_of_config(model.config, T)).optimizer_bytes
    assert alone.forecast_bytes - four.forecast_bytes == pytest.approx(state * 3 / 4)


def test_a_sharded_model_is_not_probed_and_gathers_weights(monkeypatch):
    """Its passes are collective: a probe that fails on one rank would leave the others waiting."""
    model = tiny()
    monkeypatch.setattr(micro_batch, "probe_step", lambda *a: pytest.fail("probed"))
    monkeypatch.setattr(micro_batch, "rank_and_world_size", lambda: (0, 4))
    whole = largest_micro_batch(model, 12, T, probe=False)
    monkeypatch.setattr(micro_batch, "is_sharded", lambda model: True)
    sharded = largest_micro_batch(model, 12, T, probe=True)
    assert sharded.measured_bytes is None
    gathered = gathered_bytes(shape_of_config(model.config, T), 4)
    assert sharded.forecast_bytes - whole.forecast_bytes == pytest.approx(gathered) and gathered > 0
