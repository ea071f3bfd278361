"""This package beside other calculators, on the published cases: prints the Markdown of calculators_202611.md.

    python -m benchmarks.calculator_comparison > benchmarks/calculators_202611.md

The others need not be installed: their outputs were recorded with version and date (benchmarks/other_calculators.py),
and what is installed runs again.
"""

import math
from dataclasses import dataclass

from benchmarks.other_calculators import known_outputs
from benchmarks.published_cases import (
    ANSWERS,
    BESIROGLU,
    CHINCHILLA_FLOPS,
    CHINCHILLA_PARAMETERS,
    COOKBOOK_RECOMPUTED,
    D20,
    D20_GROUPED,
    GPT2,
    H100_PEAK_FLOPS,
    KV_SEQUENCES,
    MEMORY_CASES,
    PALM_DEVICES,
    PALM_FLOPS_PER_TOKEN,
    PALM_MFU,
    PALM_PEAK_FLOPS,
    PALM_TOKENS_PER_SECOND,
    PUBLISHED,
    RUN1_BPB,
    RUN1_DEPTH,
    RUN1_FLOPS,
    RUN1_SECONDS,
    RUN1_SHORT_WINDOW,
    RUN1_TOKENS,
    TOKENS_PER_ROW,
    MemoryCase,
)
from pipeline_math.hardware import find_hardware
from pipeline_math.inference_prefill_decode import kv_bytes_per_token, kv_cache_bytes
from pipeline_math.layouts import RESEARCH, sssl_windows
from pipeline_math.loss_law import chinchilla_optimum, isoflop_bits_per_byte
from pipeline_math.model_flops_vram import (
    FLOPS_CONVENTION,
    ModelShape,
    shape_of_depth,
    shape_train_flops_per_token,
    windowed_flops_per_token,
)
from pipeline_math.pretrain_step import mfu, train_seconds
from pipeline_math.target_budget import Goal, solve
from pipeline_math.training_memory import MemoryOptions, training_memory

GIB = 1024**3
HERE = "this package"
COMPILED = MemoryOptions(compiled=True, chunked_loss=False)


@dataclass(frozen=True)
class Row:
    """One case: what is true, and what each calculator says of it."""

    case: str
    truth: float
    unit: str
    source: str
    said: dict[str, float]
    format: str = ".3g"


def memory_gib(case: MemoryCase) -> float:
    """Allocated GiB by the two constants (nanochat is compiled and keeps all logits)."""
    return training_memory(case.shape, case.rows, case.static, COMPILED).allocated_bytes / GIB


def others(key: str, outputs: dict[str, dict[str, float]], scale: float = 1.0) -> dict[str, float]:
    """{calculator: its output for a case}, where it has one."""
    return {name: found[key] * scale for name, found in (outputs | PUBLISHED).items() if key in found}


