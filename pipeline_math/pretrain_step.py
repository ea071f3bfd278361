"""Steps 5 and 5b, training: throughput, batch size, learning-rate scale, Muon's cost, checkpoints and failures."""

import math

from pipeline_math.checks import checked, positive, whole

BATCH_AT_REFERENCE = 2**19
"""Tokens per step of the reference run, a d12 of karpathy/nanochat."""
TOKENS_AT_REFERENCE = 1.32e9
"""Training tokens of the reference run."""
WIDTH_AT_REFERENCE = 768
"""Its channels."""
BATCH_EXPONENT = 0.383
"""Growth of the best batch with training tokens, Power Lines (arXiv 2505.13738)."""
LEAST_LEARNING_RATE_FACTOR = 0.75
"""Factor on all learning rates below which small batches only lost, see `bounded_learning_rate_factor`."""
NEWTON_SCHULZ_STEPS = 5
"""Iterations that orthogonalise an update."""


def mfu(tokens_per_second: float, train_flops_per_token: float, devices: int, peak_flops: float) -> float:
    """Model-FLOPs utilisation, tok/s * F / (n P), as a share. Name F's convention beside it."""
    positive(tokens_per_second=tokens_per_second, train_flops_per_token=train_flops_per_token)
    positive(devices=devices, peak_flops=peak_flops)
    return tokens_per_second * train_flops_per_token / (devices * peak_flops)


@checked
def hfu(
    tokens_per_second: float,
    train_flops_per_token: float,
    recomputed_flops_per_token: float,
    devices: int,
    peak_flops: float,
) -> float:
    """Hardware-FLOPs utilisation: MFU with what is computed twice (`model_flops_vram`) counted as work; >= MFU."""
    return mfu(tokens_per_second, train_flops_per_token + recomputed_flops_per_token, devices, peak_flops)


def tokens_per_second(mfu: float, train_flops_per_token: float, devices: int, peak_flops: float) -> float:
    """Throughput of all devices together, n P m / F, in tokens/s."""
    positive(mfu=mfu, train_flops_per_token=train_flops_per_token, devices=devices, peak_flops=peak_flops)
    return mfu * devices * peak_flops / train_flops_per_token


@checked
def train_seconds(total_flops: float, devices: int, peak_flops: float, mfu: float) -> float:
    """Seconds of C training FLOPs, C / (n P m). Left out: start-up, evaluation, checkpoints."""
    positive(devices=devices, peak_flops=peak_flops, mfu=mfu)
    return total_flops / (devices * peak_flops * mfu)


def power_lines_batch_tokens(train_tokens: float) -> int:
    """Tokens per step, 2^round(log2(2^19 (D / D_d12)^0.383)). Not validated far below 0.1 B tokens."""
    positive(train_tokens=train_tokens)
    return 2 ** round(math.log2(BATCH_AT_REFERENCE * (train_tokens / TOKENS_AT_REFERENCE) ** BATCH_EXPONENT))


@checked
def learning_rate_factor(batch_tokens: float) -> float:
    """sqrt(B / 2^19), the rule of nanochat. ASSUMPTION there: Muon follows AdamW's rule."""
    return math.sqrt(batch_tokens / BATCH_AT_REFERENCE)


@checked
def bounded_learning_rate_factor(batch_tokens: float, least: float = LEAST_LEARNING_RATE_FACTOR) -> float:
    """Factor on all learning rates: sqrt(B / 2^19) where that was made, constant below 2^19 least^2 (0.3 M) tokens.

    The square root says 0.125 at 8,192 tokens and 0.0625 at 2,048. Measured there (docs/experiments.md, d4, 0.5 to
    3 M tokens): bits per byte fell up to the factor 1.0, and 0.75 at 2,048 tokens taught what the rule did not; at d2
    the matrices alone were best at 1.5 of 0.75, 1.5 and 3 (one seed, 80 steps). Between 8,192 and 2^18 tokens nothing
    was measured: the constant joins the two ranges and is an interpolation.
    """
    return max(least, learning_rate_factor(batch_tokens))


def width_learning_rate_factor(d_model: int) -> float:
    """Factor on the AdamW learning rates of a wider or narrower model, (d / 768)^-0.5 (nanochat)."""
    positive(d_model=d_model)
    return (d_model / WIDTH_AT_REFERENCE) ** -0.5


@checked
def muon_weight_decay(batch_tokens: float, train_tokens: float, ceiling: float = 0.28) -> float:
    """0.28 sqrt(B / 2^19) D_d12 / D, clamped (rule of nanochat): without the clamp it exceeds 1 at small scale."""
    positive(train_tokens=train_tokens)
    return min(ceiling, 0.28 * learning_rate_factor(batch_tokens) * TOKENS_AT_REFERENCE / train_tokens)


def critical_batch_tokens(loss_nats: float) -> float:
    """Kaplan's critical batch in tokens, 2e8 L^(-1/0.21) (arXiv 2001.08361, not checked against the paper)."""
    positive(loss_nats=loss_nats)
    return 2.0e8 * loss_nats ** (-1.0 / 0.21)


