"""Causal attention by several paths that compute the same function: the whole row, a window of it, or its documents.

    sdpa      torch's fused kernel: little memory, best for long rows
    explicit  forms the scores for 256 queries at once: on CPUs with bfloat16 products faster for short rows, because
              the fused CPU kernel gains little from bfloat16
    blocked   the same for 128 queries: fewer scores of future keys, more and smaller products
    flex      flex attention (arXiv 2412.05496), CUDA only: skips what a window or document mask hides
    flash3    FlashAttention-3 (arXiv 2407.08608), CUDA only, where its package is installed

Which of the first three is fastest depends on the machine, the row length and the format: `auto` takes what
model/compilation.py measured, without a measurement the rule of `choose_path`.

Shape legend: B rows, N query heads, M key/value heads, G = N / M query heads per key head, T tokens, H head dim,
R queries of one block, S keys that they may see.
"""

import functools
import importlib
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PATHS = ("auto", "sdpa", "explicit", "blocked", "flex", "flash3")
LONGEST_EXPLICIT_ROW = 512
"""Tokens per row up to which "auto" forms the score matrix where nothing was measured: memory grows with the square."""
QUERY_BLOCK = 256
"""Queries the explicit path handles at once: a block skips the keys that lie wholly in its future."""
SMALL_QUERY_BLOCK = 128
"""The same for the blocked path."""


def choose_path(requested: str, dtype: torch.dtype, device: torch.device, tokens: int, masked: bool = False) -> str:
    """The path "auto" stands for where nothing was measured; any other request is returned as it is.

    `masked`: a window or documents hide more than the future.
    """
    if requested != "auto":
        return requested
    if device.type == "cuda":
        if dtype == torch.bfloat16 and not masked and _has_flash3(device):
            return "flash3"
        return "flex" if masked else "sdpa"
    fits = device.type == "cpu" and dtype == torch.bfloat16 and tokens <= LONGEST_EXPLICIT_ROW
    return "explicit" if fits else "sdpa"


