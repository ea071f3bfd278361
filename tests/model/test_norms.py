import torch

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
