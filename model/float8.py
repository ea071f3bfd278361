"""Products in eight-bit floating point, for CUDA devices that multiply it (compute capability 8.9: RTX 40, H100, H200).

One scale per tensor, chosen so that its largest entry is the largest number of the format: inputs and weights in e4m3
(3 bits of fraction, up to 448), gradients in e5m2 (2 bits, up to 57344), as in arXiv 2209.05433. Sums are kept in
float32 by the hardware. Elsewhere the product is emulated: quantised, widened and multiplied, which tests what
rounding does and saves nothing.

NOT MEASURED here: neither the speed nor the loss at scale on a device.
"""

from typing import Any

import torch
from torch import Tensor

FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
SMALLEST_DIM, MULTIPLE = 128, 16
"""Of every dimension of the product: below, quantising costs more than it saves; the kernels want multiples."""
_LEAST = 1e-12
"""Largest entry assumed for a tensor of zeros."""


def multiplies_float8(device: torch.device | str) -> bool:
    """True for a CUDA device with the instruction."""
    device = torch.device(device)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def check_float8(device: torch.device | str) -> None:
    """ValueError unless the device multiplies float8."""
    if not multiplies_float8(device):
        raise ValueError(
            f"float8 products on {device}: the device has none; allowed: CUDA devices of compute capability 8.9 and "
            f"up; next: leave float8 off, bfloat16 is used then"
        )


def fits_float8(x: Tensor, weight: Tensor) -> bool:
    """True when the product is bfloat16 and all its dimensions suit the kernels; otherwise it stays as it is."""
    rows = x.numel() // x.size(-1)
    dims = (rows, *weight.shape)
    return x.dtype == torch.bfloat16 and all(dim >= SMALLEST_DIM and dim % MULTIPLE == 0 for dim in dims)


def float8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., K] times weight [N, K] transposed -> [..., N] in x's format; gradients in the inputs' formats."""
    return _Float8Linear.apply(x.reshape(-1, x.size(-1)), weight).view(*x.shape[:-1], weight.size(0))


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x / scale in `dtype`, scale as a 0-dim float32 tensor): no value is waited for on the host."""
    largest = torch.finfo(dtype).max
    scale = x.detach().abs().amax().float().clamp_min(_LEAST) / largest
    return (x.float() / scale).clamp_(-largest, largest).to(dtype), scale


class _Float8Linear(torch.autograd.Function):
    """y = x W^T, dx = dy W, dW = dy^T x, each with both factors quantised; the quantised inputs are what is kept."""

    @staticmethod
    def forward(ctx: Any, x_RK: Tensor, weight_NK: Tensor) -> Tensor:
        x8, x_scale = quantise(x_RK, FORWARD)
        w8, w_scale = quantise(weight_NK, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.formats = x_RK.dtype, weight_NK.dtype
        return _product(x8, w8.t(), x_scale, w_scale, x_RK.dtype, fast_sums=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.formats
        dy8, dy_scale = quantise(grads[0], GRADIENT)
        dx = _product(dy8, w8, dy_scale, w_scale, x_dtype, fast_sums=False)
        dweight = _product(dy8.t(), x8, dy_scale, x_scale, weight_dtype, fast_sums=False)
        return dx, dweight


def _product(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype, *, fast_sums: bool) -> Tensor:
    """a [R, K] times b [K, C] in `dtype`. The kernel reads a by rows and b by columns: copies are made where needed."""
    if not a.is_cuda:
        return ((a.float() @ b.float()) * (a_scale * b_scale)).to(dtype)
    return torch._scaled_mm(
        a.contiguous(), b.t().contiguous().t(), a_scale, b_scale, out_dtype=dtype, use_fast_accum=fast_sums
    )
