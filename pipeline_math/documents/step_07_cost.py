"""What evaluation costs, for 07_eval_math.md: a public model on one H200, and the recorded run with amounts changed."""

from pipeline_math.documents.examples import recorded_hardware
from pipeline_math.documents.levers import BF16_BYTES, D20, case, device, target, what_if_stage_seconds
from pipeline_math.documents.number import Number, compute, constant
from pipeline_math.documents.recorded import newest
from pipeline_math.documents.table import Cell, Table
from pipeline_math.evaluation_cost import (
    BENCHMARK_ITEMS,
    Generation,
    MultipleChoice,
    benchmark_flops,
    generation_seconds,
    multiple_choice_seconds,
    prefix_sharing_speedup,
    seconds_for_error,
)
from pipeline_math.inference_prefill_decode import Decoder, Machine, decode_point, kv_bytes_per_token
from pipeline_math.model_flops_vram import scaling_parameters
from pipeline_math.pretrain_step import tokens_per_second
from pipeline_math.statistics import standard_error

MMLU_PROMPT, MMLU_OPTION, MMLU_OPTIONS = 600, 12, 4
"""Chosen: tokens of five examples and a question, tokens of one option, options."""
MMLU_SCORE = 0.3
"""Chosen: a little above guessing."""
GSM8K_PROMPT, GSM8K_ANSWER = 100, 256
"""Chosen: tokens of a problem and of a written answer."""
DECODE_BATCHES = {"one": 1, "many": 64}
"""Chosen: sequences decoded side by side."""
DECODE_ROWS = 64
"""The engine's default, where the ledger does not say how many rows a decode step had."""
WANTED_ERROR = 0.002
"""Chosen: a standard error of a fifth of a point."""
SCORED_CHECKPOINTS, SPOKEN_CHECKPOINTS = 4, 3
"""Checkpoints of the laptop profile, and those of them that give replies."""

MMLU = MultipleChoice(BENCHMARK_ITEMS["MMLU"], MMLU_PROMPT, MMLU_OPTION, MMLU_OPTIONS)
"""Five-shot, scored by the likelihood of the options."""
GSM8K = Generation(BENCHMARK_ITEMS["GSM8K"], GSM8K_PROMPT, GSM8K_ANSWER)
"""Written answers, one sample each."""


def forward_rate() -> Number:
    """FLOP/s of a forward pass on one H200: MFU times peak."""
    reached, peak = device("h200", "mfu", "share"), device("h200", "peak_flops_bf16", "FLOP/s")
    return compute(tokens_per_second, reached, 1.0, 1, peak, unit="FLOP/s")


def scored_tokens(benchmark: MultipleChoice, prefix_shared: bool) -> float:
    """Tokens of all forward passes of a benchmark."""
    return benchmark.forward_tokens(prefix_shared)


def written_seconds(batch: int, overhead_seconds: float) -> float:
    """Seconds of GSM8K with the d20 on one H200, decoding `batch` answers at once; launches cost `overhead_seconds`."""
    rate = forward_rate().value
    cache = kv_bytes_per_token(D20.n_layers, D20.n_kv_heads, D20.head_dim, BF16_BYTES)
    weights = scaling_parameters(D20)
    model = Decoder(weights, D20.n_layers, D20.d_model, BF16_BYTES * weights, cache)
    machine = Machine(rate, device("h200", "bandwidth_bytes_per_second", "B/s").value, overhead_seconds)
    step = decode_point(model, machine, batch, GSM8K_PROMPT + GSM8K_ANSWER / 2)
    return generation_seconds(GSM8K, weights, rate, step.seconds_per_step, batch)


def benchmark_cost() -> dict[str, Number | Table]:
    """Two public benchmarks with a d20 on one H200."""
    weights = compute(scaling_parameters, D20, unit="parameters")
    rate = forward_rate()
    alone = compute(multiple_choice_seconds, MMLU, weights, rate, False, unit="s")
    return {
        "mmlu_items": constant("evaluation_cost.BENCHMARK_ITEMS.MMLU", ""),
        "mmlu_prompt": constant("documents.step_07_cost.MMLU_PROMPT", "tokens"),
        "mmlu_option": constant("documents.step_07_cost.MMLU_OPTION", "tokens"),
        "mmlu_flops": compute(
            benchmark_flops, weights, MMLU.items, MMLU_PROMPT + MMLU_OPTION, MMLU_OPTIONS, unit="FLOP"
        ),
        "mmlu_alone": alone,
        "mmlu_shared": compute(multiple_choice_seconds, MMLU, weights, rate, True, unit="s"),
        "mmlu_speedup": compute(prefix_sharing_speedup, MMLU, unit=""),
        "mmlu_score": constant("documents.step_07_cost.MMLU_SCORE", "share"),
        "mmlu_error": compute(standard_error, MMLU_SCORE, MMLU.items, unit="share"),
        "mmlu_wanted": constant("documents.step_07_cost.WANTED_ERROR", "share"),
        "mmlu_longer": compute(seconds_for_error, alone, MMLU_SCORE, MMLU.items, WANTED_ERROR, unit="s"),
        "gsm8k_one": compute(written_seconds, DECODE_BATCHES["one"], _launch(), unit="s"),
        "gsm8k_many": compute(written_seconds, DECODE_BATCHES["many"], _launch(), unit="s"),
        "gsm8k_batch": constant("documents.step_07_cost.DECODE_BATCHES.many", ""),
    }


def cost_targets() -> list[list[Cell]]:
    """Levers on the time of evaluation."""
    row = newest("evaluation", "seconds")
    hardware, amounts = recorded_hardware(row.stage, row.quantity), row.amounts
    rows = {"rows_per_decode_step": amounts.get("rows_per_decode_step", DECODE_ROWS)}
    fewer = {
        "forward_tokens": amounts["forward_tokens"] * (SCORED_CHECKPOINTS - 1) / SCORED_CHECKPOINTS,
        "decode_steps": amounts["decode_steps"] * (SPOKEN_CHECKPOINTS - 1) / SPOKEN_CHECKPOINTS,
    }
    return [
        target(
            "read the prompt once for all options (tokens of MMLU)",
            "compute",
            compute(scored_tokens, MMLU, False, unit="tokens"),
            compute(scored_tokens, MMLU, True, unit="tokens"),
        ),
        target(
            "many answers at once (GSM8K, d20, one H200)",
            "bandwidth + latency",
            compute(written_seconds, DECODE_BATCHES["one"], _launch(), unit="s"),
            compute(written_seconds, DECODE_BATCHES["many"], _launch(), unit="s"),
        ),
        target(
            "a checkpoint with weights scored before costs nothing (done; rl of no steps)",
            "compute + latency",
            compute(what_if_stage_seconds, "evaluation", amounts, rows, hardware, unit="s"),
            compute(what_if_stage_seconds, "evaluation", amounts, rows | fewer, hardware, unit="s"),
        ),
    ]


def _launch() -> float:
    return case("KERNELS_PER_STEP").value * case("KERNEL_SECONDS").value