def causal_attention(
    q_BNTH: Tensor,
    k_BMTH: Tensor,
    v_BMTH: Tensor,
    path: str = "auto",
    window: int | None = None,
    documents_BT: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(H), hidden keys left out) v for grouped heads -> [B, N, T, H].

    Query i sees key j where i - window < j <= i (None: all of the past) and, if `documents_BT` numbers the documents of
    each row, where both have the same number. ValueError for a path that is unknown or not for this device, window < 1.
    """
    T = q_BNTH.size(2)
    if window is not None and window < 1:
        raise ValueError(
            f"attention: window={window}; allowed: at least 1 (a query sees itself), or None for no window"
        )
    window = None if window is None or window >= T else window
    masked = window is not None or documents_BT is not None
    path = choose_path(path, q_BNTH.dtype, q_BNTH.device, T, masked)
    if path in ("explicit", "blocked"):
        block = QUERY_BLOCK if path == "explicit" else SMALL_QUERY_BLOCK
        return _ExplicitAttention.apply(q_BNTH, k_BMTH, v_BMTH, block, window, documents_BT)
    if path in ("flex", "flash3") and not q_BNTH.is_cuda:
        raise ValueError(f"attention path {path!r} on {q_BNTH.device.type}: allowed there are sdpa, explicit, blocked")
    if path == "flex":
        return _flex_attention(q_BNTH, k_BMTH, v_BMTH, window, documents_BT)
    if path == "flash3" and documents_BT is None:
        return _flash3_attention(q_BNTH, k_BMTH, v_BMTH, window)
    if path not in ("sdpa", "flash3"):
        raise ValueError(f"attention path {path!r}: allowed are {', '.join(PATHS)}")
    grouped = q_BNTH.size(1) != k_BMTH.size(1)
    if not masked:
        return F.scaled_dot_product_attention(q_BNTH, k_BMTH, v_BMTH, is_causal=True, enable_gqa=grouped)
    visible = ~_hidden(0, T, 0, T, window, documents_BT, q_BNTH.device)
    return F.scaled_dot_product_attention(q_BNTH, k_BMTH, v_BMTH, attn_mask=visible[:, None], enable_gqa=grouped)


def _hidden(
    start: int, end: int, first: int, last: int, window: int | None, documents_BT: Tensor | None, device: torch.device
) -> Tensor:
    """True where queries start..end must not see keys first..last: [B or 1, R, S]."""
    query = torch.arange(start, end, device=device)[:, None]
    key = torch.arange(first, last, device=device)
    hidden = key > query
    if window is not None:
        hidden = hidden | (key <= query - window)
    if documents_BT is None:
        return hidden[None]
    return hidden | (documents_BT[:, start:end, None] != documents_BT[:, None, first:last])


class _ExplicitAttention(torch.autograd.Function):
    """Scores by query blocks; keeps the probabilities for the backward pass.

    P = softmax(S), O = P V. Backward: dV = P^T dO, dP = dO V^T, dS = P * (dP - sum_k dP P), dQ = dS K, dK = dS^T Q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BNTH: Tensor,
        k_BMTH: Tensor,
        v_BMTH: Tensor,
        query_block: int,
        window: int | None,
        documents_BT: Tensor | None,
    ) -> Tensor:
        B, N, T, H = q_BNTH.shape
        M = k_BMTH.size(1)
        q, k, v = q_BNTH.reshape(B * M, N // M, T, H), k_BMTH.reshape(B * M, T, H), v_BMTH.reshape(B * M, T, H)
        ctx.shape, ctx.blocks, ctx.scale = (B, N, M, T, H), _blocks(T, query_block, window), H**-0.5
        out = torch.empty_like(q)
        saved = [q, k, v]
        for start, end, first in ctx.blocks:
            q_block, k_block = _block(q[:, :, start:end]), k[:, first:end]
            # Scaled inside the product, as transformers rounds it; with beta 0 the first operand is not even read.
            scores = torch.baddbmm(q.new_empty(1, 1, 1), q_block, k_block.mT, beta=0, alpha=ctx.scale)
            # Without a window or documents only the keys of the block itself can lie in a query's future.
            masked_from = start if window is None and documents_BT is None else first
            hidden = _hidden(start, end, masked_from, end, window, documents_BT, q.device)
            bias = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, float("-inf"))
            heads = scores.view(B, N, end - start, end - first)
            heads[..., masked_from - first :] += bias[:, None]
            weights = torch.softmax(scores, -1)
            out[:, :, start:end] = torch.bmm(weights, v[:, first:end]).view(B * M, N // M, end - start, H)
            saved.append(weights)
        ctx.save_for_backward(*saved)
        return out.view(B, N, T, H)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *blocks = ctx.saved_tensors
        B, N, M, T, H = ctx.shape
        dout = grads[0].reshape(B * M, N // M, T, H)
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for weights, (start, end, first) in zip(blocks, ctx.blocks, strict=True):
            dout_block, q_block = _block(dout[:, :, start:end]), _block(q[:, :, start:end])
            dv[:, first:end] += torch.bmm(weights.mT, dout_block)
            dweights = torch.bmm(dout_block, v[:, first:end].mT)
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dk[:, first:end] += torch.bmm(dscores.mT, q_block)
            dq[:, :, start:end] = torch.bmm(dscores, k[:, first:end]).view(B * M, N // M, end - start, H)
        dq, dk, dv = dq.mul_(ctx.scale).view(B, N, T, H), dk.mul_(ctx.scale).view(B, M, T, H), dv.view(B, M, T, H)
        return dq, dk, dv, None, None, None


def _blocks(tokens: int, query_block: int, window: int | None) -> list[tuple[int, int, int]]:
    """(first query, end of the queries, first key) of every block; its last key is its last query."""
    starts = range(0, tokens, query_block)
    return [(s, min(s + query_block, tokens), 0 if window is None else max(0, s - window + 1)) for s in starts]


def _block(x: Tensor) -> Tensor:
    """[P, G, R, H] -> the block's queries of all G heads as one matrix [P, G * R, H]."""
    return x.reshape(x.size(0), -1, x.size(-1))


# CUDA ----------------------------------------------------------------------------------------------------------------


@functools.cache
def _has_flash3(device: torch.device) -> bool:
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    return hopper and importlib.util.find_spec("flash_attn_interface") is not None


def _flash3_attention(q_BNTH: Tensor, k_BMTH: Tensor, v_BMTH: Tensor, window: int | None) -> Tensor:
    kernel = importlib.import_module("flash_attn_interface").flash_attn_func
    heads = (x.transpose(1, 2) for x in (q_BNTH, k_BMTH, v_BMTH))  # it wants [B, T, N, H]
    out = kernel(*heads, causal=True, window_size=(-1, -1) if window is None else (window - 1, 0))
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex_attention(
    q_BNTH: Tensor, k_BMTH: Tensor, v_BMTH: Tensor, window: int | None, documents_BT: Tensor | None
) -> Tensor:
    T, grouped = q_BNTH.size(2), q_BNTH.size(1) != k_BMTH.size(1)
    mask = _window_mask(T, window, q_BNTH.device) if documents_BT is None else _block_mask(T, window, documents_BT)
    return _compiled_flex()(q_BNTH, k_BMTH, v_BMTH, block_mask=mask, enable_gqa=grouped)


@functools.lru_cache(maxsize=16)
def _window_mask(tokens: int, window: int | None, device: torch.device) -> Any:
    return _block_mask(tokens, window, None, device)


def _block_mask(
    tokens: int, window: int | None, documents_BT: Tensor | None, device: torch.device | None = None
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key
        if window is not None:
            seen = seen & (query - key < window)
        if documents_BT is not None:
            seen = seen & (documents_BT[row, query] == documents_BT[row, key])
        return seen

    rows = None if documents_BT is None else documents_BT.size(0)
    at = documents_BT.device if documents_BT is not None else device
    return create_block_mask(visible, rows, None, tokens, tokens, device=str(at))
