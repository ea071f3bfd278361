"""The loss of the head: softcapped cross-entropy in chunks, so that the N x V logits never exist at once.

Shape legend: N tokens, C tokens of one chunk, D model width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = {"cpu": 512, "cuda": 8192}
"""Tokens whose logits exist at once, by kind of device."""
BLOCK_LOGITS = 2**18
"""Logits per CPU thread that are worked on at once: small enough for its caches, large enough for few small calls."""
SIZE_STEP = 128
"""Numbers of supervised tokens are rounded up to a multiple of this."""


def softcap_cross_entropy(
    hidden_ND: Tensor,
    head_weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    softcap: float,
    compute_dtype: torch.dtype,
    chunk_tokens: int | None = None,
) -> Tensor:
    """Sum over tokens of weight * -ln p(target), with logits softcap * tanh(z / softcap); a float32 scalar, in nats.

    Weights are float32 of any sign: 0 leaves a token out (its head product is not even computed on a CPU), advantages
    give a policy gradient. Gradients flow to hidden states and head, not to the weights. ValueError on unequal lengths.
    """
    if not hidden_ND.size(0) == targets_N.numel() == weights_N.numel():
        raise ValueError(
            f"loss: {hidden_ND.size(0)} hidden states, {targets_N.numel()} targets, {weights_N.numel()} weights; "
            f"allowed: equal lengths"
        )
    chunk_tokens = chunk_tokens or CHUNK_TOKENS.get(hidden_ND.device.type, 2048)
    if hidden_ND.device.type == "cpu":  # elsewhere counting the supervised tokens would wait for the device
        kept = _supervised(weights_N)
        if kept.numel() < weights_N.numel():
            hidden_ND, targets_N, weights_N = hidden_ND[kept], targets_N[kept], weights_N[kept]
    return _SoftcapCrossEntropy.apply(
        hidden_ND, head_weight_VD, targets_N, weights_N, softcap, compute_dtype, chunk_tokens
    )


def _supervised(weights_N: Tensor) -> Tensor:
    """Numbers of the tokens with a weight, filled up with some without to a multiple of `SIZE_STEP`.

    For every new size the CPU's matrix library compiles and keeps kernels: memory would grow with each step.
    """
    supervised = weights_N.nonzero().squeeze(1)
    wanted = -(-supervised.numel() // SIZE_STEP) * SIZE_STEP
    if wanted >= weights_N.numel():
        return torch.arange(weights_N.numel(), device=weights_N.device)
    others = (weights_N == 0).nonzero().squeeze(1)[: wanted - supervised.numel()]
    return torch.cat((supervised, others))


class _SoftcapCrossEntropy(torch.autograd.Function):
    """Gradients are computed with the loss, chunk by chunk, while the logits are at hand.

    With y = c tanh(z / c) and p = softmax(y): d loss / d z = weight * (p - onehot) * (1 - (y / c)^2). The head is
    divided by c beforehand, so that its product is z / c; the logits' gradient is kept times c to make up for it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_weight_VD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        softcap: float,
        compute_dtype: torch.dtype,
        chunk_tokens: int,
    ) -> Tensor:
        wants_gradient = hidden_ND.requires_grad or head_weight_VD.requires_grad
        N, V = hidden_ND.size(0), head_weight_VD.size(0)
        head_VD = (head_weight_VD / softcap).to(compute_dtype)
        total = torch.zeros((), dtype=_wide(compute_dtype), device=hidden_ND.device)
        dhidden_ND = torch.empty_like(hidden_ND) if wants_gradient else None
        dhead_VD = torch.zeros_like(head_weight_VD) if wants_gradient else None
        chunk_tokens = max(1, min(chunk_tokens, N))
        logits_CV = head_VD.new_empty(chunk_tokens, V)
        rows = _rows_of_block(chunk_tokens, V, hidden_ND.device)
        scratch = tuple(total.new_empty(rows, V) for _ in range(0 if _fused_block else 2))
        for start in range(0, N, chunk_tokens):
            hidden_CD = hidden_ND[start : start + chunk_tokens].to(compute_dtype)
            z_CV = torch.mm(hidden_CD, head_VD.T, out=logits_CV[: hidden_CD.size(0)])
            for first in range(0, hidden_CD.size(0), rows):
                z_RV = z_CV[first : first + rows]
                at = slice(start + first, start + first + z_RV.size(0))
                total += _loss_of_block(z_RV, targets_N[at], weights_N[at], softcap, scratch, wants_gradient)
            if dhidden_ND is None or dhead_VD is None:
                continue
            dhidden_ND[start : start + chunk_tokens] = z_CV @ head_VD
            dhead_VD.add_(z_CV.T @ hidden_CD, alpha=1 / softcap)
        ctx.gradients = (dhidden_ND, dhead_VD)  # neither inputs nor outputs: they may be kept outside the graph's care
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Handed on, not copied: the head's gradient becomes the parameter's, or is added to it and freed.
        (dhidden_ND, dhead_VD), ctx.gradients = ctx.gradients, None
        return dhidden_ND.mul_(grads[0]), dhead_VD.mul_(grads[0]), None, None, None, None, None