def counted_gpt2_flops() -> float:
    """Training FLOPs per token that torch counts on this project's network in GPT-2's shape, fused attention."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from model.gpt import GPT, GPTConfig

    with torch.device("meta"), torch.no_grad():
        fields = {name: value for name, value in vars(GPT2).items() if name != "tokens_per_row"}
        built = GPT(GPTConfig(sequence_length=GPT2.tokens_per_row, **fields), "sdpa", "float32")
        ids = torch.zeros(1, GPT2.tokens_per_row, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            built.logits(built(ids))
    return 3.0 * counter.get_total_flops() / GPT2.tokens_per_row  # backward is twice forward


def number_rows(outputs: dict[str, dict[str, float]]) -> list[Row]:
    """All cases whose truth is a number."""

    def kv(shape: ModelShape) -> float:
        per_token = kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, 2)
        return kv_cache_bytes(per_token, TOKENS_PER_ROW, KV_SEQUENCES) / GIB

    run1 = solve(Goal(3, find_hardware("h100"), 8, mfu=0.50, pretrain_share=1.0), RESEARCH)  # its time, too
    d24 = shape_of_depth(RUN1_DEPTH, 32768, TOKENS_PER_ROW)
    windows = [max(window, RUN1_SHORT_WINDOW) for window in sssl_windows(RUN1_DEPTH, TOKENS_PER_ROW)]
    seconds = train_seconds(windowed_flops_per_token(d24, windows) * RUN1_TOKENS, 8, H100_PEAK_FLOPS, 0.50)
    palm = mfu(PALM_TOKENS_PER_SECOND, PALM_FLOPS_PER_TOKEN, PALM_DEVICES, PALM_PEAK_FLOPS)
    gpt2 = {HERE: shape_train_flops_per_token(GPT2) / 1e9} | others("gpt2 flops", outputs, 1e-9)
    optimum = {HERE: chinchilla_optimum(CHINCHILLA_FLOPS)[0] / 1e9}
    optimum |= others("chinchilla parameters", outputs, 1e-9)
    corrected = others("chinchilla parameters, corrected", outputs, 1e-9)
    memory = [
        Row(f"memory of {c.name}", c.measured_gib, "GiB", c.source, {HERE: memory_gib(c)} | others(c.name, outputs))
        for c in MEMORY_CASES
        if c.measured_gib is not None
    ]
    return [
        *memory,
        Row("GPT-2 124M, T = 1024, training FLOPs per token", counted_gpt2_flops() / 1e9, "GF", "torch's flop counter",
            gpt2, ".4f"),
        Row("parameters, optimum of 5.76e23 FLOPs", CHINCHILLA_PARAMETERS / 1e9, "B", "arXiv 2203.15556", optimum),
        Row("the same, corrected constants given", CHINCHILLA_PARAMETERS / 1e9, "B", "arXiv 2404.10102", corrected),
        Row("KV cache, d20, 64 x 2,048 tokens, bf16", kv(D20), "GiB", "2 L Hkv q T B b",
            {HERE: kv(D20)} | others("kv mha", outputs)),
        Row("the same, 5 query heads per key head", kv(D20_GROUPED), "GiB", "2 L Hkv q T B b",
            {HERE: kv(D20_GROUPED)} | others("kv gqa", outputs)),
        Row("MFU of PaLM 540B", 100 * PALM_MFU, "%", "arXiv 2204.02311", {HERE: 100 * palm}),
        Row("seconds of nanochat run 1 at 50 % of the peak", RUN1_SECONDS, "s", "nanochat LEADERBOARD",
            {HERE: seconds} | others("run 1 seconds", outputs), ",.0f"),
        Row("depth for 3 h on 8 H100 (50 %)", RUN1_DEPTH, "layers", "nanochat LEADERBOARD",
            {HERE: run1.shape.n_layers}),
        Row("tokens for 3 h on 8 H100 (50 %)", RUN1_TOKENS / 1e9, "B", "nanochat LEADERBOARD",
            {HERE: run1.train_tokens / 1e9}),
        Row("bits per byte at its 4.33e19 FLOPs", RUN1_BPB, "", "nanochat LEADERBOARD",
            {HERE: isoflop_bits_per_byte(RUN1_FLOPS)}),
    ]  # fmt: skip


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def ratio_cells(row: Row, columns: list[str]) -> list[str]:
    """What each says, with its ratio to the truth."""
    cells = []
    for name in columns:
        said = row.said.get(name)
        cells.append("-" if said is None else f"{said:{row.format}} (x{said / row.truth:.3f})")
    return cells


def verdict_cells(case: MemoryCase, outputs: dict[str, dict[str, float]], columns: list[str]) -> list[str]:
    """GiB and whether the verdict that follows is the public one."""
    said = {HERE: memory_gib(case)} | others(case.name, outputs)
    assert case.device_gib is not None
    return [
        "-" if name not in said
        else f"{said[name]:.1f}, {'right' if (said[name] <= case.device_gib) == case.fits else 'WRONG'}"
        for name in columns
    ]  # fmt: skip


def summary(rows: list[Row], columns: list[str]) -> list[tuple[str, ...]]:
    """Cases answered and the largest error, by calculator."""
    lines: list[tuple[str, ...]] = [("calculator", "numbers answered", "of", "median error", "largest error")]
    for name in columns:
        errors = sorted(abs(math.log(row.said[name] / row.truth)) for row in rows if name in row.said)
        if errors:
            middle = (errors[(len(errors) - 1) // 2] + errors[len(errors) // 2]) / 2
            lines.append(
                (name, str(len(errors)), str(len(rows)), f"x{math.exp(middle):.3f}", f"x{math.exp(errors[-1]):.3f}")
            )
    return lines


def main() -> None:
    """Print the document."""
    known = known_outputs()
    outputs = {name: found["outputs"] for name, found in known.items()}
    columns = [HERE, *sorted(outputs), *PUBLISHED]
    labels = [
        f"{name} {known[name]['version']}" if name in known else f"{name} (published)" if name in PUBLISHED else name
        for name in columns
    ]
    rows = number_rows(outputs)
    print("# Calculators on published cases, November 2026\n")
    print("Printed by `python -m benchmarks.calculator_comparison`. A cell is the answer and its ratio to the truth.")
    print(
        "Run with the nearest settings each has (benchmarks/other_calculators.py): "
        + ", ".join(f"{name} {found['version']} on {found['date']}" for name, found in sorted(known.items()))
        + "."
    )
    print(f"FLOPs of this package: {FLOPS_CONVENTION}.\n")
    print(
        table(
            [("case", "truth", "by", *labels)]
            + [
                (row.case, f"{row.truth:{row.format}} {row.unit}".strip(), row.source, *ratio_cells(row, columns))
                for row in rows
            ]
        )
    )
    print("\nThe first two rows are the runs that this package's two memory constants were solved from: they show that")
    print("the fit holds, not that it predicts. The verdicts below were not used for it. Its memory of this project's")
    print("own model is counted and compared with torch in tests/model/test_memory_exactness.py.\n")
    print("## Does it fit? (GiB allocated, and whether the verdict is the public one)\n")
    print(
        table(
            [("case", "device", "public", "by", *labels)]
            + [
                (
                    case.name,
                    f"{case.device_gib} GiB",
                    "fits" if case.fits else "out of memory",
                    case.source,
                    *verdict_cells(case, outputs, columns),
                )
                for case in MEMORY_CASES
                if case.fits is not None
            ]
        )
    )
    print("\n## Errors\n")
    print(table(summary(rows, columns)))
    print(
        "\nThe chinchilla package asks its user for constants. With those printed in the paper "
        f"({CHINCHILLA_FLOPS:.3g} FLOPs) it is"
    )
    print(
        f"wrong by 2, with the corrected ones (A = {BESIROGLU['A']}, B = {BESIROGLU['B']}) it agrees. mlsysim's time is"
    )
    print("6 P D with P all parameters, of which nearly half are look-up tables here; its verdicts take 34 s b h")
    print("per layer, without logits and with 12 bytes of Adam state for every weight. The cookbook's flag for")
    print("recomputation gives " + " and ".join(f"{gib} GiB for {case}" for case, gib in COOKBOOK_RECOMPUTED.items()))
    print("(nanochat recomputes nothing).\n")
    print("## What each answers\n")
    print(table(list(ANSWERS)))


if __name__ == "__main__":
    main()
