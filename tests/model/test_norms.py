import pytest
import torch

from model import norms
from model.norms import rms_norm, rope_tables, rotate, rotated_norm


def plain_norm(x, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def test_norm_and_its_gradient_match_the_formula():
    """Hand-written backward pass against autograd; eps large enough that forgetting it would show."""
    x = torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(1))
    for eps in (1e-6, 0.1):
        expected, found = plain_norm(x, eps), rms_norm(x, eps)
        torch.testing.assert_close(found, expected)
        want, got = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (expected, found))
        torch.testing.assert_close(got, want)


def test_rotated_norm_and_its_gradient_match_norm_after_rotation():
    x = torch.randn(2, 9, 3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(2, 9, 3, 8, generator=torch.Generator().manual_seed(1))
    cos, sin = (table[:, None] for table in rope_tables(8, 100.0, torch.arange(9)))
    x1, x2 = x.chunk(2, -1)
    expected = plain_norm(torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), -1), 0.01)
    found = rotated_norm(x, cos, sin, 0.01)
    torch.testing.assert_close(found, expected)
    want, got = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (expected, found))
    torch.testing.assert_close(got, want)


def test_rotation_makes_products_depend_on_distance_only():
    """The property rotary positions exist for; a table indexed by the wrong axis breaks it."""
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cos, sin = (table.double() for table in rope_tables(8, 50.0, torch.arange(40)))

    def product(i, j):
        return (rotate(q, cos[i], sin[i]) * rotate(k, cos[j], sin[j])).sum()

    torch.testing.assert_close(product(3, 10), product(23, 30), rtol=1e-5, atol=1e-6)
    assert abs(product(3, 10) - product(3, 12)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_working_in_blocks_changes_no_bit_and_no_operand(dtype, monkeypatch):
    """Blocks that divide the tensor and that do not; gradients as attention hands them back, heads before tokens."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 11, 3, 8, generator=generator).to(dtype).requires_grad_()
    dy = torch.randn(2, 3, 11, 8, generator=generator).to(dtype).transpose(1, 2)
    cos, sin = (table[:, None] for table in rope_tables(8, 100.0, torch.arange(11)))
    kept, results = (x.detach().clone(), dy.clone()), []
    for values in (2**17, 48, 100, 1):  # of 48 values a token
        monkeypatch.setattr(norms, "BLOCK_VALUES", values)
        assert len(norms._blocks(x, 1)) == {2**17: 1, 48: 11, 100: 6, 1: 11}[values] or torch.get_num_threads() > 1
        for y in (rms_norm(x, 1e-6), rotated_norm(x, cos, sin, 1e-6)):
            results.append((y.detach(), torch.autograd.grad(y, x, dy)[0]))
    for number, (y, dx) in enumerate(results):
        assert torch.equal(y, results[number % 2][0])
        assert torch.equal(dx, results[number % 2][1])
        assert dx.dtype == dtype
    assert torch.equal(x, kept[0]) and torch.equal(dy, kept[1])
    assert not torch.equal(results[0][0], results[1][0])
