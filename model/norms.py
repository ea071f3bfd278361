"""Root-mean-square norm and rotary positions: the element-wise half of the network, with lean backward passes.

Both compute in float32, keep only their output in the input's format and one float32 scale per vector, and rebuild the
rest in the backward pass: on a CPU these operations wait for memory, so what is not kept is also time saved.

Shape legend: B rows, T tokens, N heads, H head dim, D the last dimension, P all vectors of a tensor.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_VALUES = 2**17
"""Values per CPU thread that are worked on at once: the float32 copies of a block stay in a second-level cache."""


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, computed in float32, returned in x's format."""
    if _wants_definition(x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    if x.is_cuda:
        return F.rms_norm(x, (x.size(-1),), eps=eps)  # one fused kernel there; a chain of copies on a CPU
    return _RMSNorm.apply(x, eps)


def _wants_definition(x: Tensor) -> bool:
    """float32 without gradients is how models are compared: the formulas in the order transformers computes them.

    Fused forms differ by rounding, which grows through the layers of a trained model to more than 1e-5 in the logits;
    transformers itself is that far from float64.
    """
    return x.dtype == torch.float32 and not torch.is_grad_enabled()


def rope_tables(head_dim: int, theta: float, positions_T: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position * theta^(-2i/H), each [T, H/2] in float32, on the device of `positions_T`."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_T.device) / head_dim
    angles = positions_T.float()[:, None] * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of the last dimension by MINUS the angle, the opposite sign of Llama; float32 result.

    cos and sin must broadcast against x[..., :H/2]. The other sign trains equally well and fails only after export.
    """
    x1, x2 = x.chunk(2, -1)
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, cos.dtype), device=x.device)
    y1, y2 = out.chunk(2, -1)
    torch.mul(x1, cos, out=y1).addcmul_(x2, sin)
    torch.mul(x2, cos, out=y2).addcmul_(x1, sin, value=-1)
    return out


def rotated_norm(x_BTNH: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """rms_norm(rotate(x)) of queries or keys, in x's format; cos and sin [T, 1, H/2]."""
    if _wants_definition(x_BTNH):
        x1, x2 = x_BTNH.chunk(2, -1)
        both = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
        return rms_norm(x_BTNH * both[0] + torch.cat((x2, -x1), -1) * both[1], eps)
    return _RotatedNorm.apply(x_BTNH, cos, sin, eps)


class _RMSNorm(torch.autograd.Function):
    """y = r x with r = (mean(x^2) + eps)^-1/2; backward dx = r (dy - y mean(y dy))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        x_PD = x.reshape(-1, x.size(-1))
        y_PD = torch.empty_like(x_PD)
        scale_P1 = _scales(x_PD)
        for part in _blocks(x_PD, 0):
            wide = _wide_copy(x_PD[part])
            scale_P1[part] = scale = _inverse_rms(wide, eps)
            y_PD[part] = wide.mul_(scale)
        ctx.save_for_backward(y_PD, scale_P1)
        return y_PD.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        y_PD, scale_P1 = ctx.saved_tensors
        dy_PD, dx_PD = grads[0].reshape(y_PD.shape), torch.empty_like(y_PD)
        for part in _blocks(y_PD, 0):
            dx_PD[part] = _norm_gradient(dy_PD[part], y_PD[part], scale_P1[part])
        return dx_PD.view(grads[0].shape), None


class _RotatedNorm(torch.autograd.Function):
    """Rotation keeps the length, so the scale comes from the unrotated vector; backward undoes the rotation last."""

    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        y_BTNH, scale_BTN1 = torch.empty_like(x_BTNH), _scales(x_BTNH)
        tables = _full_tables(cos, sin)
        for part in _blocks(x_BTNH, 1):
            wide = _wide_copy(x_BTNH[:, part])
            scale_BTN1[:, part] = scale = _inverse_rms(wide, eps)
            y_BTNH[:, part] = _rotate_whole(wide, *(table[part] for table in tables)).mul_(scale)
        ctx.save_for_backward(y_BTNH, scale_BTN1, cos, sin)
        return y_BTNH

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        y_BTNH, scale_BTN1, cos, sin = ctx.saved_tensors
        dx_BTNH, tables = torch.empty_like(y_BTNH), _full_tables(cos, -sin)
        for part in _blocks(y_BTNH, 1):
            dwide = _norm_gradient(grads[0][:, part], y_BTNH[:, part], scale_BTN1[:, part])
            dx_BTNH[:, part] = _rotate_whole(dwide, *(table[part] for table in tables))
        return dx_BTNH, None, None, None


def _blocks(x: Tensor, dim: int) -> list[slice]:
    """Parts along `dim` whose float32 copies stay in a CPU's caches; all at once on a GPU and for a compiler."""
    size = x.size(dim)
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return [slice(0, size)]
    step = max(1, BLOCK_VALUES * torch.get_num_threads() * size // max(1, x.numel()))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _wide_copy(x: Tensor) -> Tensor:
    """A float32 copy in order of memory, ours to change."""
    return torch.empty(x.shape, dtype=torch.float32, device=x.device).copy_(x)


def _scales(x: Tensor) -> Tensor:
    return torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)


def _inverse_rms(wide: Tensor, eps: float) -> Tensor:
    # The length kernel reads its input once; a sum of products would write the products first.
    return torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.size(-1)).add_(eps).rsqrt_()


def _norm_gradient(dy: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    dy, y = _wide_copy(dy), y.float()
    mean = torch.linalg.vecdot(dy, y).div_(-y.size(-1)).unsqueeze(-1)
    return dy.addcmul_(y, mean).mul_(scale)


def _full_tables(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Tables for both halves at once: out = x cos + swapped(x) sin, the second half with the opposite sign."""
    return torch.cat((cos, cos), -1), torch.cat((sin, -sin), -1)


def _rotate_whole(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` in place, with the tables of `_full_tables`: fewer and longer runs through memory."""
    x1, x2 = x.chunk(2, -1)
    swapped = torch.cat((x2, x1), -1)
    return x.mul_(cos).addcmul_(swapped, sin)
