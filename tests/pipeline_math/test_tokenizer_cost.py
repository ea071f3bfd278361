"""Tokenizer: published compression and times, the vocabulary trade, the work of merging against a real run."""

import math
from collections import Counter
from itertools import pairwise

import pytest

from pipeline_math.model_flops_vram import scaling_parameters, shape_of_depth
from pipeline_math.tokenizer_cost import (
    TRAINING_ANCHORS,
    best_vocabulary,
    bits_per_byte_from_nats,
    break_even_vocabulary,
    compression_gain,
    encode_seconds,
    fewer_tokens_share,
    head_train_flops_per_token,
    incremental_training_visits,
    larger_vocabulary_pays,
    naive_training_visits,
    text_bytes_per_flop,
    tokens_of_bytes,
    training_memory_bytes,
    training_seconds,
)

GPT2_BYTES_PER_TOKEN, OWN_BYTES_PER_TOKEN = 4.67, 4.91  # FineWeb-Edu, nanochat


def train_flops(depth, vocab_size):
    shape = shape_of_depth(depth, vocab_size, 2048)
    return 6 * scaling_parameters(shape) + 12 * depth * shape.d_model * 2048, shape.d_model


def test_bits_per_byte_of_gpt2():
    assert bits_per_byte_from_nats(3.28, GPT2_BYTES_PER_TOKEN) == pytest.approx(1.0133, abs=5e-5)


def test_gain_in_bytes_per_token_exceeds_the_tokens_saved():
    assert fewer_tokens_share(OWN_BYTES_PER_TOKEN, GPT2_BYTES_PER_TOKEN) == pytest.approx(0.049, abs=5e-4)
    gain = compression_gain(OWN_BYTES_PER_TOKEN, GPT2_BYTES_PER_TOKEN)
    assert gain > fewer_tokens_share(OWN_BYTES_PER_TOKEN, GPT2_BYTES_PER_TOKEN)
    assert tokens_of_bytes(1e9, GPT2_BYTES_PER_TOKEN) / tokens_of_bytes(1e9, OWN_BYTES_PER_TOKEN) - 1 == pytest.approx(
        gain
    )


@pytest.mark.parametrize(("depth", "megaflops", "share"), [(12, 151.0, 0.170), (20, 251.7, 0.078), (4, 50.3, 0.53)])
def test_doubling_the_vocabulary_does_not_pay_at_equal_compute(depth, megaflops, share):
    total, d_model = train_flops(depth, 32768)
    extra = head_train_flops_per_token(65536 - 32768, d_model)
    assert extra / 1e6 == pytest.approx(megaflops, abs=0.05)
    assert extra / total == pytest.approx(share, abs=0.005 if depth == 4 else 5e-4)
    gain = compression_gain(OWN_BYTES_PER_TOKEN, GPT2_BYTES_PER_TOKEN)
    assert not larger_vocabulary_pays(gain, extra, total)
    assert break_even_vocabulary(32768, d_model, total, gain) < 65536


def test_break_even_is_where_a_larger_vocabulary_stops_paying():
    total, d_model = train_flops(12, 32768)
    limit = break_even_vocabulary(32768, d_model, total, 0.05)
    assert limit > 32768
    for rows, pays in ((limit * 0.999, True), (limit * 1.001, False)):
        extra = head_train_flops_per_token(rows - 32768, d_model)
        assert larger_vocabulary_pays(0.05, extra, total) is pays


def test_best_vocabulary_reads_most_text_per_flop():
    """Compared with a search over vocabularies; it grows with depth."""
    gain = compression_gain(OWN_BYTES_PER_TOKEN, GPT2_BYTES_PER_TOKEN)
    chosen = []
    for depth in (4, 12, 20):
        total, d_model = train_flops(depth, 32768)
        body = total - head_train_flops_per_token(32768, d_model)
        best = best_vocabulary(body, d_model, gain)

        def text_per_flop(rows, body=body, d_model=d_model):
            return rows ** math.log2(1 + gain) / (body + head_train_flops_per_token(rows, d_model))

        assert best == pytest.approx(max(range(256, 65536, 64), key=text_per_flop), abs=64)
        chosen.append(best)
    assert chosen == sorted(chosen)
    with pytest.raises(ValueError, match="gain_per_doubling"):
        best_vocabulary(1e9, 768, 1.0)


@pytest.mark.parametrize("gain", [0.01, 0.05, 0.2, 0.6])
def test_text_per_flop_decides_like_the_rule_up_to_its_linearisation(gain):
    """c / F grows if 1 + gain > 1 + extra / F; the rule's logarithm asks for a little more than that."""
    total, d_model = train_flops(12, 32768)
    extra = head_train_flops_per_token(32768, d_model)
    grows = text_bytes_per_flop(4.0 * (1 + gain), total + extra) > text_bytes_per_flop(4.0, total)
    assert grows is (gain > extra / total)
    assert grows or not larger_vocabulary_pays(gain, extra, total)


def merge_until(words, merges):
    """Byte-pair training by definition; -> (symbols at the start, at the end, merged occurrences)."""
    words = [list(word) for word in words]
    start, merged = sum(map(len, words)), 0
    for _ in range(merges):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best, _count = max(pairs.items(), key=lambda item: (item[1], item[0]))
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                    merged += 1
                i += 1
    return start, sum(map(len, words)), merged


def test_every_merged_occurrence_removes_one_symbol():
    words = ["the", "theory", "of", "these", "themes", "other", "mother", "weather", "whether", "feather"]
    start, end, merged = merge_until(words, 12)
    assert merged > 0
    assert incremental_training_visits(start, end) == start + merged
    assert naive_training_visits(12, start) > incremental_training_visits(start, end)
    assert training_memory_bytes(start) == 8 * start
    assert incremental_training_visits(10, 10) == 10
    with pytest.raises(ValueError, match="final_symbols"):
        incremental_training_visits(10, 11)


def test_published_training_times_and_rates_agree():
    assert [anchor.seconds for anchor in TRAINING_ANCHORS] == [71.4, 34.0]
    for anchor in TRAINING_ANCHORS:
        assert training_seconds(anchor.characters, anchor.characters_per_second) == pytest.approx(anchor.seconds)
    assert encode_seconds(1e9, 1e7, 4) == 25
