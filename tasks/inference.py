"""inference: what the engine reaches on this machine, beside what arithmetic says it could reach.

Reads    artifacts/export
Writes   artifacts/inference/report.json, report.md
Promise  bytes of the KV cache are predicted exactly; times are medians of `repeats` runs after one that does not count
Limits   synthetic prompts of one length; the floor assumes memory bandwidth is the bottleneck, which for a model of a
         few million parameters it is not (each operation's fixed cost is); other load shows in every number
"""

import statistics
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from model.shape_of_config import shape_of_config
from pipeline_math.inference_prefill_decode import decode_seconds_per_token_floor, kv_bytes_per_token, kv_cache_bytes
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json, write_text
from tasks._latency import time_replies
from tasks._params import StageParams

if TYPE_CHECKING:
    from model.engine.engine import Engine


class Params(StageParams):
    """What to measure."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute format; auto: bf16 where the device multiplies it natively."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 128
    """Length of every prompt."""
    new_tokens: Annotated[int, Field(ge=2)] = 64
    """Tokens decoded per sequence."""
    batches: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1)] = (1, 4, 16)
    """Sequences decoded side by side, one measurement each."""
    repeats: Annotated[int, Field(ge=1)] = 3
    """Measurements whose median is reported."""


def run(ctx: StageContext) -> None:
    """Load the export, measure every batch size, compare with the predictions."""
    import torch

    from model.engine.engine import Engine

    params = ctx.params
    assert isinstance(params, Params)
    device = choose_device(ctx.runtime.device)
    torch.set_num_threads(ctx.runtime.threads or ctx.cores)
    engine = Engine.from_folder(ctx.input("artifacts/export"), params.dtype, device, max_rows=max(params.batches))
    if params.prompt_tokens + params.new_tokens > engine.context:
        raise StageError(
            f"inference.prompt_tokens={params.prompt_tokens} + inference.new_tokens={params.new_tokens} exceed the "
            f"model's context of {engine.context}; next: make them {engine.context} together at most"
        )
    config, element = engine.config, torch.finfo(engine.forward.dtype).bits // 8
    kv_token_bytes = kv_bytes_per_token(config.n_layers, config.n_kv_heads, config.head_dim, element)
    ctx.predict("kv_bytes_per_token", kv_token_bytes, kv_token_bytes, kv_token_bytes)
    ctx.measure("kv_bytes_per_token", engine.forward.new_cache().bytes_per_token)
    shape = shape_of_config(config)
    bandwidth = measure_bandwidth(engine.forward.weight_bytes, device)

    rows = []
    for batch in params.batches:
        ctx.check_stop()
        row = measure_batch(engine, batch, params)
        tokens = params.prompt_tokens + params.new_tokens // 2  # the cache grows while decoding: its mean length
        kv_bytes = kv_cache_bytes(kv_token_bytes, tokens, batch)
        floor = decode_seconds_per_token_floor(engine.forward.weight_bytes, kv_bytes, bandwidth)
        row |= {"seconds_per_step_floor": floor, "share_of_floor": floor / row["seconds_per_step"]}
        rows.append(row)
        ctx.note(
            f"batch {batch}: {row['tokens_per_second']:.0f} tok/s, first token {row['ttft_seconds'] * 1e3:.1f} ms, "
            f"{row['seconds_per_step'] * 1e3:.2f} ms per step (memory floor {floor * 1e3:.2f} ms)"
        )
    ctx.count(
        **vars(shape),
        prompt_tokens=params.prompt_tokens,
        weight_bytes=engine.forward.weight_bytes,
        prefill_tokens=engine.forward.work.prefill_tokens,
        decode_steps=engine.forward.work.decode_steps,
        rows_per_decode_step=engine.forward.work.rows_per_decode_step,
    )
    first = rows[0]
    if first["batch"] == 1:
        ctx.measure("ttft_seconds", first["ttft_seconds"])
        ctx.measure("seconds_per_output_token", first["seconds_per_step"])
    report = {
        "device": device,
        "dtype": str(engine.forward.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "prompt_tokens": params.prompt_tokens,
        "new_tokens": params.new_tokens,
        "weight_bytes": engine.forward.weight_bytes,
        "kv_bytes_per_token": kv_token_bytes,
        "bandwidth_bytes_per_second": bandwidth,
        "batches": rows,
    }
    write_json(ctx.out / "report.json", report)
    write_text(ctx.out / "report.md", render(report))
    figures = {f"tokens_per_second_batch_{row['batch']}": row["tokens_per_second"] for row in rows}
    ctx.report(ttft_seconds=rows[0]["ttft_seconds"], share_of_memory_floor=rows[0]["share_of_floor"], **figures)


def choose_device(wanted: str) -> str:
    """runtime.device, with auto meaning a GPU where there is one."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def measure_batch(engine: "Engine", batch: int, params: Params) -> dict[str, Any]:
    """Medians of time to first token (s), time per decode step (s) and decode rate (tokens/s of all sequences)."""
    first_token, per_step = [], []
    for attempt in range(params.repeats + 1):
        ttft, step = time_replies(engine, batch, params.prompt_tokens, params.new_tokens)
        if attempt:  # the first run allocates memory and fills caches
            first_token.append(ttft)
            per_step.append(step)
    step_seconds = statistics.median(per_step)
    return {
        "batch": batch,
        "ttft_seconds": statistics.median(first_token),
        "seconds_per_step": step_seconds,
        "tokens_per_second": batch / step_seconds,
    }


def measure_bandwidth(size_bytes: int, device: str, attempts: int = 5) -> float:
    """Bytes per second a matrix-vector product reads from a matrix as large as the weights (best of `attempts`).

    As large as the weights, because a small model stays in the CPU's cache and a large one does not.
    """
    import torch

    columns = 1024
    matrix = torch.ones(max(size_bytes // 4 // columns, 1), columns, device=device)
    vector = torch.ones(columns, device=device)
    best = float("inf")
    for _ in range(attempts + 1):
        started = time.perf_counter()
        torch.mv(matrix, vector)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return matrix.numel() * 4 / best


def render(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Inference",
        "",
        f"{report['device']}, {report['dtype']}, {report['threads']} thread(s); prompts of {report['prompt_tokens']} "
        f"tokens, {report['new_tokens']} tokens decoded; {report['weight_bytes'] / 1e6:.1f} MB of weights read per "
        f"step at {report['bandwidth_bytes_per_second'] / 1e9:.1f} GB/s (measured); "
        f"{report['kv_bytes_per_token']:,} bytes of KV cache per token.",
        "",
        "| sequences | first token, ms | per step, ms | memory floor, ms | share of floor | tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['batch']} | {row['ttft_seconds'] * 1e3:.1f} | {row['seconds_per_step'] * 1e3:.2f} | "
        f"{row['seconds_per_step_floor'] * 1e3:.2f} | {row['share_of_floor']:.0%} | {row['tokens_per_second']:.0f} |"
        for row in report["batches"]
    ]
    return "\n".join([*lines, ""])
