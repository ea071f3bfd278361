import pytest
import torch

from model import loss
from model.loss import softcap_cross_entropy

WEIGHTS = {
    "plain": torch.ones(37),
    "masked": torch.arange(37).remainder(3).float(),
    "advantages": torch.linspace(-1.5, 2.0, 37),
    "nothing supervised": torch.zeros(37),
}


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 16, dtype=dtype, generator=generator)
    head = 4 * torch.randn(50, 16, dtype=dtype, generator=generator)  # logits well into the soft cap
    return hidden.requires_grad_(), head.requires_grad_(), torch.randint(50, (37,), generator=generator)


def plain_loss(hidden, head, targets, weights, softcap):
    logits = softcap * torch.tanh(hidden @ head.T / softcap)
    return (weights * torch.nn.functional.cross_entropy(logits, targets, reduction="none")).sum()


@pytest.mark.parametrize(("chunk", "block_rows"), [(8, 3), (37, 5), (1000, 1), (1000, 1000)])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_loss_and_gradients_equal_the_plain_formula(kind, chunk, block_rows, monkeypatch):
    """Catches a lost softcap derivative, a lost last chunk or block, weights taken as 0/1 (advantages are signed)."""
    monkeypatch.setattr(loss, "_rows_of_block", lambda chunk_tokens, *rest: min(chunk_tokens, block_rows))
    hidden, head, targets = inputs(torch.float64)
    weights = WEIGHTS[kind]
    expected = plain_loss(hidden, head, targets, weights.double(), 15.0)
    found = softcap_cross_entropy(hidden, head, targets, weights, 15.0, torch.float64, chunk)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(3 * expected, (hidden, head))
    got = torch.autograd.grad(3 * found, (hidden, head))
    assert (wanted[1].abs().max() > 0) == (kind != "nothing supervised")
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_bf16_products_cost_little_of_the_loss_and_a_third_of_a_percent_of_the_gradient():
    """At the spread of states and head that training has, against the plain formula in float32.

    A logit is rounded by 2^-9 of itself, half a percent of a nat a token; the mean over 4,096 tokens by 1/64 of that.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4096, 64, generator=generator).bfloat16()
    head = (0.24 * torch.randn(500, 64, generator=generator)).requires_grad_()
    targets, weights = torch.randint(500, (4096,), generator=generator), torch.full((4096,), 1 / 4096)
    found_hidden, wanted_hidden = hidden.clone().requires_grad_(), hidden.float().requires_grad_()
    wanted = plain_loss(wanted_hidden, head, targets, weights, 15.0)
    found = softcap_cross_entropy(found_hidden, head, targets, weights, 15.0, torch.bfloat16)
    assert abs(found - wanted) < 3e-5 * wanted
    gradients = torch.autograd.grad(wanted, (wanted_hidden, head))
    for got, want in zip(torch.autograd.grad(found, (found_hidden, head)), gradients, strict=True):
        assert got.dtype == (torch.bfloat16 if got.shape == hidden.shape else torch.float32)
        assert (got.float() - want).norm() < 3.3e-3 * want.norm()


def test_extreme_logits_stay_finite():
    """At the soft cap e^15 is summed over the vocabulary, and a target may be e^30 less likely than another word."""
    head = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    hidden = torch.ones(3, 1, requires_grad=True)
    value = softcap_cross_entropy(hidden, head, torch.tensor([0, 1, 2]), torch.ones(3), 15.0, torch.float32)
    torch.testing.assert_close(value, torch.tensor(45.0), atol=1e-3, rtol=0)
    assert all(torch.isfinite(part).all() for part in torch.autograd.grad(value, (hidden, head)))


def test_the_first_gradient_of_the_head_is_handed_on_not_copied():
    """A copy would cost V x D float32 values of memory in every first micro-batch; a second one must be added."""
    hidden, head, targets = inputs(torch.float32)
    value = softcap_cross_entropy(hidden, head, targets, WEIGHTS["plain"], 15.0, torch.float32)
    made = value.grad_fn.gradients[1].data_ptr()
    value.backward()
    assert head.grad.data_ptr() == made
    once = head.grad.clone()
    softcap_cross_entropy(hidden, head, targets, WEIGHTS["plain"], 15.0, torch.float32).backward()
    torch.testing.assert_close(head.grad, 2 * once)


def test_a_block_of_logits_fits_the_threads_and_is_never_empty():
    threads, cpu = torch.get_num_threads(), torch.device("cpu")
    assert loss._rows_of_block(512, 2 * loss.BLOCK_LOGITS * threads, cpu) == 1
    assert loss._rows_of_block(512, loss.BLOCK_LOGITS // 8, cpu) == 8 * threads
    assert loss._rows_of_block(4, 10, cpu) == 4
    assert loss._rows_of_block(8192, 50_000, torch.device("cuda")) == 8192


def test_unequal_lengths_are_refused_with_the_lengths():
    hidden, head, targets = inputs(torch.float32)
    with pytest.raises(ValueError, match="37 hidden states, 36 targets, 37 weights"):
        softcap_cross_entropy(hidden, head, targets[:-1], WEIGHTS["plain"], 15.0, torch.float32)


def test_few_sizes_of_products_whatever_the_mask():
    """Every size of a product costs a CPU kernels that it keeps: masks must not make new sizes for ever."""
    draw = torch.Generator().manual_seed(0)
    sizes = set()
    for _ in range(200):
        weights = (torch.rand(1000, generator=draw) < torch.rand(1, generator=draw)).float()
        kept = loss._supervised(weights)
        assert kept.unique().numel() == kept.numel()
        assert weights[kept].sum() == weights.sum()
        sizes.add(kept.numel())
    assert len(sizes) <= 1000 // loss.SIZE_STEP + 2


def test_tokens_added_to_fill_a_size_change_nothing():
    draw = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(300, 16, generator=draw), torch.randn(40, 16, generator=draw)
    targets = torch.randint(0, 40, (300,), generator=draw)
    weights = (torch.rand(300, generator=draw) < 0.3).float()
    found, wanted = [], []
    for results, chosen in ((found, slice(None)), (wanted, weights > 0)):
        inputs = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
        value = softcap_cross_entropy(
            inputs[0][chosen], inputs[1], targets[chosen], weights[chosen], 15.0, torch.float32
        )
        value.backward()
        results += [value.detach(), *(part.grad for part in inputs)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
