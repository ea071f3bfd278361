"""Full causal attention, by two paths that compute the same function.

"sdpa" is torch's fused kernel: little memory, best on CUDA and for long rows. "explicit" forms the score matrix: on
CPUs with bfloat16 products it trains several times faster for short rows, because the fused CPU kernel gains little
from bfloat16.

Shape legend: B rows, N query heads, M key/value heads, G = N / M query heads per key head, T tokens, H head dim.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PATHS = ("auto", "sdpa", "explicit")
LONGEST_EXPLICIT_ROW = 512
"""Tokens per row up to which "auto" forms the score matrix; its memory grows with the square."""
QUERY_BLOCK = 256
"""Queries handled at once: a block skips the keys that lie wholly in its future."""


def choose_path(requested: str, dtype: torch.dtype, device: torch.device, tokens: int) -> str:
    """The path "auto" stands for; any other request is returned as it is."""
    if requested != "auto":
        return requested
    fits = device.type == "cpu" and dtype == torch.bfloat16 and tokens <= LONGEST_EXPLICIT_ROW
    return "explicit" if fits else "sdpa"


def causal_attention(q_BNTH: Tensor, k_BMTH: Tensor, v_BMTH: Tensor, path: str = "auto") -> Tensor:
    """softmax(q k^T / sqrt(H), future masked) v for grouped heads -> [B, N, T, H]."""
    path = choose_path(path, q_BNTH.dtype, q_BNTH.device, q_BNTH.size(2))
    if path == "sdpa":
        grouped = q_BNTH.size(1) != k_BMTH.size(1)
        return F.scaled_dot_product_attention(q_BNTH, k_BMTH, v_BMTH, is_causal=True, enable_gqa=grouped)
    return _ExplicitAttention.apply(q_BNTH, k_BMTH, v_BMTH)


class _ExplicitAttention(torch.autograd.Function):
    """Scores by query blocks; keeps the probabilities for the backward pass.

    P = softmax(S), O = P V. Backward: dV = P^T dO, dP = dO V^T, dS = P * (dP - sum_k dP P), dQ = dS K, dK = dS^T Q.
    """

    @staticmethod
    def forward(ctx: Any, q_BNTH: Tensor, k_BMTH: Tensor, v_BMTH: Tensor) -> Tensor:
        B, N, T, H = q_BNTH.shape
        M = k_BMTH.size(1)
        scale = H**-0.5
        q, k, v = q_BNTH.reshape(B * M, N // M, T, H), k_BMTH.reshape(B * M, T, H), v_BMTH.reshape(B * M, T, H)
        out = torch.empty_like(q)
        saved = [q, k, v]
        for start in range(0, T, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, T)
            bias = _future_bias(start, end, N // M, q)
            scores = torch.baddbmm(bias, _block(q, start, end), k[:, :end].mT, alpha=scale)
            weights = torch.softmax(scores, -1)
            out[:, :, start:end] = torch.bmm(weights, v[:, :end]).view(B * M, N // M, end - start, H)
            saved.append(weights)
        ctx.save_for_backward(*saved)
        ctx.shape, ctx.scale = (B, N, M, T, H), scale
        return out.view(B, N, T, H)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *blocks = ctx.saved_tensors
        B, N, M, T, H = ctx.shape
        dout = grads[0].reshape(B * M, N // M, T, H)
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        # From the last block, which sees every key, to the first: its products can be the initial sums.
        for number in reversed(range(len(blocks))):
            weights = blocks[number]
            start, end = number * QUERY_BLOCK, min((number + 1) * QUERY_BLOCK, T)
            dout_block, q_block = _block(dout, start, end), _block(q, start, end)
            dv[:, :end] += torch.bmm(weights.mT, dout_block)
            dweights = torch.bmm(dout_block, v[:, :end].mT)
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dk[:, :end] += torch.bmm(dscores.mT, q_block)
            dq[:, :, start:end] = torch.bmm(dscores, k[:, :end]).view(B * M, N // M, end - start, H)
        return dq.mul_(ctx.scale).view(B, N, T, H), dk.mul_(ctx.scale).view(B, M, T, H), dv.view(B, M, T, H)


def _block(x: Tensor, start: int, end: int) -> Tensor:
    """[P, G, T, H] -> the block's queries of all G heads as one matrix [P, G * (end - start), H]."""
    return x[:, :, start:end].reshape(x.size(0), -1, x.size(-1))


def _future_bias(start: int, end: int, groups: int, like: Tensor) -> Tensor:
    """[1, G * (end - start), end]: 0 where key <= query, -inf in the future."""
    query, key = torch.arange(start, end, device=like.device), torch.arange(end, device=like.device)
    bias = torch.zeros(end - start, end, dtype=like.dtype, device=like.device)
    bias.masked_fill_(key > query[:, None], float("-inf"))
    return bias.repeat(groups, 1).unsqueeze(0)
