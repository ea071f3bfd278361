"""Which path of causal attention is fastest here: forward and backward passes of each, in well under half a second."""

import time
from pathlib import Path

import torch

from model.attention import causal_attention, choose_path
from model.measured_choices import MeasuredChoices

CPU_PATHS = ("sdpa", "explicit", "blocked")
_PROBE_SECONDS = 0.25
_PROBE_TOKENS = 2048
_MOST_SCORE_BYTES = 2**28
"""The probe forms no larger score matrix: for such rows the fused kernel is taken."""
_MARGIN = 0.95
"""A path must be this much faster than those before it in CPU_PATHS, which take less memory or fewer products."""
_chosen: dict[str, str] = {}


def fastest_attention(
    *,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    cache_folder: Path | None = None,
) -> tuple[str, str]:
    """(path, why) for rows of `tokens`; measured on a CPU, by rule elsewhere, remembered by process and folder."""
    if device.type != "cpu":
        path = choose_path("auto", dtype, device, tokens)
        return path, f"attention {path}: the rule for {device.type}"
    question = f"attention of {n_heads}/{n_kv_heads} heads of {head_dim}, {tokens} tokens, {dtype}"
    choices = MeasuredChoices(cache_folder)
    key = choices.key(question, device)
    stored = choices.get(key)
    if key not in _chosen and stored is not None and stored.get("path") in CPU_PATHS:
        _chosen[key] = stored["path"]
    if key in _chosen:
        return _chosen[key], f"attention {_chosen[key]}: measured before"
    seconds = _measure(n_heads, n_kv_heads, head_dim, tokens, dtype)
    path = _fastest(seconds)
    _chosen[key] = path
    choices.put(key, {"path": path, "milliseconds": {name: round(1e3 * s, 3) for name, s in seconds.items()}})
    figures = ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in seconds.items())
    return path, f"attention {path}: measured {figures}"


def _fastest(seconds: dict[str, float]) -> str:
    best = CPU_PATHS[0]
    for path in CPU_PATHS[1:]:
        if seconds.get(path, float("inf")) < _MARGIN * seconds[best]:
            best = path
    return best


def _measure(n_heads: int, n_kv_heads: int, head_dim: int, tokens: int, dtype: torch.dtype) -> dict[str, float]:
    """Least seconds of forward and backward by path, in turns, so that a busy moment does not hit one path alone."""
    rows = max(1, _PROBE_TOKENS // tokens)
    paths = CPU_PATHS if rows * n_heads * tokens**2 * dtype.itemsize <= _MOST_SCORE_BYTES else CPU_PATHS[:1]
    if len(paths) == 1:
        return {"sdpa": 0.0}
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(rows, tokens, count, head_dim, generator=generator).to(dtype).transpose(1, 2).requires_grad_()
        for count in (n_heads, n_kv_heads, n_kv_heads)
    )
    least = dict.fromkeys(paths, float("inf"))
    started, rounds = time.perf_counter(), 0
    with torch.enable_grad():
        while rounds < 3 or time.perf_counter() - started < _PROBE_SECONDS:
            for path in paths:
                before = time.perf_counter()
                out = causal_attention(q, k, v, path)
                torch.autograd.grad(out, (q, k, v), out.detach())
                if rounds:  # the first picks and compiles kernels
                    least[path] = min(least[path], time.perf_counter() - before)
            rounds += 1
    return least
