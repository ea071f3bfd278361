import pytest
import torch

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
