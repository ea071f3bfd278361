"""Reinforcement-learning numbers of 06_sft_step_math.md."""

from pipeline_math.documents.examples import recorded_hardware, recorded_shape
from pipeline_math.documents.levers import BF16_BYTES, D20, case, device, target, what_if_stage_seconds
from pipeline_math.documents.number import Number, compute, constant, times
from pipeline_math.documents.recorded import newest
from pipeline_math.documents.step_09_public import decoder, machine
from pipeline_math.documents.table import Cell, Table
from pipeline_math.inference_prefill_decode import (
    decode_point,
    decode_seconds_per_token_floor,
    kv_bytes_per_token,
    kv_cache_bytes,
)
from pipeline_math.model_flops_vram import scaling_parameters
from pipeline_math.serving_memory import serving_memory
from pipeline_math.sft_step import (
    RlStep,
    problems_needed,
    rl_step_seconds,
    rl_steps_per_epoch,
    rl_update_flops,
    rollout_seconds,
    useful_group_probability,
)

PROMPT_TOKENS = 100
"""Chosen: tokens of a word problem with its chat format."""
PASS_RATES = {"hardly_ever": 0.02, "seldom": 0.1, "sometimes": 0.3, "half_the_time": 0.5, "nearly_always": 0.95}
"""Chosen: how often one sample solves the problem."""
GROUP_SIZES = (4, 8, 16, 64)
"""Chosen: samples per problem."""
GROUP, DOUBLED_GROUP = 8, 16
"""Samples per problem of the laptop profile, and twice as many."""
DECODE_ROWS = {"narrow": 64, "wide": 128}
"""Sequences decoded at once: the engine's default, and all rollouts of a step of the laptop profile."""
REPLY_TOKENS = 48
"""Reply budget of the laptop profile."""


def launched_rollout_seconds(step: RlStep) -> float:
    """Rollout of the d20 on one H200, one problem at a time, every kernel launched on its own."""
    context = step.prompt_tokens + step.new_tokens / 2
    point = decode_point(decoder(D20), machine("h200", graphs=False), step.samples_per_problem, context)
    return rollout_seconds(step.new_tokens, point.seconds_per_step, step.samples, step.samples_per_problem)


def public_rl() -> dict[str, Number | Table]:
    """The step of karpathy/nanochat on one H200."""
    shape = D20
    problems, samples, new = case("RL_PROBLEMS"), case("RL_SAMPLES"), case("RL_NEW_TOKENS")
    prompt = constant("documents.step_06_rl.PROMPT_TOKENS", "tokens")
    step = RlStep(int(problems.value), int(samples.value), prompt.value, new.value)
    weights = compute(scaling_parameters, shape, unit="parameters")
    token_bytes = kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, BF16_BYTES)
    cache = compute(kv_cache_bytes, token_bytes, int(prompt.value + new.value / 2), step.samples, unit="B")
    bandwidth = device("h200", "bandwidth_bytes_per_second", "B/s")
    reached = device("h200", "mfu", "share")
    speed = times(device("h200", "peak_flops_bf16", "FLOP/s"), reached, "FLOP/s")
    tpot = compute(decode_seconds_per_token_floor, BF16_BYTES * weights.value, cache, bandwidth, unit="s")
    parts = {
        name: compute(rl_step_seconds, step, weights, tpot, step.samples, speed, unit="s", pick=name)
        for name in ("prefill_seconds", "decode_seconds", "update_seconds", "total_seconds")
    }
    return {
        "rl_problems": problems,
        "rl_samples": samples,
        "rl_new": new,
        "rl_prompt": prompt,
        "rl_cache": cache,
        "rl_memory": compute(
            serving_memory,
            D20,
            step.samples,
            int(prompt.value + new.value),
            BF16_BYTES,
            0.0,
            unit="B",
            pick="total_bytes",
        ),
        "rl_update_flops": compute(rl_update_flops, weights, step.samples, prompt, new, unit="FLOP"),
        "rl_mfu": reached,
        "rl_prefill": parts["prefill_seconds"],
        "rl_decode": parts["decode_seconds"],
        "rl_decode_few": compute(launched_rollout_seconds, step, unit="s"),
        "rl_update": parts["update_seconds"],
        "rl_total": parts["total_seconds"],
        "rl_steps": compute(rl_steps_per_epoch, int(case("GSM8K_TRAIN_PROBLEMS").value), step.problems, unit="steps"),
        "rl_rare": constant("documents.step_06_rl.PASS_RATES.hardly_ever", "share"),
        "rl_rare_useful": compute(
            useful_group_probability, PASS_RATES["hardly_ever"], step.samples_per_problem, unit="share"
        ),
        "rl_rare_problems": compute(
            problems_needed, step.problems, PASS_RATES["hardly_ever"], step.samples_per_problem, unit=""
        ),
    }


def useful_groups() -> Table:
    """Share of groups with a gradient by pass rate and samples."""
    lines: list[list[Cell]] = []
    for name, rate in PASS_RATES.items():
        useful = [compute(useful_group_probability, rate, size, unit="share") for size in GROUP_SIZES]
        lines.append([name.replace("_", " "), constant(f"documents.step_06_rl.PASS_RATES.{name}", "share"), *useful])
    return Table(("solved", "pass rate p", *(f"G = {size}" for size in GROUP_SIZES)), lines)


def rl_targets() -> list[list[Cell]]:
    """Levers of the rl stage."""
    row, shape = newest("rl", "seconds"), recorded_shape("rl", "seconds")
    hardware, amounts = recorded_hardware(row.stage, row.quantity), row.amounts
    steps, samples = amounts["steps"], DECODE_ROWS["wide"]

    def seconds(rows: int) -> Number:
        decode = {"decode_steps": steps * REPLY_TOKENS * samples / rows, "rows_per_decode_step": float(rows)}
        return compute(what_if_stage_seconds, "rl", amounts, decode, hardware, unit="s")

    weights = compute(scaling_parameters, shape, unit="parameters")
    update = compute(rl_update_flops, weights, samples, REPLY_TOKENS, REPLY_TOKENS, unit="FLOP")
    seldom, half = PASS_RATES["seldom"], PASS_RATES["half_the_time"]
    useful = compute(useful_group_probability, seldom, GROUP, unit="share")
    return [
        target(
            "all rollouts in one decode batch instead of two (rl stage)",
            "bandwidth",
            seconds(DECODE_ROWS["narrow"]),
            seconds(samples),
        ),
        target(
            "twice the samples per problem, at a tenth solved (useful groups)",
            "statistics",
            useful,
            compute(useful_group_probability, seldom, DOUBLED_GROUP, unit="share"),
        ),
        target(
            "problems solved half the time instead of a tenth (useful groups)",
            "statistics",
            useful,
            compute(useful_group_probability, half, GROUP, unit="share"),
        ),
        target(
            "useless groups left out of the update, at a tenth solved (FLOPs of one)",
            "compute",
            update,
            times(update, useful, "FLOP"),
        ),
    ]
