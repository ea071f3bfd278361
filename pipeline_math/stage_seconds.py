"""Seconds of every stage, with 90 % intervals: device work from FLOPs, the rest from `machine_constants`.

Stage names appear here as text because this package may import nothing; a test compares them with the pipeline's.
Left out: retries, a cold package cache, other work on the machine.
"""

import math
from dataclasses import dataclass

from pipeline_math.interval import Interval, add_independent, lognormal_interval
from pipeline_math.machine_constants import MachineConstants, constants_of
from pipeline_math.target_budget import Solution, step_overhead_seconds


@dataclass(frozen=True)
class Workload:
    """How much each stage is asked to do; defaults are those of the laptop profile."""

    corpus_bytes: float = 1.2e7
    """Raw text read by the corpus stage."""
    kept_share: float = 0.8
    """Share of it that survives cleaning, filters and duplicates."""
    tokenizer_bytes: float = 1.0e7
    """Text the tokenizer is trained on."""
    evaluations: int = 4
    """Times bits per byte are measured during pretraining."""
    evaluation_tokens: int = 65536
    """Tokens of one such measurement."""
    midtrain_tokens: int = 262144
    sft_tokens: int = 524288
    chat_batch_tokens: int = 8192
    """Tokens per optimizer step of midtraining and fine-tuning."""
    rl_steps: int = 4
    """Policy updates; 0 passes the checkpoint through."""
    rl_samples_per_step: int = 64
    rl_new_tokens: int = 48
    """Most tokens generated per sample."""
    checkpoints: int = 4
    """Checkpoints the evaluation stage scores."""
    benchmark_tokens: int = 100000
    """Prompt tokens of all benchmarks together, per checkpoint."""
    benchmark_decode_steps: int = 500
    """Batched decode steps of all generative benchmarks together, per checkpoint."""


@dataclass(frozen=True)
class _Rates:
    train: float
    """Tokens/s of training on all devices."""
    train_log_sd: float
    constants: MachineConstants

    @property
    def forward(self) -> float:
        """Tokens/s of a forward pass: a third of the FLOPs of training."""
        return 3.0 * self.train


def stage_seconds(found: Solution, work: Workload) -> dict[str, Interval]:
    """Predicted seconds of all fourteen stages, each from process start to committed outputs."""
    hardware = found.goal.hardware
    machine = constants_of(hardware.kind)
    # A given MFU was measured by whoever gave it: ten per cent remain for evaluation, checkpoints and compilation.
    log_sd = hardware.mfu_log_sd if found.goal.mfu is None else 0.06
    rates = _Rates(found.tokens_per_second, log_sd, machine)
    fixed = {
        "budget": 0.0,
        "architecture": machine.torch_seconds,
        "gate": 0.0,
        "export": machine.torch_seconds + machine.export_fixed_seconds,
        "inference": machine.torch_seconds + machine.inference_fixed_seconds,
        "chat": machine.torch_seconds + machine.chat_fixed_seconds,
    }
    seconds = {
        stage: lognormal_interval(machine.process_seconds + extra, machine.fixed_log_sd)
        for stage, extra in fixed.items()
    }
    seconds |= _data_seconds(found, work, machine)
    seconds |= _training_seconds(found, work, rates)
    seconds["evaluation"] = _evaluation_seconds(work, rates)
    return {stage: seconds[stage] for stage in STAGE_ORDER}


STAGE_ORDER = (
    "budget",
    "corpus",
    "tokenizer",
    "shards",
    "architecture",
    "pretrain",
    "midtrain",
    "sft",
    "rl",
    "evaluation",
    "gate",
    "export",
    "inference",
    "chat",
)
"""Order of execution, also that of a printed plan."""


def _data_seconds(found: Solution, work: Workload, machine: MachineConstants) -> dict[str, Interval]:
    kept_bytes = work.corpus_bytes * work.kept_share
    busy = {
        "corpus": machine.corpus_fixed_seconds + work.corpus_bytes / machine.corpus_bytes_per_second,
        "tokenizer": min(work.tokenizer_bytes, kept_bytes) / machine.tokenizer_train_bytes_per_second,
        "shards": kept_bytes / machine.encode_bytes_per_second,
    }
    return {
        stage: lognormal_interval(machine.process_seconds + seconds, machine.data_log_sd)
        for stage, seconds in busy.items()
    }


def _training_seconds(found: Solution, work: Workload, rates: _Rates) -> dict[str, Interval]:
    machine = rates.constants
    overhead = step_overhead_seconds(found.goal.hardware, found.shape)

    def loop(tokens: float, batch_tokens: int, fixed_seconds: float, forward_tokens: float = 0.0) -> Interval:
        steps = math.ceil(tokens / batch_tokens)
        device = tokens / rates.train + steps * overhead + forward_tokens / rates.forward
        start = machine.process_seconds + machine.torch_seconds + machine.training_fixed_seconds + fixed_seconds
        return add_independent(
            [lognormal_interval(device, rates.train_log_sd), lognormal_interval(start, machine.fixed_log_sd)]
        )

    conversations = machine.conversation_tokens_per_second
    samples = work.rl_steps * work.rl_samples_per_step
    decode = work.rl_steps * work.rl_new_tokens * machine.decode_step_seconds
    sample_tokens = 2 * work.rl_new_tokens
    rl_update = loop(
        samples * sample_tokens, work.rl_samples_per_step * sample_tokens, 0.0
    )  # prompt and answer are about equally long
    pass_through = lognormal_interval(machine.process_seconds + machine.torch_seconds, machine.fixed_log_sd)
    rollouts = lognormal_interval(decode, machine.fixed_log_sd)
    return {
        "pretrain": loop(found.train_tokens, found.batch_tokens, 0.0, work.evaluations * work.evaluation_tokens),
        "midtrain": loop(work.midtrain_tokens, work.chat_batch_tokens, work.midtrain_tokens / conversations),
        "sft": loop(work.sft_tokens, work.chat_batch_tokens, work.sft_tokens / conversations),
        "rl": add_independent([rl_update, rollouts]) if work.rl_steps else pass_through,
    }


def _evaluation_seconds(work: Workload, rates: _Rates) -> Interval:
    machine = rates.constants
    start = machine.process_seconds + machine.torch_seconds + machine.evaluation_fixed_seconds
    forward = work.checkpoints * (work.benchmark_tokens + work.evaluation_tokens) / rates.forward
    decode = work.checkpoints * work.benchmark_decode_steps * machine.decode_step_seconds
    return add_independent(
        [
            lognormal_interval(start, machine.fixed_log_sd),
            lognormal_interval(forward, rates.train_log_sd),
            lognormal_interval(decode, machine.fixed_log_sd),
        ]
    )
