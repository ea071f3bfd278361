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


@pytest.mark.parametrize("chunk", [8, 37, 1000])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_loss_and_gradients_equal_the_plain_formula(kind, chunk):
    """Catches a lost softcap derivative, a lost last chunk, and weights taken as 0/1 (advantages are signed)."""
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


def test_bf16_products_keep_the_gradient_direction():
    hidden, head, targets = inputs(torch.float32)
    expected = torch.autograd.grad(plain_loss(hidden, head, targets, WEIGHTS["plain"], 15.0), head)[0]
    loss = softcap_cross_entropy(hidden, head, targets, WEIGHTS["plain"], 15.0, torch.bfloat16, 16)
    found = torch.autograd.grad(loss, head)[0]
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999


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
