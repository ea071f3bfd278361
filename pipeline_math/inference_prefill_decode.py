"""Step 9, inference: KV cache, time to first token, time per token, and the batch where decoding turns compute bound.

Floors, not forecasts: decoding one sequence on a GPU is bound by kernel launches until they are captured in a graph,
and a small model on a CPU by the cost of each operation. Formulas as in kipp.ly, "Transformer
inference arithmetic", and Pope 2022 (arXiv 2211.05102).
"""


def kv_bytes_per_token(n_layers: int, n_kv_heads: int, head_dim: int, bytes_per_element: int) -> int:
    """Bytes of keys and values one token leaves in the cache, 2 L Hkv q b."""
    return 2 * n_layers * n_kv_heads * head_dim * bytes_per_element


def kv_cache_bytes(kv_bytes_per_token: int, tokens: int, sequences: int) -> int:
    """Bytes of the whole cache for `sequences` of `tokens` each."""
    return kv_bytes_per_token * tokens * sequences


def prefill_flops(scaling_parameters: float, n_layers: int, d_model: int, prompt_tokens: int) -> float:
    """FLOPs to read a prompt, 2 N T + 4 L d T (T + 1) / 2: attention counted causally."""
    attention = 4.0 * n_layers * d_model * prompt_tokens * (prompt_tokens + 1) / 2.0
    return 2.0 * scaling_parameters * prompt_tokens + attention


def prefill_seconds_floor(flops: float, peak_flops: float, mfu: float) -> float:
    """Least time to the first token, FLOPs / (P MFU). Left out: queue, tokenizer, sampling."""
    return flops / (peak_flops * mfu)


def decode_seconds_per_token_floor(weight_bytes: float, kv_bytes: float, bandwidth_bytes_per_second: float) -> float:
    """Least time of one decode step, (W + KV read) / BW: every weight and every cached key is read once.

    `weight_bytes` counts blocks and head (the embedding table is only looked up); `kv_bytes` counts all sequences.
    """
    return (weight_bytes + kv_bytes) / bandwidth_bytes_per_second


def model_bandwidth_utilisation(moved_bytes: float, seconds: float, bandwidth_bytes_per_second: float) -> float:
    """MBU, the share of memory bandwidth a decode step used."""
    return moved_bytes / (seconds * bandwidth_bytes_per_second)


def ridge_batch(peak_flops: float, bandwidth_bytes_per_second: float, bytes_per_element: int) -> float:
    """Sequences from which decoding is compute bound, P / BW * b / 2; below, batching is nearly free."""
    return peak_flops / bandwidth_bytes_per_second * bytes_per_element / 2.0


def matmul_intensity(rows: int, inner: int, columns: int, bytes_per_element: int) -> float:
    """FLOPs per byte of an (M, K, N) matrix product, 2 M K N / (b (M K + K N + M N))."""
    moved = bytes_per_element * (rows * inner + inner * columns + rows * columns)
    return 2.0 * rows * inner * columns / moved
