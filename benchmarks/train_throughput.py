"""Training speed of the one loop's step: `python -m benchmarks.train_throughput [--depth 4 ...]`.

Random tokens, real forward, backward and optimizer step. Prints tokens/s, FLOP/s, the share of the matrix-product rate
measured on this machine in the same process, and peak memory. FLOPs per token: 6 per matmul weight plus attention
not halved for causality (the convention of pipeline_math.model_flops_vram).
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time

import torch

from model.batches import Batch
from model.gpt import GPT, GPTConfig
from model.optim import Optimizer
from model.precision import compute_dtype
from model.train_loop import batch_gradients
from pipeline_math.model_flops_vram import shape_of_depth, shape_train_flops_per_token


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Best FLOP/s of a square matrix product of five runs."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    repeats, best = 10, 0.0
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronize(device)
        best = max(best, repeats * 2 * size**3 / (time.perf_counter() - started))
    return best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(options: argparse.Namespace) -> dict[str, float | int | str]:
    """One row of the table."""
    device = torch.device(options.device)
    shape = shape_of_depth(options.depth, options.vocab_size, options.tokens_per_row)
    config = GPTConfig(
        shape.vocab_size,
        shape.n_layers,
        shape.d_model,
        shape.n_heads,
        shape.n_kv_heads,
        shape.mlp_width,
        options.tokens_per_row,
    )
    model = GPT(config, attention=options.attention)
    model.init_weights(0)
    model = model.to(device)
    if options.compile:
        model.forward = torch.compile(model.forward, dynamic=False)  # type: ignore[method-assign]
    optimizer = Optimizer(model, 0.02, 0.3, 0.008, 0.1)
    rows = options.batch_tokens // options.tokens_per_row
    ids = torch.randint(0, config.vocab_size, (rows, options.tokens_per_row + 1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, options.tokens_per_row))
    seconds = []
    for step in range(options.warmup + options.steps):
        synchronize(device)
        started = time.perf_counter()
        batch_gradients(model, batch, options.micro_batch_rows, float(batch.targets_BT.numel()))
        optimizer.step()
        synchronize(device)
        if step >= options.warmup:
            seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    flops = shape_train_flops_per_token(shape)
    dtype = compute_dtype(device, "auto")
    peak = matmul_rate(device, dtype, 8192 if device.type == "cuda" else 1024)
    rate = options.batch_tokens / median
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(dtype),
        **{k: v for k, v in vars(options).items() if k != "device"},
        "seconds_per_step_median": round(median, 4),
        "seconds_per_step_min": round(min(seconds), 4),
        "seconds_per_step_max": round(max(seconds), 4),
        "tokens_per_second": round(rate),
        "train_flops_per_token": flops,
        "tflops_per_second": round(rate * flops / 1e12, 3),
        "matmul_tflops_per_second": round(peak / 1e12, 3),
        "share_of_matmul": round(rate * flops / peak, 3),
        "peak_gb": round(peak_bytes(device) / 1e9, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--tokens-per-row", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--micro-batch-rows", type=int, default=16)
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the forward pass")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
