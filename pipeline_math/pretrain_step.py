"""Steps 5 and 5b, training: throughput, batch size, learning-rate scale, Muon's cost, checkpoint interval."""

import math

BATCH_AT_REFERENCE = 2**19
"""Tokens per step of the reference run, a d12 of karpathy/nanochat."""
TOKENS_AT_REFERENCE = 1.32e9
"""Training tokens of the reference run."""
BATCH_EXPONENT = 0.383
"""Growth of the best batch with training tokens, Power Lines (arXiv 2505.13738)."""
NEWTON_SCHULZ_STEPS = 5
"""Iterations that orthogonalise an update."""


def mfu(tokens_per_second: float, train_flops_per_token: float, devices: int, peak_flops: float) -> float:
    """Model-FLOPs utilisation, tok/s * F / (n P), as a share. Name F's convention beside it."""
    return tokens_per_second * train_flops_per_token / (devices * peak_flops)


def tokens_per_second(mfu: float, train_flops_per_token: float, devices: int, peak_flops: float) -> float:
    """Throughput of all devices together, n P m / F, in tokens/s."""
    return mfu * devices * peak_flops / train_flops_per_token


def train_seconds(total_flops: float, devices: int, peak_flops: float, mfu: float) -> float:
    """Seconds of C training FLOPs, C / (n P m). Left out: start-up, evaluation, checkpoints."""
    return total_flops / (devices * peak_flops * mfu)


def power_lines_batch_tokens(train_tokens: float) -> int:
    """Tokens per step, 2^round(log2(2^19 (D / D_d12)^0.383)). Not validated far below 0.1 B tokens."""
    return 2 ** round(math.log2(BATCH_AT_REFERENCE * (train_tokens / TOKENS_AT_REFERENCE) ** BATCH_EXPONENT))


def learning_rate_factor(batch_tokens: float) -> float:
    """Factor on all learning rates, sqrt(B / 2^19) (nanochat). ASSUMPTION there: Muon follows AdamW's rule."""
    return math.sqrt(batch_tokens / BATCH_AT_REFERENCE)


def width_learning_rate_factor(d_model: int) -> float:
    """Factor on the AdamW learning rates of a wider or narrower model, (d / 768)^-0.5 (nanochat)."""
    return (d_model / 768.0) ** -0.5


def muon_weight_decay(batch_tokens: float, train_tokens: float, ceiling: float = 0.28) -> float:
    """0.28 sqrt(B / 2^19) D_d12 / D, clamped (rule of nanochat): without the clamp it exceeds 1 at small scale."""
    return min(ceiling, 0.28 * learning_rate_factor(batch_tokens) * TOKENS_AT_REFERENCE / train_tokens)


def critical_batch_tokens(loss_nats: float) -> float:
    """Kaplan's critical batch in tokens, 2e8 L^(-1/0.21) (arXiv 2001.08361, not checked against the paper)."""
    return 2.0e8 * loss_nats ** (-1.0 / 0.21)


def gradient_noise(
    small_batch: float, small_norm_sq: float, large_batch: float, large_norm_sq: float
) -> tuple[float, float]:
    """(|G|^2, tr Sigma) from squared gradient norms at two batch sizes (arXiv 1812.06162, appendix A.1).

    Their quotient tr Sigma / |G|^2 is the simple critical batch, in the unit of the batch sizes.
    """
    signal = (large_batch * large_norm_sq - small_batch * small_norm_sq) / (large_batch - small_batch)
    noise = (small_norm_sq - large_norm_sq) / (1.0 / small_batch - 1.0 / large_batch)
    return signal, noise


def newton_schulz_flops(rows: int, columns: int) -> float:
    """FLOPs of one Muon orthogonalisation, 5 (4 m^2 n + 2 m^3) with m <= n."""
    small, large = sorted((rows, columns))
    return NEWTON_SCHULZ_STEPS * (4.0 * small**2 * large + 2.0 * small**3)


def muon_step_flops(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, mlp_width: int) -> float:
    """FLOPs of orthogonalising all block matrices once, on every rank: 300 L d^3 at MLP 4 d."""
    kv_width = n_kv_heads * (d_model // n_heads)
    square, keys_values = newton_schulz_flops(d_model, d_model), newton_schulz_flops(kv_width, d_model)
    return n_layers * (2 * square + 2 * keys_values + 2 * newton_schulz_flops(mlp_width, d_model))


def muon_relative_cost(rows: int, columns: int, batch_tokens: float) -> float:
    """Newton-Schulz FLOPs of a matrix over its 6 m n B training FLOPs of one step."""
    return newton_schulz_flops(rows, columns) / (6.0 * rows * columns * batch_tokens)


def checkpoint_interval_seconds(write_seconds: float, mean_seconds_between_failures: float) -> float:
    """Young-Daly interval, sqrt(2 delta M): the least time lost to writing and to repeating."""
    return math.sqrt(2.0 * write_seconds * mean_seconds_between_failures)


def accumulation_steps(batch_tokens: int, micro_batch_rows: int, tokens_per_row: int, devices: int) -> int:
    """Micro-batches per optimizer step and device; ValueError unless it is a whole number."""
    per_pass = micro_batch_rows * tokens_per_row * devices
    if batch_tokens <= 0 or batch_tokens % per_pass:
        raise ValueError(
            f"batch_tokens={batch_tokens} is no multiple of micro_batch_rows={micro_batch_rows} * "
            f"tokens_per_row={tokens_per_row} * devices={devices} = {per_pass}"
        )
    return batch_tokens // per_pass
