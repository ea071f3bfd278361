"""Eight-bit products, emulated: rounding as the formats define it, gradients of the right factors, and when not."""

import pytest
import torch
import torch.nn.functional as F

from model.float8 import FORWARD, GRADIENT, check_float8, fits_float8, float8_linear, multiplies_float8, quantise
from model.gpt import GPT, GPTConfig

WIDE = GPTConfig(192, 2, 128, 1, 1, 512, 128)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "largest", "steps"), [(FORWARD, 448.0, 16), (GRADIENT, 57344.0, 8)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_the_largest_entry_becomes_the_largest_number_of_the_format(dtype, largest, steps, size):
    x = size * random(64, 64)
    rounded, scale = quantise(x, dtype)
    assert rounded.dtype == dtype and rounded.float().abs().max() == largest
    big = x.abs() > x.abs().max() / 100  # far from the smallest numbers, rounding is half a step of the fraction
    error = ((rounded.float() * scale - x).abs() / x.abs())[big]
    assert error.max() <= 1 / steps
    assert error.max() > 1 / steps / 4  # it really has been rounded


def test_a_tensor_of_zeros_stays_zero():
    rounded, scale = quantise(torch.zeros(4, 4), FORWARD)
    assert not rounded.float().any() and scale.isfinite()


def test_product_and_gradients_are_those_of_the_exact_product_up_to_rounding():
    """Catches a transposed factor or a scale left out: each of those is wrong by far more than 3 bits."""
    x, weight, dy = random(2, 64, 128), 0.02 * random(256, 128, seed=1), 1e-4 * random(2, 64, 256, seed=2)
    x.requires_grad_()
    weight.requires_grad_()
    exact = F.linear(x, weight)
    expected = torch.autograd.grad(exact, (x, weight), dy)
    found = float8_linear(x, weight)
    gradients = torch.autograd.grad(found, (x, weight), dy)
    assert found.shape == exact.shape
    # Entries are off by up to 2^-4 (e4m3) and 2^-3 (e5m2); two independent roundings of that size give these norms.
    assert 0.01 < relative_error(found, exact) < 0.05
    for gradient, truth in zip(gradients, expected, strict=True):
        assert gradient.shape == truth.shape
        assert 0.02 < relative_error(gradient, truth) < 0.09


def test_small_gradients_survive_beside_large_ones():
    """What the fifth bit of the exponent is for: e4m3 would round them to zero."""
    x, weight, dy = random(2, 128).requires_grad_(), random(128, 128, seed=1), random(2, 128, seed=2)
    dy[1] *= 1e-7
    (exact,), (found,) = (torch.autograd.grad(product(x, weight), x, dy) for product in (F.linear, float8_linear))
    assert relative_error(found[1], exact[1]) < 0.2


def test_scales_do_not_matter():
    """A power of two moves no mantissa: the result of 2^20 x is 2^20 times that of x, to the bit."""
    x, weight = random(128, 128), random(128, 128, seed=1)
    assert torch.equal(float8_linear(2.0**20 * x, 2.0**-30 * weight), 2.0**-10 * float8_linear(x, weight))


@pytest.mark.parametrize(
    ("shape", "weight_shape", "dtype", "fits"),
    [
        ((2, 64, 128), (256, 128), torch.bfloat16, True),
        ((2, 64, 128), (256, 128), torch.float32, False),
        ((2, 64, 120), (256, 120), torch.bfloat16, False),
        ((2, 60, 128), (256, 128), torch.bfloat16, False),
        ((2, 65, 128), (256, 128), torch.bfloat16, False),
        ((2, 64, 128), (248, 128), torch.bfloat16, False),
    ],
)
def test_only_products_the_kernels_can_do_are_quantised(shape, weight_shape, dtype, fits):
    assert fits_float8(torch.empty(shape, dtype=dtype), torch.empty(weight_shape)) is fits


def test_the_switch_changes_training_and_leaves_evaluation_alone():
    model = GPT(WIDE, "sdpa", "bfloat16")
    model.init_weights(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(random(*weight.shape), alpha=0.05)
    ids = torch.randint(0, 192, (2, 128), generator=torch.Generator().manual_seed(2))
    plain = model(ids)
    with torch.no_grad():
        evaluated = model(ids)
    model.float8 = True
    rounded = model(ids)
    assert 0.001 < relative_error(rounded, plain) < 0.2
    rounded.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.model.parameters())
    with torch.no_grad():
        assert torch.equal(model(ids), evaluated)
    model.float8 = False
    assert torch.equal(model(ids), plain)
    assert GPT(WIDE, float8=True).model.layers[0].mlp.fc1.float8 and not GPT(WIDE, float8=True).lm_head.float8


def test_devices_without_it_are_refused():
    assert not multiplies_float8("cpu")
    with pytest.raises(ValueError, match=r"float8 products on cpu.*next: leave float8 off"):
        check_float8("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not multiplies_float8("cuda"), reason="needs float8 products")
def test_the_device_computes_what_the_emulation_computes():
    x, weight, dy = random(2, 64, 128), random(256, 128, seed=1), random(2, 64, 256, seed=2)
    results = []
    for device in ("cpu", "cuda"):
        inputs = x.to(device, torch.bfloat16).requires_grad_(), weight.to(device).requires_grad_()
        y = float8_linear(*inputs)
        results.append([y, *torch.autograd.grad(y, inputs, dy.to(device, torch.bfloat16))])
    for emulated, computed in zip(*results, strict=True):
        assert relative_error(computed.cpu().float(), emulated.float()) < 0.01
