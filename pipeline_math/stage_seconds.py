"""Forecasts of every stage, with 90 % intervals: seconds, and of training also step, memory and loss.

A plan and its workload give the amounts each stage should meet, `stage_terms` what they are made of, a calibration what
that costs on this machine. Left out: retries, a cold package cache, other work on the machine.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline_math.constants import noise_of, prior_of
from pipeline_math.forecast import Calibration, forecast, total
from pipeline_math.hardware import Hardware
from pipeline_math.interval import Interval
from pipeline_math.model_flops_vram import ModelShape
from pipeline_math.stage_terms import (
    STAGE_ORDER,
    TRAINING_STAGES,
    peak_memory_terms,
    seconds_terms,
    shape_amounts,
    step_seconds_terms,
    terms_of,
)
from pipeline_math.step_time import added

if TYPE_CHECKING:
    from pipeline_math.target_budget import Solution

CHECKPOINT_SECONDS = 60.0
"""Default seconds between saved training states (runtime.yaml)."""
MIDTRAIN_CONVERSATION_SHARE = 0.8
"""Share of midtraining's tokens that are conversations; the rest is ordinary text."""
NOT_LEARNT = 265.0
"""Tokens that need no merge: 256 bytes and nine special ones."""
AMOUNT_LOG_SD = {"corpus": 0.05, "tokenizer": 0.12, "shards": 0.12, "rl": 0.05, "evaluation": 0.08}
"""How far the amounts a plan expects are off, where they depend on the text or on when replies end."""
FORECAST_QUANTITIES = (
    "seconds",
    "step_seconds",
    "peak_memory_bytes",
    "bits_per_byte",
    "ttft_seconds",
    "seconds_per_output_token",
)
"""Forecast by terms, for the stages that have them."""


@dataclass(frozen=True)
class Workload:
    """How much each stage is asked to do; defaults are those of the laptop profile."""

    corpus_bytes: float = 1.2e7
    """Raw text read by the corpus stage."""
    kept_share: float = 0.8
    """Share of it that survives cleaning, filters and duplicates."""
    documentation_sources: int = 1
    """Sources that import packages to read their documentation."""
    tokenizer_bytes: float = 1.0e7
    """Text the tokenizer is trained on."""
    bytes_per_token: float = 3.3
    """Compression of the tokenizer on this text."""
    evaluations: int = 4
    """Times bits per byte are measured during pretraining."""
    evaluation_tokens: int = 65536
    """Tokens of one such measurement."""
    midtrain_tokens: int = 262144
    sft_tokens: int = 524288
    chat_batch_tokens: int = 8192
    """Tokens per optimizer step of midtraining and fine-tuning."""
    chat_micro_batch_rows: int | None = None
    """Rows of one of their micro-batches; None takes pretraining's."""
    sft_supervised_share: float = 0.45
    """Share of fine-tuning's tokens that have a target."""
    rl_steps: int = 4
    """Policy updates; 0 passes the checkpoint through."""
    rl_samples_per_step: int = 64
    rl_new_tokens: int = 48
    """Most tokens generated per sample."""
    rl_row_tokens: float = 80.0
    """Mean length of prompt and reply."""
    rl_micro_batch_rows: int = 32
    """Samples of one of the policy's micro-batches."""
    checkpoints: int = 4
    """Checkpoints the evaluation stage scores."""
    benchmark_tokens: int = 100000
    """Tokens read by all benchmarks together, held-out text included, per checkpoint."""
    benchmark_decode_steps: int = 500
    """Batched decode steps of all generative benchmarks together, per checkpoint that speaks."""
    benchmark_rows: float = 32.0
    """Mean sequences decoded together."""
    champion_comparisons: int = 1
    """1 when the gate compares with the champion."""
    inference_prompt_tokens: int = 128
    """Length of the prompts it is measured with."""
    inference_decode_steps: int = 800
    """Decode steps of the engine's measurement."""
    inference_rows: float = 7.0
    """Mean sequences decoded together there."""
    chat_decode_steps: int = 200
    """Tokens of the conversation held with the served model."""


