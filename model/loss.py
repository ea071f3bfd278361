"""The loss of the head: softcapped cross-entropy in chunks, so that the N x V logits never exist at once.

Shape legend: N tokens, C tokens of one chunk, D model width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = {"cpu": 512, "cuda": 8192}
"""Default chunk by device: on a CPU one chunk of logits should stay in the cache."""
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

    With y = c tanh(z / c) and p = softmax(y): d loss / d z = weight * (p - onehot) * (1 - (y / c)^2).
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
        head = head_weight_VD.to(compute_dtype)
        total = torch.zeros((), dtype=_wide(compute_dtype), device=hidden_ND.device)
        dhidden_ND = torch.empty_like(hidden_ND) if wants_gradient else None
        dhead_VD = torch.zeros_like(head_weight_VD) if wants_gradient else None
        for start in range(0, hidden_ND.size(0), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            hidden_CD, targets_C1, weights_C = hidden_ND[part].to(compute_dtype), targets_N[part, None], weights_N[part]
            tanh_CV = (hidden_CD @ head.T).to(total.dtype).div_(softcap).tanh_()
            p_CV = tanh_CV * softcap
            target_logit_C = p_CV.gather(1, targets_C1).squeeze(1)
            # No maximum is subtracted: the soft cap bounds the logits, exp(softcap) cannot overflow.
            sum_C = p_CV.exp_().sum(1)
            total += (weights_N[part] * (sum_C.log() - target_logit_C)).sum()
            if dhidden_ND is None or dhead_VD is None:
                continue
            p_CV *= (weights_C / sum_C)[:, None]
            p_CV.scatter_add_(1, targets_C1, -weights_C[:, None].to(p_CV.dtype))
            # p * (1 - tanh^2) = p - p * tanh * tanh
            dlogits_CV = p_CV.addcmul_(p_CV * tanh_CV, tanh_CV, value=-1).to(compute_dtype)
            dhidden_ND[part] = dlogits_CV @ head
            dhead_VD += dlogits_CV.T @ hidden_CD
            del tanh_CV, p_CV, dlogits_CV  # else they would stay while the next chunk's are made
        if wants_gradient:
            ctx.save_for_backward(dhidden_ND, dhead_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dhidden_ND, dhead_VD = ctx.saved_tensors
        return dhidden_ND * grads[0], dhead_VD * grads[0], None, None, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
