"""Step 7, evaluation: what a benchmark costs in FLOPs and seconds, and the scores CORE is made of.

Scoring given options is one forward pass (compute bound), generating answers is decoding (bandwidth bound). Error bars,
sample sizes and pairs are in `statistics`. N counts what multiplies the token stream; a forward pass is 2 N per token.
"""

import math
import statistics as standard_library
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_math.checks import checked, positive, share, whole
from pipeline_math.inference_prefill_decode import decode_seconds
from pipeline_math.statistics import noise_drop, standard_error
from pipeline_math.tokenizer_cost import bits_per_byte_from_nats

BENCHMARK_ITEMS = {"HumanEval": 164, "GSM8K": 1319, "ARC-C": 1172, "ARC-E": 2376, "MMLU": 14042}
"""Items of the test splits of public benchmarks."""
CORE_RUNS = (0.25373, 0.2584, 0.25489, 0.2568, 0.25732, 0.26765, 0.25119)
"""CORE of seven identical runs of karpathy/nanochat, which differ in their seed only."""
CORE_RUN_SD = standard_library.stdev(CORE_RUNS)
"""Standard deviation of CORE between them."""


@dataclass(frozen=True)
class MultipleChoice:
    """A benchmark scored by the likelihood of given options."""

    items: int
    prompt_tokens: float
    """Tokens before the options, few-shot examples included; the mean over items."""
    option_tokens: float
    """Tokens of one option."""
    options: int

    def __post_init__(self) -> None:
        whole(1, items=self.items, options=self.options)
        positive(prompt_tokens=self.prompt_tokens, option_tokens=self.option_tokens)

    def forward_tokens(self, prefix_shared: bool) -> float:
        """Tokens of all passes: items (prompt + options * option) if the prompt is read once, else once per option."""
        prompts = 1 if prefix_shared else self.options
        return self.items * (prompts * self.prompt_tokens + self.options * self.option_tokens)

    def letter_tokens(self) -> float:
        """Tokens if the options are part of the prompt and only the logits of their letters are compared."""
        return self.items * (self.prompt_tokens + self.options * self.option_tokens)


@dataclass(frozen=True)
class Generation:
    """A benchmark whose answers are written by the model."""

    items: int
    prompt_tokens: float
    new_tokens: float
    """Tokens of an answer; the most allowed gives an upper bound."""
    samples_per_item: int = 1

    def __post_init__(self) -> None:
        whole(1, items=self.items, samples_per_item=self.samples_per_item)
        positive(prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens)


@checked
def benchmark_flops(scaling_parameters: float, items: int, tokens_per_item: float, passes_per_item: int = 1) -> float:
    """2 N per token and pass; `passes_per_item` is the number of options unless they share a prefix."""
    return forward_flops(scaling_parameters, items * tokens_per_item * passes_per_item)


@checked
def forward_flops(scaling_parameters: float, tokens: float) -> float:
    """FLOPs of a forward pass, 2 N per token. Left out: attention scores."""
    return 2.0 * scaling_parameters * tokens


@checked
def multiple_choice_seconds(
    benchmark: MultipleChoice, scaling_parameters: float, flops_per_second: float, prefix_shared: bool = True
) -> float:
    """Seconds to score all options, 2 N tokens / R; R is what a forward pass reaches on all devices, n P MFU."""
    positive(flops_per_second=flops_per_second)
    return forward_flops(scaling_parameters, benchmark.forward_tokens(prefix_shared)) / flops_per_second


def prefix_sharing_speedup(benchmark: MultipleChoice) -> float:
    """Tokens without a shared prefix / with one: approaches the number of options for long prompts."""
    return benchmark.forward_tokens(prefix_shared=False) / benchmark.forward_tokens(prefix_shared=True)


@checked
def generation_seconds(
    benchmark: Generation,
    scaling_parameters: float,
    flops_per_second: float,
    seconds_per_decode_step: float,
    decode_batch: int,
) -> float:
    """Seconds to read all prompts once and write all answers: 2 N items n_p / R + n_g TPOT(B) ceil(answers / B).

    Left out: checking the answers, for example running code.
    """
    positive(flops_per_second=flops_per_second)
    whole(1, decode_batch=decode_batch)
    prefill = forward_flops(scaling_parameters, benchmark.items * benchmark.prompt_tokens) / flops_per_second
    answers = benchmark.items * benchmark.samples_per_item
    return prefill + decode_seconds(benchmark.new_tokens, seconds_per_decode_step, answers, decode_batch)


@checked
def seconds_for_error(benchmark_seconds: float, rate: float, items: int, wanted_error: float) -> float:
    """Seconds until the standard error is `wanted_error` (a share), t (SE / e)^2: errors fall with sqrt n."""
    positive(wanted_error=wanted_error)
    share(wanted_error=wanted_error)
    return benchmark_seconds * (standard_error(rate, items) / wanted_error) ** 2


@checked
def bits_per_byte(nats: float, target_bytes: float) -> float:
    """Sum of nats over ln 2 times the bytes of the targets; specials belong in neither sum."""
    positive(target_bytes=target_bytes)
    return bits_per_byte_from_nats(nats, target_bytes)


@checked
def centred_accuracy(accuracy: float, baseline: float) -> float:
    """(acc - baseline) / (1 - baseline): 0 is guessing, 1 perfect, below 0 worse than guessing."""
    share(accuracy=accuracy, baseline=baseline)
    if baseline == 1:
        raise ValueError("baseline=1: allowed are shares below 1; nothing is better than always right")
    return (accuracy - baseline) / (1.0 - baseline)


def core_score(accuracies: Sequence[float], baselines: Sequence[float]) -> float:
    """CORE of DataComp-LM (arXiv 2406.11794): the mean of `centred_accuracy` over its tasks, 22 in the original."""
    if not accuracies or len(accuracies) != len(baselines):
        raise ValueError(
            f"accuracies of {len(accuracies)} tasks, baselines of {len(baselines)}: allowed are as many of both, "
            f"at least one"
        )
    centred = [centred_accuracy(a, b) for a, b in zip(accuracies, baselines, strict=True)]
    return math.fsum(centred) / len(centred)


@checked
def core_noise_drop(run_sd: float = CORE_RUN_SD) -> float:
    """Drop in one pair of runs that is still noise at a one-sided 5 %, 1.645 sd sqrt 2 (`statistics.noise_drop`)."""
    return noise_drop(run_sd)