@checked
def steps_and_tokens(
    batch_tokens: float, critical_batch: float, least_steps: float, least_tokens: float | None = None
) -> tuple[float, float]:
    """(S, E): steps S_min (1 + B_crit / B) and tokens E_min (1 + B / B_crit) to one loss at batch B.

    (S / S_min - 1)(E / E_min - 1) = 1, and E_min = B_crit S_min unless given (arXiv 1812.06162, recalled). At
    B = B_crit both are twice their least.
    """
    positive(batch_tokens=batch_tokens, critical_batch=critical_batch)
    tokens = critical_batch * least_steps if least_tokens is None else least_tokens
    return least_steps * (1 + critical_batch / batch_tokens), tokens * (1 + batch_tokens / critical_batch)


@checked
def gradient_noise(
    small_batch: float, small_norm_sq: float, large_batch: float, large_norm_sq: float
) -> tuple[float, float]:
    """(|G|^2, tr Sigma) from squared gradient norms at two batch sizes (arXiv 1812.06162, appendix A.1).

    Their quotient tr Sigma / |G|^2 is the simple critical batch, in the unit of the batch sizes. Unbiased, so one
    pair of noisy norms may give a negative estimate: average both over steps before dividing.
    """
    positive(small_batch=small_batch)
    if large_batch <= small_batch:
        raise ValueError(f"large_batch={large_batch}: allowed are sizes above small_batch={small_batch}")
    signal = (large_batch * large_norm_sq - small_batch * small_norm_sq) / (large_batch - small_batch)
    noise = (small_norm_sq - large_norm_sq) / (1.0 / small_batch - 1.0 / large_batch)
    return signal, noise


@checked
def newton_schulz_flops(rows: int, columns: int) -> float:
    """FLOPs of one Muon orthogonalisation, 5 (4 m^2 n + 2 m^3) with m <= n."""
    small, large = sorted((rows, columns))
    return NEWTON_SCHULZ_STEPS * (4.0 * small**2 * large + 2.0 * small**3)


@checked
def muon_step_flops(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, mlp_width: int) -> float:
    """FLOPs of orthogonalising all block matrices once, on every rank: 300 L d^3 at MLP 4 d."""
    positive(n_heads=n_heads)
    kv_width = n_kv_heads * (d_model // n_heads)
    square, keys_values = newton_schulz_flops(d_model, d_model), newton_schulz_flops(kv_width, d_model)
    return n_layers * (2 * square + 2 * keys_values + 2 * newton_schulz_flops(mlp_width, d_model))


def muon_relative_cost(rows: int, columns: int, batch_tokens: float) -> float:
    """Newton-Schulz FLOPs of a matrix over its 6 m n B training FLOPs of one step."""
    positive(rows=rows, columns=columns, batch_tokens=batch_tokens)
    return newton_schulz_flops(rows, columns) / (6.0 * rows * columns * batch_tokens)


@checked
def checkpoint_interval_seconds(write_seconds: float, mean_seconds_between_failures: float) -> float:
    """Young-Daly interval, sqrt(2 delta M): the least time lost to writing and to repeating."""
    return math.sqrt(2.0 * write_seconds * mean_seconds_between_failures)


@checked
def checkpoint_overhead_share(write_seconds: float, interval_seconds: float) -> float:
    """Share of the time that goes into writing, delta / tau."""
    positive(interval_seconds=interval_seconds)
    return write_seconds / interval_seconds


@checked
def lost_share(write_seconds: float, interval_seconds: float, mean_seconds_between_failures: float) -> float:
    """Writing and repeating, delta / tau + tau / 2M, to first order: twice the overhead at the Young-Daly interval."""
    positive(mean_seconds_between_failures=mean_seconds_between_failures)
    repeated = interval_seconds / (2.0 * mean_seconds_between_failures)
    return checkpoint_overhead_share(write_seconds, interval_seconds) + repeated


@checked
def expected_seconds_with_failures(
    work_seconds: float,
    interval_seconds: float,
    write_seconds: float,
    restart_seconds: float,
    mean_seconds_between_failures: float,
) -> float:
    """Expected wall clock of a run that fails again and again, M e^(R/M) (e^((tau + delta)/M) - 1) W / tau.

    Failures are exponential with mean M and may hit writing and restarting, too; every W / tau segments end in a
    checkpoint (Daly 2006, Future Generation Computer Systems 22). ValueError where no end is in sight (exponent > 50).
    """
    positive(interval_seconds=interval_seconds, mean_seconds_between_failures=mean_seconds_between_failures)
    mean = mean_seconds_between_failures
    segment = (interval_seconds + write_seconds) / mean
    if segment + restart_seconds / mean > 50:
        raise ValueError(
            f"interval_seconds={interval_seconds} with mean_seconds_between_failures={mean}: a segment is practically "
            f"never finished; next: save every {checkpoint_interval_seconds(write_seconds, mean):.3g} s"
        )
    return mean * math.exp(restart_seconds / mean) * math.expm1(segment) * work_seconds / interval_seconds


def accumulation_steps(batch_tokens: int, micro_batch_rows: int, tokens_per_row: int, devices: int) -> int:
    """Micro-batches per optimizer step and device; ValueError unless it is a whole number."""
    whole(1, micro_batch_rows=micro_batch_rows, tokens_per_row=tokens_per_row, devices=devices)
    per_pass = micro_batch_rows * tokens_per_row * devices
    if batch_tokens <= 0 or batch_tokens % per_pass:
        raise ValueError(
            f"batch_tokens={batch_tokens} is no multiple of micro_batch_rows={micro_batch_rows} * "
            f"tokens_per_row={tokens_per_row} * devices={devices} = {per_pass}"
        )
    return batch_tokens // per_pass
