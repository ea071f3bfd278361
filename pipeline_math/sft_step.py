"""Steps 6 and 6b, chat training: what masked tokens and reinforcement-learning rollouts cost."""


def flops_per_supervised_token(train_flops_per_token: float, supervised_share: float) -> float:
    """F / eta in FLOP per token with a target: masked tokens pay the full price."""
    return train_flops_per_token / supervised_share


def masked_head_flops_saved_per_token(vocab_size: int, d_model: int, supervised_share: float) -> float:
    """6 V d (1 - eta): FLOP/token saved by leaving masked positions out of head and loss."""
    return 6.0 * vocab_size * d_model * (1.0 - supervised_share)


def useful_group_probability(pass_rate: float, group_size: int) -> float:
    """Chance that G samples of one problem are neither all right nor all wrong: 1 - p^G - (1 - p)^G."""
    return 1.0 - pass_rate**group_size - (1.0 - pass_rate) ** group_size


def rl_update_flops(scaling_parameters: float, samples: int, prompt_tokens: float, new_tokens: float) -> float:
    """FLOPs of one policy update, 6 N times all tokens of all samples. Left out: attention scores."""
    return 6.0 * scaling_parameters * samples * (prompt_tokens + new_tokens)


def rollout_seconds(new_tokens: float, seconds_per_decode_step: float, samples: int, decode_batch: int) -> float:
    """Seconds to sample `samples` answers, n_g TPOT(B) ceil(samples / B). Left out: prefill."""
    return new_tokens * seconds_per_decode_step * -(-samples // decode_batch)
