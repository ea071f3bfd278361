"""Loss laws of step 0: what a compute budget buys, before anything has been trained."""

import math

from pipeline_math.interval import Interval, lognormal_interval

BPB_AT_1E18 = 0.8972
"""Bits per byte of the best model of 1e18 FLOPs on web text, V = 32,768 (karpathy/nanochat, log of 2026-01-27)."""
BPB_EXPONENT = 0.04985
"""ln(0.8972 / 0.7999) / ln 10: bits per byte fall by this power of compute (0.7999 at 1e19 FLOPs, same log)."""
BEST_RATIO = 10.5
"""Tokens per scaling parameter at the measured iso-FLOP optimum, 10.3 to 11.2 in the same log."""
FITTED_FLOPS = (1.0e18, 4.4e19)
"""Range of compute in which the law was fitted and checked (0.6 % off at its upper end)."""
FITTED_LOG_SD = 0.02
"""Accepted error of the law inside that range, other data of the same kind."""
LOG_SD_PER_E_FOLD_OUTSIDE = 0.03
"""ASSUMPTION: growth of the error per factor e of compute outside the range; other text and tokenizers dominate it."""

# Besiroglu 2024 (arXiv 2404.10102), correcting approach 3 of Hoffmann 2022 (arXiv 2203.15556): nats per token, N = all
# parameters.
CHINCHILLA_A, CHINCHILLA_B, CHINCHILLA_ALPHA, CHINCHILLA_BETA = 482.01, 2085.43, 0.3478, 0.3658
CHINCHILLA_E = 1.8172


def isoflop_bits_per_byte(train_flops: float) -> float:
    """bpb(C) = 0.8972 (C / 1e18)^-0.04985, at the best ratio of tokens to parameters."""
    return BPB_AT_1E18 * (train_flops / 1.0e18) ** -BPB_EXPONENT


def expected_bits_per_byte(train_flops: float, penalty: float = 1.0) -> Interval:
    """`isoflop_bits_per_byte` times an off-ratio penalty, with a 90 % interval that widens outside the fitted range."""
    low, high = FITTED_FLOPS
    outside = max(0.0, math.log(low / train_flops), math.log(train_flops / high))
    value = penalty * isoflop_bits_per_byte(train_flops)
    return lognormal_interval(value, FITTED_LOG_SD + LOG_SD_PER_E_FOLD_OUTSIDE * outside)


def chinchilla_loss(parameters: float, tokens: float) -> float:
    """E + A / N^alpha + B / D^beta in nats per token, N = all parameters, corpus MassiveText (Hoffmann 2022)."""
    return CHINCHILLA_E + CHINCHILLA_A / parameters**CHINCHILLA_ALPHA + CHINCHILLA_B / tokens**CHINCHILLA_BETA


def chinchilla_optimum(train_flops: float) -> tuple[float, float]:
    """(parameters, tokens) of least `chinchilla_loss` at C = 6 N D. Use only as a shape at our scale."""
    exponent_sum = CHINCHILLA_ALPHA + CHINCHILLA_BETA
    scale = (CHINCHILLA_ALPHA * CHINCHILLA_A / (CHINCHILLA_BETA * CHINCHILLA_B)) ** (1.0 / exponent_sum)
    product = train_flops / 6.0
    parameters = scale * product ** (CHINCHILLA_BETA / exponent_sum)
    return parameters, product / parameters
