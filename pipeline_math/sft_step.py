"""Steps 6 and 6b, chat training: what masked tokens, padding and reinforcement-learning rollouts cost.

Fine-tuning is compute bound and pays for every id of a row, with or without a target. Reinforcement learning alternates
rollouts (bandwidth bound) and updates (compute bound). F counts training FLOPs per token, N what multiplies the token
stream. Left out everywhere: start-up, checkpoints, evaluation.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline_math.checks import checked, not_negative, positive, share, whole
from pipeline_math.inference_prefill_decode import decode_seconds
from pipeline_math.tokenizer_cost import head_train_flops_per_token


@dataclass(frozen=True)
class SftCost:
    """One pass over the conversations."""

    row_tokens: float
    """Ids the device processes, padding included."""
    supervised_tokens: float
    """Ids with a target that counts."""
    train_flops: float
    flops_per_supervised_token: float
    seconds: float


@dataclass(frozen=True)
class RlStep:
    """One step of group-relative reinforcement learning: Pq problems, G samples of each (karpathy/nanochat chat_rl)."""

    problems: int
    """Pq."""
    samples_per_problem: int
    """G."""
    prompt_tokens: float
    """n_p, tokens of a prompt."""
    new_tokens: float
    """n_g, tokens of a sample; the most allowed gives an upper bound."""

    def __post_init__(self) -> None:
        whole(1, problems=self.problems, samples_per_problem=self.samples_per_problem)
        not_negative(prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens)

    @property
    def samples(self) -> int:
        """Pq G."""
        return self.problems * self.samples_per_problem

    @property
    def update_tokens(self) -> float:
        """Tokens of one update, Pq G (n_p + n_g)."""
        return self.samples * (self.prompt_tokens + self.new_tokens)


@dataclass(frozen=True)
class RlStepSeconds:
    """Where the time of one step goes."""

    prefill_seconds: float
    decode_seconds: float
    update_seconds: float

    @property
    def total_seconds(self) -> float:
        """Rollout and update, one after the other."""
        return self.prefill_seconds + self.decode_seconds + self.update_seconds


@checked
def flops_per_supervised_token(train_flops_per_token: float, supervised_share: float) -> float:
    """F / eta in FLOP per token with a target: masked tokens and padding pay the full price.

    eta = supervised tokens / all ids of the rows, padding included (`supervised_share_of_rows`).
    """
    positive(supervised_share=supervised_share)
    share(supervised_share=supervised_share)
    return train_flops_per_token / supervised_share


@checked
def supervised_share_of_rows(supervised_tokens: float, conversation_tokens: float, padding_tokens: float) -> float:
    """eta = supervised / (conversation + padding) tokens."""
    positive(conversation_tokens=conversation_tokens)
    if supervised_tokens > conversation_tokens:
        raise ValueError(f"supervised_tokens={supervised_tokens:g}: allowed are at most {conversation_tokens:g}")
    return supervised_tokens / (conversation_tokens + padding_tokens)


@checked
def masked_head_flops_saved_per_token(vocab_size: int, d_model: int, supervised_share: float) -> float:
    """6 V d (1 - eta): FLOP/token saved by leaving masked positions out of head and loss."""
    share(supervised_share=supervised_share)
    return head_train_flops_per_token(vocab_size, d_model) * (1.0 - supervised_share)


@checked
def sft_cost(
    supervised_tokens: float,
    conversation_tokens: float,
    padding_tokens: float,
    train_flops_per_token: float,
    flops_per_second: float,
) -> SftCost:
    """Cost of one pass. `flops_per_second` is what training reaches on all devices together, n P MFU.

    seconds = F (conversation + padding tokens) / (n P MFU).
    """
    positive(flops_per_second=flops_per_second)
    eta = supervised_share_of_rows(supervised_tokens, conversation_tokens, padding_tokens)
    row_tokens = conversation_tokens + padding_tokens
    flops = train_flops_per_token * row_tokens
    per_target = flops_per_supervised_token(train_flops_per_token, eta)
    return SftCost(row_tokens, supervised_tokens, flops, per_target, flops / flops_per_second)


@checked
def useful_group_probability(pass_rate: float, group_size: int) -> float:
    """Chance that G samples of one problem are neither all right nor all wrong: 1 - p^G - (1 - p)^G.

    Only such a group has a group-relative advantage, hence a gradient.
    """
    share(pass_rate=pass_rate)
    whole(1, group_size=group_size)
    return 1.0 - pass_rate**group_size - (1.0 - pass_rate) ** group_size


def useful_group_share(pass_rates: Iterable[float], group_size: int) -> float:
    """Expected share of useful groups over problems of different pass rates: the mean of `useful_group_probability`.

    The mean pass rate alone would promise too much: the chance is concave in p.
    """
    chances = [useful_group_probability(rate, group_size) for rate in pass_rates]
    if not chances:
        raise ValueError("pass_rates: found no problem, allowed is at least one")
    return math.fsum(chances) / len(chances)


@checked
def problems_needed(useful_groups: float, pass_rate: float, group_size: int) -> int:
    """Problems to sample for that many useful groups on average, groups / P(useful), rounded up.

    ValueError where no group can be useful: pass rate 0 or 1, or a single sample.
    """
    chance = useful_group_probability(pass_rate, group_size)
    if chance <= 0:
        raise ValueError(
            f"pass_rate={pass_rate} with group_size={group_size}: no group can be useful; "
            f"take problems that are sometimes solved, and at least two samples of each"
        )
    return math.ceil(useful_groups / chance - 1e-9)


@checked
def rl_update_flops(scaling_parameters: float, samples: int, prompt_tokens: float, new_tokens: float) -> float:
    """FLOPs of one policy update, 6 N times all tokens of all samples. Left out: attention scores."""
    return 6.0 * scaling_parameters * samples * (prompt_tokens + new_tokens)


@checked
def rollout_seconds(
    new_tokens: float,
    seconds_per_decode_step: float,
    samples: int,
    decode_batch: int,
    prefill_seconds: float = 0.0,
) -> float:
    """Seconds to sample `samples` answers: n_g TPOT(B) ceil(samples / B) + prefill."""
    whole(1, decode_batch=decode_batch)
    return prefill_seconds + decode_seconds(new_tokens, seconds_per_decode_step, samples, decode_batch)


@checked
def rl_step_seconds(
    step: RlStep,
    scaling_parameters: float,
    seconds_per_decode_step: float,
    decode_batch: int,
    flops_per_second: float,
) -> RlStepSeconds:
    """Seconds of one step: prefill 2 N Pq n_p / R, decode as `rollout_seconds`, update 6 N Pq G (n_p + n_g) / R.

    `flops_per_second` R is n P MFU, taken to be the same for prefill and update. A problem's prompt is read once and
    shared by its samples. Left out: attention scores, the reward, copying weights to the sampler.
    """
    positive(flops_per_second=flops_per_second)
    prefill_flops = 2.0 * scaling_parameters * step.problems * step.prompt_tokens
    update_flops = rl_update_flops(scaling_parameters, step.samples, step.prompt_tokens, step.new_tokens)
    return RlStepSeconds(
        prefill_flops / flops_per_second,
        rollout_seconds(step.new_tokens, seconds_per_decode_step, step.samples, decode_batch),
        update_flops / flops_per_second,
    )


@checked
def rl_steps_per_epoch(problems: int, problems_per_step: int) -> int:
    """Whole steps of one pass over the problems; the rest is left over."""
    whole(1, problems_per_step=problems_per_step)
    return problems // problems_per_step
