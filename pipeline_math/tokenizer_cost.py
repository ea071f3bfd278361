"""Step 2, tokenizer: training time, compression, bits per byte, and what a larger vocabulary costs.

Training is compute bound and needs no accelerator; compression and bits per byte are statistics of the text they are
measured on, so the text is named wherever they are quoted.
"""

import math
from dataclasses import dataclass

from pipeline_math.checks import checked, positive, whole

BYTES_PER_SYMBOL_IN_TRAINING = 8
"""4 for the id of a symbol in its word, 4 for the word's number in the index of pairs."""


@dataclass(frozen=True)
class TrainingAnchor:
    """A published time of byte-pair training."""

    machine: str
    characters: float
    vocab_size: int
    seconds: float
    source: str

    @property
    def characters_per_second(self) -> float:
        """Rate of the whole training; most of it is counting words, which is what scales with the text."""
        return self.characters / self.seconds


TRAINING_ANCHORS = (
    TrainingAnchor("240-core host of 8 A100", 2e9, 65536, 71.4, "nanochat's Rust trainer, report of richardprobe"),
    TrainingAnchor("Apple M3 Max", 2e9, 32768, 34.0, "nanochat runs/runcpu.sh"),
)
"""Published training times: more cores do not help beyond counting, merges are made one after the other."""


@checked
def training_seconds(characters: float, characters_per_second: float) -> float:
    """Seconds to train, text / rate. Left out: the merges, which depend on the number of unique words instead."""
    positive(characters_per_second=characters_per_second)
    return characters / characters_per_second


@checked
def naive_training_visits(merges: int, unique_word_symbols: float) -> float:
    """Symbols read when every merge scans every unique word again: merges * symbols, an upper bound.

    `unique_word_symbols` is the sum of the lengths of all distinct words, in bytes at the start. It shrinks while
    merging, which is left out.
    """
    whole(0, merges=merges)
    return merges * unique_word_symbols


@checked
def incremental_training_visits(unique_word_symbols: float, final_symbols: float) -> float:
    """Symbols touched by training with an index of pairs and a heap: S + (S - S_end), whatever the number of merges.

    The first S count the pairs; every merged occurrence removes exactly one symbol, so S - S_end occurrences are
    visited. Each one changes the counts of up to four neighbouring pairs, a factor left out together with the
    logarithm of the heap.
    """
    if final_symbols > unique_word_symbols:
        raise ValueError(
            f"final_symbols={final_symbols:g}: allowed are at most unique_word_symbols, merges only remove"
        )
    return unique_word_symbols + (unique_word_symbols - final_symbols)


@checked
def training_memory_bytes(unique_word_symbols: float) -> float:
    """Bytes of the words and the index of pairs, 8 per symbol. Left out: containers, and the text while counting."""
    return unique_word_symbols * BYTES_PER_SYMBOL_IN_TRAINING


@checked
def encode_seconds(text_bytes: float, bytes_per_core_second: float, cores: int) -> float:
    """Seconds to tokenize a text, bytes / (rate * cores): documents are independent."""
    positive(bytes_per_core_second=bytes_per_core_second)
    whole(1, cores=cores)
    return text_bytes / (bytes_per_core_second * cores)


@checked
def bits_per_byte_from_nats(nats_per_token: float, bytes_per_token: float) -> float:
    """bpb = nats / (ln 2 * bytes per token). Exact only if special tokens are in neither mean."""
    positive(bytes_per_token=bytes_per_token)
    return nats_per_token / (math.log(2.0) * bytes_per_token)


@checked
def tokens_of_bytes(text_bytes: float, bytes_per_token: float) -> float:
    """Tokens of a text at a compression of `bytes_per_token`."""
    positive(bytes_per_token=bytes_per_token)
    return text_bytes / bytes_per_token


@checked
def compression_gain(bytes_per_token: float, reference_bytes_per_token: float) -> float:
    """Relative gain in bytes per token over a reference, c / c_ref - 1 >= -1; the same text must have been measured."""
    positive(bytes_per_token=bytes_per_token, reference_bytes_per_token=reference_bytes_per_token)
    return bytes_per_token / reference_bytes_per_token - 1.0


@checked
def fewer_tokens_share(bytes_per_token: float, reference_bytes_per_token: float) -> float:
    """Share of tokens saved against a reference, 1 - c_ref / c: always a little below the gain in bytes per token."""
    positive(bytes_per_token=bytes_per_token, reference_bytes_per_token=reference_bytes_per_token)
    return 1.0 - reference_bytes_per_token / bytes_per_token


@checked
def head_train_flops_per_token(vocab_size: int, d_model: int) -> float:
    """FLOP/token of the output head in training, 6 V d. Left out: softmax and its gradient."""
    return 6.0 * vocab_size * d_model


@checked
def larger_vocabulary_pays(compression_gain: float, extra_flops: float, train_flops_per_token: float) -> bool:
    """True if ln(1 + gain in bytes/token) exceeds the relative extra FLOPs per token, delta F / F.

    `compression_gain` 0.05 means 5 % more bytes per token. Left out: rarer tokens are learnt worse.
    """
    positive(train_flops_per_token=train_flops_per_token)
    return math.log1p(compression_gain) > extra_flops / train_flops_per_token


@checked
def break_even_vocabulary(
    vocab_size: int, d_model: int, train_flops_per_token: float, compression_gain: float
) -> float:
    """Rows up to which a vocabulary may grow for a given gain in bytes/token: V + F ln(1 + gain) / (6 d).

    Where `larger_vocabulary_pays` turns. `train_flops_per_token` is F at the present vocabulary V.
    """
    whole(1, vocab_size=vocab_size, d_model=d_model)
    return vocab_size + train_flops_per_token * math.log1p(compression_gain) / head_train_flops_per_token(1, d_model)


@checked
def text_bytes_per_flop(bytes_per_token: float, train_flops_per_token: float) -> float:
    """Bytes of text read per FLOP of training, c / F: of several measured vocabularies the largest value is the best.

    The rule of `larger_vocabulary_pays` without its formula for F. Left out: as in `best_vocabulary`.
    """
    positive(train_flops_per_token=train_flops_per_token)
    return bytes_per_token / train_flops_per_token


@checked
def best_vocabulary(body_train_flops_per_token: float, d_model: int, gain_per_doubling: float) -> float:
    """Vocabulary that reads most text per training FLOP: g F_body / (6 d (1 - g)), g = log2(1 + gain per doubling).

    From bytes/token ~ V^g and F = F_body + 6 V d, (d/dV)(g ln V - ln F) = 0. `body_train_flops_per_token` is F
    without the head. ASSUMPTION: the gain per doubling is the same at every size; it falls as V grows. Left out: the
    embedding table (memory only), inference, and that rarer tokens are learnt worse.
    """
    whole(1, d_model=d_model)
    if gain_per_doubling >= 1:
        raise ValueError(
            f"gain_per_doubling={gain_per_doubling}: allowed are shares below 1 (twice the bytes per token)"
        )
    exponent = math.log2(1.0 + gain_per_doubling)
    return exponent * body_train_flops_per_token / (head_train_flops_per_token(1, d_model) * (1.0 - exponent))
