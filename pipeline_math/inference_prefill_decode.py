"""Step 9, inference: KV cache, time to first token, time per token, and the batch where decoding turns compute bound.

Floors, not forecasts: prefill is compute bound, decoding reads every weight once per step and is bandwidth bound, and
below that stands the time to launch the operations (latency), which decides for one sequence on a GPU without captured
graphs and for a small model on a CPU. Formulas as in kipp.ly, "Transformer inference arithmetic", and Pope 2022
(arXiv 2211.05102). N counts blocks and head: what multiplies the token stream; the embedding table is looked up.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline_math.checks import checked, not_negative, positive, share, whole


@dataclass(frozen=True)
class Decoder:
    """What the arithmetic needs to know of a model. Every sequence has the same length."""

    scaling_parameters: float
    """N."""
    n_layers: int
    d_model: int
    weight_bytes: float
    """Bytes read per decode step: blocks and head as stored for inference."""
    kv_bytes_per_token: float

    def __post_init__(self) -> None:
        positive(scaling_parameters=self.scaling_parameters, weight_bytes=self.weight_bytes)
        positive(kv_bytes_per_token=self.kv_bytes_per_token)
        whole(1, n_layers=self.n_layers, d_model=self.d_model)


@dataclass(frozen=True)
class Machine:
    """One device, with peaks or with measured rates; a floor is as good as they are."""

    flops_per_second: float
    bandwidth_bytes_per_second: float
    step_overhead_seconds: float = 0.0
    """Launch time of all operations of a step: operations * seconds each, e.g. 200 * 4e-6 on a GPU without graphs."""

    def __post_init__(self) -> None:
        positive(flops_per_second=self.flops_per_second, bandwidth_bytes_per_second=self.bandwidth_bytes_per_second)
        not_negative(step_overhead_seconds=self.step_overhead_seconds)


@dataclass(frozen=True)
class DecodePoint:
    """One batch size of the curve of throughput against batch."""

    batch: int
    seconds_per_step: float
    tokens_per_second: float
    """Of all sequences together."""
    bound: str
    """"bandwidth", "compute" or "latency": what takes longest."""


@checked
def kv_bytes_per_token(n_layers: int, n_kv_heads: int, head_dim: int, bytes_per_element: int) -> int:
    """Bytes of keys and values one token leaves in the cache, 2 L Hkv q b."""
    whole(1, n_layers=n_layers, n_kv_heads=n_kv_heads, head_dim=head_dim, bytes_per_element=bytes_per_element)
    return 2 * n_layers * n_kv_heads * head_dim * bytes_per_element


@checked
def kv_cache_bytes(kv_bytes_per_token: int, tokens: int, sequences: int) -> int:
    """Bytes of the whole cache for `sequences` of `tokens` each. Left out: blocks that are only partly filled."""
    return kv_bytes_per_token * tokens * sequences


@checked
def max_concurrent_sequences(
    memory_bytes: float,
    resident_bytes: float,
    kv_bytes_per_token: int,
    tokens_per_sequence: int,
    usable_share: float = 1.0,
) -> int:
    """Most sequences whose cache fits beside what is resident: (u M - W) / (KV per token * tokens), rounded down.

    `resident_bytes` W are all weights, the embedding table included, and the context of the device; u is the share of
    the memory to plan with. 0 if not even one fits. Left out: activations of the prefill.
    """
    share(usable_share=usable_share)
    whole(1, kv_bytes_per_token=kv_bytes_per_token, tokens_per_sequence=tokens_per_sequence)
    free = usable_share * memory_bytes - resident_bytes
    return max(0, int(free / kv_cache_bytes(kv_bytes_per_token, tokens_per_sequence, 1)))


@checked
def prefill_flops(scaling_parameters: float, n_layers: int, d_model: int, prompt_tokens: int) -> float:
    """FLOPs to read a prompt, 2 N T + 4 L d T (T + 1) / 2: attention counted causally."""
    attention = 4.0 * n_layers * d_model * prompt_tokens * (prompt_tokens + 1) / 2.0
    return 2.0 * scaling_parameters * prompt_tokens + attention


@checked
def decode_flops_per_token(scaling_parameters: float, n_layers: int, d_model: int, context_tokens: float) -> float:
    """FLOPs of one new token, 2 N + 4 L d T, T the tokens it attends to."""
    return 2.0 * scaling_parameters + 4.0 * n_layers * d_model * context_tokens


@checked
def prefill_seconds_floor(flops: float, peak_flops: float, mfu: float) -> float:
    """Least time to the first token, FLOPs / (P MFU). Left out: queue, tokenizer, sampling."""
    positive(peak_flops=peak_flops, mfu=mfu)
    share(mfu=mfu)
    return flops / (peak_flops * mfu)


@checked
def decode_seconds_per_token_floor(weight_bytes: float, kv_bytes: float, bandwidth_bytes_per_second: float) -> float:
    """Least time of one decode step, (W + KV read) / BW: every weight and every cached key is read once.

    `weight_bytes` counts blocks and head (the embedding table is only looked up); `kv_bytes` counts all sequences.
    """
    positive(bandwidth_bytes_per_second=bandwidth_bytes_per_second)
    return (weight_bytes + kv_bytes) / bandwidth_bytes_per_second


@checked
def decode_point(model: Decoder, machine: Machine, batch: int, context_tokens: float) -> DecodePoint:
    """One decode step of `batch` sequences: the longest of reading, computing and launching.

    max((W + B KV T) / BW, B (2 N + 4 L d T) / P, overhead): the three are taken to overlap completely, so this is a
    floor; without any overlap the step takes their sum, at most three times as long.
    """
    whole(1, batch=batch)
    kv_bytes = batch * model.kv_bytes_per_token * context_tokens
    flops = decode_flops_per_token(model.scaling_parameters, model.n_layers, model.d_model, context_tokens)
    seconds = {
        "bandwidth": decode_seconds_per_token_floor(model.weight_bytes, kv_bytes, machine.bandwidth_bytes_per_second),
        "compute": batch * flops / machine.flops_per_second,
        "latency": machine.step_overhead_seconds,
    }
    bound = max(seconds, key=seconds.__getitem__)
    return DecodePoint(batch, seconds[bound], batch / seconds[bound], bound)


def throughput_curve(
    model: Decoder, machine: Machine, batches: Iterable[int], context_tokens: float
) -> list[DecodePoint]:
    """`decode_point` for every batch: tokens/s rise almost in proportion until KV reads or compute take over."""
    not_negative(context_tokens=context_tokens)
    return [decode_point(model, machine, batch, context_tokens) for batch in batches]


@checked
def decode_seconds(new_tokens: float, seconds_per_decode_step: float, sequences: int, batch: int) -> float:
    """Seconds to decode `new_tokens` for each of `sequences`, n TPOT(B) ceil(sequences / B).

    Batches run one after the other and each to its end. Left out: prefill, and rows that end early.
    """
    whole(1, batch=batch)
    return new_tokens * seconds_per_decode_step * math.ceil(sequences / batch)


@checked
def model_bandwidth_utilisation(moved_bytes: float, seconds: float, bandwidth_bytes_per_second: float) -> float:
    """MBU, the share of memory bandwidth a decode step used: bytes moved / (t BW)."""
    positive(seconds=seconds, bandwidth_bytes_per_second=bandwidth_bytes_per_second)
    return moved_bytes / (seconds * bandwidth_bytes_per_second)


@checked
def ridge_batch(peak_flops: float, bandwidth_bytes_per_second: float, bytes_per_element: float) -> float:
    """Sequences from which reading weights no longer bounds decoding, P / BW * b / 2; below, batching is nearly free.

    Left out: KV reads, which grow with the batch and keep attention bandwidth bound at every size.
    """
    positive(peak_flops=peak_flops, bandwidth_bytes_per_second=bandwidth_bytes_per_second)
    positive(bytes_per_element=bytes_per_element)
    return peak_flops / bandwidth_bytes_per_second * bytes_per_element / 2.0


@checked
def matmul_intensity(rows: int, inner: int, columns: int, bytes_per_element: float) -> float:
    """FLOPs per byte of an (M, K, N) matrix product, 2 M K N / (b (M K + K N + M N))."""
    whole(1, rows=rows, inner=inner, columns=columns)
    positive(bytes_per_element=bytes_per_element)
    moved = bytes_per_element * (rows * inner + inner * columns + rows * columns)
    return 2.0 * rows * inner * columns / moved