def planned_amounts(found: "Solution", work: Workload) -> dict[str, dict[str, float]]:
    """Stage -> amounts a plan expects it to meet; the keys are those the stages report."""
    kept_bytes, hardware = work.corpus_bytes * work.kept_share, found.goal.hardware
    shape = shape_amounts(found.shape)
    shape["devices"] = found.goal.devices
    if found.goal.mfu is not None:
        shape["mfu"] = found.goal.mfu
    chat_rows = min(work.chat_micro_batch_rows or found.micro_batch_rows, _rows(found, work.chat_batch_tokens))

    def training(tokens: float, batch: float, rows: float, **more: float) -> dict[str, float]:
        amounts = {**shape, "batch_tokens": batch, "micro_batch_rows": rows, "steps": math.ceil(tokens / batch), **more}
        step = total(step_seconds_terms(amounts, hardware), prior_of(hardware))
        return {"state_saves": 1.0 + amounts["steps"] * step // CHECKPOINT_SECONDS, **amounts}

    speaking = max(0, work.checkpoints - 1 - (work.rl_steps == 0))  # the base model is not asked to speak
    distinct = max(1, work.checkpoints - (work.rl_steps == 0))  # a policy passed through is not measured again
    return {
        "budget": {},
        "corpus": {"raw_bytes": work.corpus_bytes, "documentation_sources": work.documentation_sources},
        "tokenizer": {
            "train_bytes": min(work.tokenizer_bytes, kept_bytes),
            "merges": max(0.0, found.shape.vocab_size - NOT_LEARNT),
        },
        "shards": {"kept_bytes": kept_bytes, "tokens": kept_bytes / work.bytes_per_token},
        "architecture": shape,
        "pretrain": training(
            found.train_tokens,
            found.batch_tokens,
            found.micro_batch_rows,
            supervised_share=1.0,
            evaluation_tokens=work.evaluations * work.evaluation_tokens,
            trained_bytes=found.train_tokens * work.bytes_per_token,
        ),
        "midtrain": training(
            work.midtrain_tokens,
            work.chat_batch_tokens,
            chat_rows,
            supervised_share=1.0,
            conversation_tokens=work.midtrain_tokens * MIDTRAIN_CONVERSATION_SHARE,
        ),
        "sft": training(
            work.sft_tokens,
            work.chat_batch_tokens,
            chat_rows,
            supervised_share=work.sft_supervised_share,
            conversation_tokens=work.sft_tokens,
        ),
        "rl": {
            **shape,
            "steps": work.rl_steps,
            "batch_tokens": work.rl_samples_per_step * work.rl_row_tokens,
            "micro_batch_rows": work.rl_micro_batch_rows,
            "decode_steps": work.rl_steps * work.rl_new_tokens,
            "rows_per_decode_step": work.rl_samples_per_step,
        },
        "evaluation": {
            **shape,
            "checkpoints": distinct,
            "text_bytes": kept_bytes,
            "forward_tokens": distinct * work.benchmark_tokens,
            "decode_steps": speaking * work.benchmark_decode_steps,
            "rows_per_decode_step": work.benchmark_rows,
        },
        "gate": {"champion": work.champion_comparisons},
        "export": {"parameters": found.total_parameters},
        "inference": {
            **shape,
            "prompt_tokens": work.inference_prompt_tokens,
            "decode_steps": work.inference_decode_steps,
            "rows_per_decode_step": work.inference_rows,
        },
        "chat": {**shape, "decode_steps": work.chat_decode_steps, "rows_per_decode_step": 1},
    }


def forecasts(
    amounts: Mapping[str, Mapping[str, float]],
    hardware: Hardware,
    calibration: Calibration | None = None,
    amounts_known: bool = False,
) -> dict[str, dict[str, Interval]]:
    """Stage -> quantity -> forecast, from amounts; `calibration` None takes the prior of the device class.

    Unless the amounts are known, intervals of the stages whose work depends on the text are wider: `AMOUNT_LOG_SD`.
    """
    known = calibration or prior_of(hardware)
    found: dict[str, dict[str, Interval]] = {}
    for stage in STAGE_ORDER:
        own: dict[str, Interval] = {}
        for quantity in FORECAST_QUANTITIES:
            terms = terms_of(stage, quantity, amounts[stage], hardware)
            if terms:
                noise = noise_of(quantity)
                if quantity == "seconds" and not amounts_known:
                    guessed = AMOUNT_LOG_SD.get(stage, 0.0)
                    noise = replace(noise, log_sd=math.hypot(noise.log_sd, guessed))
                own[quantity] = forecast(f"{stage}.{quantity}", terms, known, noise)
        if stage in TRAINING_STAGES:
            own["tokens_per_second"] = _rate(amounts[stage]["batch_tokens"], own["step_seconds"])
        found[stage] = own
    return found


def stage_seconds(found: "Solution", work: Workload, calibration: Calibration | None = None) -> dict[str, Interval]:
    """Predicted seconds of all fourteen stages, each from process start to published outputs."""
    hardware = found.goal.hardware
    amounts = planned_amounts(found, work)
    return {stage: own["seconds"] for stage, own in forecasts(amounts, hardware, calibration).items()}


def all_seconds(
    amounts: Mapping[str, Mapping[str, float]], hardware: Hardware, calibration: Calibration | None = None
) -> Interval:
    """Seconds of all stages together. One sum of terms: a machine slower than thought is slower in every stage."""
    known = calibration or prior_of(hardware)
    parts = {stage: own["seconds"].value for stage, own in forecasts(amounts, hardware, known).items()}
    terms = added(*(seconds_terms(stage, amounts[stage], hardware) for stage in STAGE_ORDER))
    spread = forecast("all.seconds", terms, known, noise_of("seconds"))
    return spread.scaled(sum(parts.values()) / spread.value)


def memory_forecast(
    shape: ModelShape,
    micro_batch_rows: int,
    hardware: Hardware,
    optimizer_shards: int = 1,
    calibration: Calibration | None = None,
    **options: float,
) -> tuple[Interval, dict[str, float]]:
    """(peak bytes of a training process, its parts in bytes at the most likely constants).

    Options: `activation_bytes` and `explicit_attention` of `peak_memory_terms`.
    """
    known = calibration or prior_of(hardware)
    amounts = {**shape_amounts(shape), "micro_batch_rows": micro_batch_rows, "optimizer_shards": optimizer_shards}
    amounts |= options
    terms = peak_memory_terms(amounts, hardware)
    whole = forecast("pretrain.peak_memory_bytes", terms, known, noise_of("peak_memory_bytes"))
    return whole, {name: amount * known.value(name) for name, amount in terms.items()}


def _rate(tokens: float, seconds: Interval) -> Interval:
    return Interval(tokens / seconds.value, tokens / seconds.high, tokens / seconds.low)


def _rows(found: "Solution", batch_tokens: float) -> int:
    return max(1, int(batch_tokens // (found.shape.tokens_per_row * found.goal.devices)))
