"""Public examples of 09_inference_prefill_decode_math.md: a d20 in bf16 on an H200 and an H100."""

from dataclasses import replace

from pipeline_math.documents.levers import BF16_BYTES, D20, case, device, target
from pipeline_math.documents.number import Number, compute, constant, over
from pipeline_math.documents.table import Cell, Quoted, Shown, Table
from pipeline_math.inference_prefill_decode import (
    Decoder,
    Machine,
    decode_point,
    decode_seconds_per_token_floor,
    kv_bytes_per_token,
    kv_cache_bytes,
    matmul_intensity,
    max_concurrent_sequences,
    prefill_flops,
    prefill_seconds_floor,
    ridge_batch,
)
from pipeline_math.model_flops_vram import ModelShape, scaling_parameters, total_parameters

CONTEXT_TOKENS = 2048
"""Chosen: a full row."""
SHORT_CONTEXT_TOKENS = 128
"""Chosen: a short question and half its answer."""
SEQUENCES = 64
"""Chosen: sequences of a busy server."""
BATCHES = (1, 8, 64, 256, 1024)
"""Chosen: points of the curve of throughput."""
KEY_VALUE_HEADS = (10, 5, 2, 1)
"""Chosen: from one per query head to one for all."""
FEW_HEADS = 2
"""Chosen: five query heads share one."""
EIGHT_BIT_BYTES = 1
"""Bytes of a weight stored in eight bits."""


def decoder(shape: ModelShape, weight_bytes_each: int = BF16_BYTES) -> Decoder:
    """The model as the arithmetic sees it, its cache in bf16."""
    cache = kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, BF16_BYTES)
    weights = scaling_parameters(shape)
    return Decoder(weights, shape.n_layers, shape.d_model, weight_bytes_each * weights, cache)


def machine(name: str, graphs: bool = True) -> Machine:
    """A device class at its peaks; without captured graphs every kernel of a step is launched on its own."""
    launches = 0.0 if graphs else case("KERNELS_PER_STEP").value * case("KERNEL_SECONDS").value
    peak, bandwidth = (device(name, field, "").value for field in ("peak_flops_bf16", "bandwidth_bytes_per_second"))
    return Machine(peak, bandwidth, launches)


def with_key_value_heads(heads: int) -> ModelShape:
    """The d20 with fewer key-value heads, everything else equal."""
    return replace(D20, n_kv_heads=heads)


def crossing_tokens(weight_bytes: float, kv_bytes: float, sequences: int) -> float:
    """Context at which all caches together weigh as much as the weights, W / (B KV)."""
    return weight_bytes / (kv_bytes * sequences)


def _point(
    shape: ModelShape,
    batch: int,
    pick: str,
    *,
    graphs: bool = True,
    each: int = BF16_BYTES,
    context: int = CONTEXT_TOKENS,
) -> Number:
    unit = "s" if pick == "seconds_per_step" else "tokens/s"
    return compute(decode_point, decoder(shape, each), machine("h200", graphs), batch, context, unit=unit, pick=pick)


def _kv(shape: ModelShape) -> Number:
    return compute(kv_bytes_per_token, shape.n_layers, shape.n_kv_heads, shape.head_dim, BF16_BYTES, unit="B/token")


def _cache(shape: ModelShape) -> Number:
    return compute(kv_cache_bytes, int(_kv(shape).value), CONTEXT_TOKENS, SEQUENCES, unit="B")


def _fitting(shape: ModelShape) -> Number:
    memory, weights = device("h200", "memory_bytes", "B"), BF16_BYTES * total_parameters(shape)
    return compute(max_concurrent_sequences, memory, weights, int(_kv(shape).value), CONTEXT_TOKENS, unit="")


