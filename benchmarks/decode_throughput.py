"""Decoding speed of the engine: `python -m benchmarks.decode_throughput [--depth 12 ...]`.

Random weights, greedy, no tool, prompts of equal length. Time per step is the difference between a long and a one-token
reply, so that prefill does not count. The floor is weight and KV bytes over the copy bandwidth measured here.
"""

import argparse
import json
import statistics
import time

import torch

from benchmarks.train_throughput import synchronize
from model.engine.engine import Engine
from model.engine.sampling import Sampling
from model.gpt import GPT, GPTConfig
from model.tokenizer import Tokenizer, byte_tokenizer_json
from pipeline_math.inference_prefill_decode import decode_seconds_per_token_floor, kv_bytes_per_token
from pipeline_math.model_flops_vram import shape_of_depth


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a device-to-device copy of 256 MiB, best of ten."""
    source = torch.empty(2**28, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = max(best, 2 * source.numel() / (time.perf_counter() - started))
    return best


def reply_seconds(engine: Engine, batch: int, prompt: list[int], new_tokens: int) -> tuple[float, int]:
    """Seconds of `batch` replies, and the steps they took."""
    device = engine.forward.device
    synchronize(device)
    started = time.perf_counter()
    replies = engine.generate_batch([prompt] * batch, Sampling(max_tokens=new_tokens))
    synchronize(device)
    return time.perf_counter() - started, max(len(reply[0].ids) for reply in replies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    device = torch.device(options.device)
    length = options.prompt_tokens + options.new_tokens
    shape = shape_of_depth(options.depth, options.vocab_size, length)
    model = GPT(
        GPTConfig(
            options.vocab_size, shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.mlp_width, length
        )
    )
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    tokenizer = Tokenizer.from_json(byte_tokenizer_json())
    engine = Engine(
        model.state_dict(), model.config, tokenizer, options.dtype, options.device, max_rows=max(options.batches)
    )
    kv_token = kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, engine.forward.head.element_size())
    bandwidth = copy_bandwidth(device)
    prompt = [tokenizer.bos_id] + [tokenizer.encode("a")[0]] * (options.prompt_tokens - 1)
    for batch in options.batches:
        reply_seconds(engine, batch, prompt, 8)
        first = statistics.median(reply_seconds(engine, batch, prompt, 1)[0] for _ in range(3))
        long = [reply_seconds(engine, batch, prompt, options.new_tokens) for _ in range(3)]
        step = statistics.median((seconds - first) / (steps - 1) for seconds, steps in long)
        kv_bytes = kv_token * (options.prompt_tokens + options.new_tokens / 2) * batch
        floor = decode_seconds_per_token_floor(engine.forward.weight_bytes, kv_bytes, bandwidth)
        row = {
            **vars(options), "batches": batch, "dtype": str(engine.forward.dtype), "threads": torch.get_num_threads(),
            "ttft_ms": round(first * 1e3, 2), "step_ms": round(step * 1e3, 3),
            "tokens_per_second": round(batch / step), "bandwidth_gb_per_second": round(bandwidth / 1e9, 1),
            "floor_ms": round(floor * 1e3, 4), "share_of_floor": round(floor / step, 3),
        }  # fmt: skip
        print(json.dumps(row))


if __name__ == "__main__":
    main()