def use_fused_blocks(on: bool) -> None:
    """Have torch.compile make one kernel of a chunk's element-wise work. For CUDA; CPUs measured slower with it."""
    global _fused_block
    _fused_block = torch.compile(_loss_by_formula, dynamic=False) if on else None


_fused_block: Any = None


def _loss_by_formula(
    z_RV: Tensor, targets_R: Tensor, weights_R: Tensor, softcap: float, wants_gradient: bool
) -> Tensor:
    """What `_loss_of_block` does, written for a compiler, which needs no scratch memory."""
    tanh_RV = z_RV.to(_wide(z_RV.dtype)).tanh()
    logits_RV = softcap * tanh_RV
    log_sum_R1 = logits_RV.logsumexp(1, keepdim=True)
    is_target_RV = torch.arange(z_RV.size(1), device=z_RV.device) == targets_R[:, None]
    if wants_gradient:
        p_RV = (logits_RV - log_sum_R1).exp() - is_target_RV.to(logits_RV.dtype)
        z_RV.copy_(softcap * weights_R[:, None] * p_RV * (1 - tanh_RV * tanh_RV))
    return (weights_R * (log_sum_R1 - logits_RV.gather(1, targets_R[:, None])).squeeze(1)).sum()


def _rows_of_block(chunk_tokens: int, vocab_size: int, device: torch.device) -> int:
    """Tokens whose logits are worked on at once: on a CPU as many as stay in the caches of its threads."""
    if device.type != "cpu":
        return chunk_tokens
    return min(chunk_tokens, max(1, BLOCK_LOGITS * torch.get_num_threads() // vocab_size))


def _loss_of_block(
    z_RV: Tensor,
    targets_R: Tensor,
    weights_R: Tensor,
    softcap: float,
    scratch: tuple[Tensor, ...],
    wants_gradient: bool,
) -> Tensor:
    """The summed loss of a block of rows; z / c is replaced by the gradient of z, times c. Fewest passes over memory.

    No maximum is subtracted: the soft cap bounds the logits, exp(softcap) cannot overflow.
    """
    if _fused_block is not None:
        return _fused_block(z_RV, targets_R, weights_R, softcap, wants_gradient)
    tanh_RV, p_RV = (buffer[: z_RV.size(0)] for buffer in scratch)
    targets_R1 = targets_R[:, None]
    tanh_RV.copy_(z_RV).tanh_()
    torch.mul(tanh_RV, softcap, out=p_RV)
    target_logit_R = p_RV.gather(1, targets_R1).squeeze(1)
    sum_R = p_RV.exp_().sum(1)
    if wants_gradient:
        scale_R1 = (softcap * weights_R[:, None]).to(p_RV.dtype)
        p_RV.mul_(scale_R1 / sum_R[:, None]).scatter_add_(1, targets_R1, -scale_R1)
        torch.ops.aten.tanh_backward.grad_input(p_RV, tanh_RV, grad_input=p_RV)
        z_RV.copy_(p_RV)
    return (weights_R * (sum_R.log() - target_logit_R)).sum()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