def public() -> dict[str, Number | Table]:
    """The numbers of the text."""
    flops = compute(prefill_flops, scaling_parameters(D20), D20.n_layers, D20.d_model, CONTEXT_TOKENS, unit="FLOP")
    reached, weights = device("h200", "mfu", "share"), BF16_BYTES * scaling_parameters(D20)
    one = compute(kv_cache_bytes, int(_kv(D20).value), CONTEXT_TOKENS, 1, unit="B")
    floors, ridges = {}, {}
    for name in ("h200", "h100"):
        peak, bandwidth = device(name, "peak_flops_bf16", "FLOP/s"), device(name, "bandwidth_bytes_per_second", "B/s")
        floors[name] = compute(decode_seconds_per_token_floor, weights, one, bandwidth, unit="s")
        ridges[name] = compute(ridge_batch, peak, bandwidth, BF16_BYTES, unit="")
    return {
        "d20_kv": _kv(D20),
        "d20_context": constant("documents.step_09_public.CONTEXT_TOKENS", "tokens"),
        "d20_short": constant("documents.step_09_public.SHORT_CONTEXT_TOKENS", "tokens"),
        "d20_sequences": constant("documents.step_09_public.SEQUENCES", ""),
        "d20_cache": _cache(D20),
        "d20_cache_grouped": _cache(with_key_value_heads(FEW_HEADS)),
        "d20_prefill": flops,
        "d20_mfu": reached,
        "d20_ttft": compute(
            prefill_seconds_floor, flops, device("h200", "peak_flops_bf16", "FLOP/s"), reached, unit="s"
        ),
        "d20_weights": compute(scaling_bytes, D20, unit="B"),
        "d20_step": floors["h200"],
        "d20_step_h100": floors["h100"],
        "kernels": case("KERNELS_PER_STEP"),
        "kernel_seconds": case("KERNEL_SECONDS"),
        "d20_launched": _point(D20, 1, "seconds_per_step", graphs=False),
        "ridge_h200": ridges["h200"],
        "ridge_h100": ridges["h100"],
        "intensity_one": compute(matmul_intensity, 1, D20.d_model, D20.mlp_width, BF16_BYTES, unit="FLOP/B"),
        "intensity_many": compute(matmul_intensity, SEQUENCES, D20.d_model, D20.mlp_width, BF16_BYTES, unit="FLOP/B"),
        "machine_intensity": over(
            device("h200", "peak_flops_bf16", "FLOP/s"), device("h200", "bandwidth_bytes_per_second", "B/s"), "FLOP/B"
        ),
        "crossing": compute(crossing_tokens, weights, _kv(D20), SEQUENCES, unit="tokens"),
    }


def scaling_bytes(shape: ModelShape) -> float:
    """Bytes of blocks and head in bf16: what a decode step reads."""
    return BF16_BYTES * scaling_parameters(shape)


def public_batches() -> Table:
    """Throughput against batch, with captured graphs and without."""
    lines: list[list[Cell]] = []
    for batch in BATCHES:
        point = decode_point(decoder(D20), machine("h200"), batch, CONTEXT_TOKENS)
        lines.append(
            [
                Quoted(f"{batch:,}"),
                _point(D20, batch, "seconds_per_step"),
                _point(D20, batch, "tokens_per_second"),
                point.bound,
                _point(D20, batch, "tokens_per_second", graphs=False),
                _point(D20, batch, "tokens_per_second", context=SHORT_CONTEXT_TOKENS),
            ]
        )
    header = ("sequences", "step", "tokens", "bound by", "tokens, launched singly", "tokens, short context")
    return Table(header, lines, "rrrlrr")


def public_groups() -> Table:
    """Fewer key-value heads: cache, sequences that fit, throughput."""
    lines: list[list[Cell]] = []
    for heads in KEY_VALUE_HEADS:
        shape = with_key_value_heads(heads)
        rate = _point(shape, SEQUENCES, "tokens_per_second")
        lines.append([Quoted(str(heads)), _kv(shape), _cache(shape), Shown(_fitting(shape), ","), rate])
    return Table(("key-value heads", "cache per token", "cache", "full rows that fit", "tokens"), lines)


def gpu_targets() -> list[list[Cell]]:
    """Levers on a GPU, all computed from floors."""
    grouped = with_key_value_heads(FEW_HEADS)
    rate = "tokens_per_second"
    return [
        target(
            "eight sequences instead of one (d20, H200, short context)",
            "bandwidth",
            *(_point(D20, n, rate, context=SHORT_CONTEXT_TOKENS) for n in (1, 8)),
        ),
        target("the same with full rows cached", "bandwidth", *(_point(D20, n, rate) for n in (1, 8))),
        target("five query heads per key-value head (cache)", "memory", _cache(D20), _cache(grouped)),
        target(
            "the same, tokens of sixty-four sequences",
            "bandwidth",
            *(_point(shape, SEQUENCES, rate) for shape in (D20, grouped)),
        ),
        target(
            "captured graphs, one sequence (step)",
            "latency",
            *(_point(D20, 1, "seconds_per_step", graphs=graphs) for graphs in (False, True)),
        ),
        target(
            "weights in eight bits, one sequence, captured graphs (step)",
            "bandwidth",
            *(_point(D20, 1, "seconds_per_step", each=each) for each in (BF16_BYTES, EIGHT_BIT_BYTES)),
        ),
        target(
            "half the prompt (prefill FLOPs, d20)",
            "compute",
            *(
                compute(prefill_flops, scaling_parameters(D20), D20.n_layers, D20.d_model, tokens, unit="FLOP")
                for tokens in (CONTEXT_TOKENS, CONTEXT_TOKENS // 2)
            ),
        ),
    ]
