"""Step 2, tokenizer: compression, bits per byte, and what a larger vocabulary costs."""

import math


def bits_per_byte_from_nats(nats_per_token: float, bytes_per_token: float) -> float:
    """bpb = nats / (ln 2 * bytes per token). Exact only if special tokens are in neither mean."""
    return nats_per_token / (math.log(2.0) * bytes_per_token)


def head_train_flops_per_token(vocab_size: int, d_model: int) -> float:
    """FLOP/token of the output head in training, 6 V d. Left out: softmax and its gradient."""
    return 6.0 * vocab_size * d_model


def larger_vocabulary_pays(compression_gain: float, extra_flops: float, train_flops_per_token: float) -> bool:
    """True if ln(1 + gain in bytes/token) exceeds the relative extra FLOPs per token.

    `compression_gain` 0.05 means 5 % more bytes per token. Left out: rarer tokens are learnt worse.
    """
    return math.log1p(compression_gain) > extra_flops / train_flops_per_token


def tokens_of_bytes(text_bytes: float, bytes_per_token: float) -> float:
    """Tokens of a text at a compression of `bytes_per_token`."""
    return text_bytes / bytes_per_token
