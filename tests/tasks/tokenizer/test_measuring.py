"""What is told about a vocabulary, against counts by definition."""

from collections import Counter

import numpy as np
import pytest

from model.tokenizer import Tokenizer, byte_tokenizer_json, train_tokenizer_json
from pipeline_math.model_flops_vram import shape_of_depth, shape_train_flops_per_token
from pipeline_math.tokenizer_cost import head_train_flops_per_token, larger_vocabulary_pays
from tasks.tokenizer.charts import bar_chart, curve_chart
from tasks.tokenizer.measuring import (
    TOKENS_PER_ROW,
    by_size,
    compression,
    count_uses,
    describe_use,
    languages,
    price,
    shortened,
    supported_size,
)
from tests.tasks.tokenizer.test_stage import corpus

TEXTS = corpus()["text"].to_list()
TOKENIZER = Tokenizer.from_json(train_tokenizer_json(TEXTS, 512))


def test_uses_are_counted_over_all_batches() -> None:
    texts = TEXTS * 3  # more than one batch
    assert len(texts) > 1000
    expected = Counter(number for text in texts for number in TOKENIZER.encode(text))
    uses = count_uses(TOKENIZER.encode_batch, texts, TOKENIZER.vocab_size)
    assert dict(enumerate(uses.tolist())) == {n: expected[n] for n in range(TOKENIZER.vocab_size)}


def test_every_token_is_used_dead_or_an_unused_byte() -> None:
    uses = count_uses(TOKENIZER.encode_batch, TEXTS, TOKENIZER.vocab_size)
    said = describe_use(TOKENIZER, uses)
    assert said["used_tokens"] + said["dead_tokens"] + said["unused_bytes"] == TOKENIZER.ordinary_tokens
    assert said["dead_tokens"] > 0
    number = next(n for n in range(256, 503) if uses[n] == 0)
    assert said["dead_samples"][0] == TOKENIZER.decode([number])
    assert len(said["longest_tokens"][0].encode()) == max(TOKENIZER.bytes_per_id())
    ordered = sorted(uses.tolist(), reverse=True)
    half = said["tokens_of_half_the_text"]
    assert sum(ordered[: half - 1]) < sum(ordered) / 2 <= sum(ordered[:half])


def test_a_shortened_vocabulary_encodes_as_one_trained_for_that_size() -> None:
    small = Tokenizer.from_json(train_tokenizer_json(TEXTS, 384))
    assert shortened(TOKENIZER, 384, 1)(TEXTS[:50]) == small.encode_batch(TEXTS[:50])
    assert shortened(TOKENIZER, 512, 1)(TEXTS[:50]) == TOKENIZER.encode_batch(TEXTS[:50])


def test_the_supported_size_is_where_the_last_merge_was_made_twice() -> None:
    texts = ["abcdefgh" * 2, "abxy"]
    tokenizer = Tokenizer.from_json(train_tokenizer_json([*TEXTS[:5], *texts], 448))
    allowed = supported_size(tokenizer, lambda: [*TEXTS[:5], *texts], 1)
    assert 320 <= allowed < tokenizer.vocab_size
    for size, is_supported in ((allowed, True), (allowed + 64, False)):
        last = size - 9 - 1
        uses = count_uses(shortened(tokenizer, size, 1), [*TEXTS[:5], *texts], last + 1)
        assert bool(uses[last] >= 2) is is_supported


def test_groups_add_up_and_equal_vocabularies_compress_alike() -> None:
    groups = ["a", "b", "a", ""] * 10
    found = compression(TEXTS[:40], groups, TOKENIZER.encode_batch, {"same": TOKENIZER.encode_batch})
    assert {name: entry["documents"] for name, entry in found.items()} == {"": 10, "a": 20, "b": 10}
    assert sum(entry["tokens"] for entry in found.values()) == sum(len(TOKENIZER.encode(t)) for t in TEXTS[:40])
    assert sum(entry["bytes"] for entry in found.values()) == sum(len(t.encode()) for t in TEXTS[:40])
    assert all(entry["others"]["same"] == entry["bytes_per_token"] for entry in found.values())


def test_smaller_vocabularies_compress_less() -> None:
    big = Tokenizer.from_json(train_tokenizer_json(TEXTS, 1280))
    rows = by_size(big, TEXTS[:50], 1)
    assert [row["vocab_size"] for row in rows] == [320, 640, 1280]
    ratios = [row["bytes_per_token"] for row in rows]
    assert ratios == sorted(ratios)
    assert len(by_size(Tokenizer.from_json(byte_tokenizer_json()), TEXTS[:5], 1)) == 1


@pytest.mark.parametrize("gain", [0.02, 0.10, 0.30])
def test_the_break_even_agrees_with_the_rule_of_pipeline_math(gain: float) -> None:
    rows = price([{"vocab_size": 8192, "bytes_per_token": 3.0}, {"vocab_size": 16384, "bytes_per_token": 3 + 3 * gain}])
    assert [row["depth"] for row in rows] == [4, 12, 20]
    for row in rows:
        shape = shape_of_depth(row["depth"], 8192, TOKENS_PER_ROW)
        extra = head_train_flops_per_token(8192, shape.d_model)
        pays = larger_vocabulary_pays(gain, extra, shape_train_flops_per_token(shape))
        assert (row["break_even_vocabulary"] >= 16384) is pays
        assert row["gain_of_last_doubling"] == pytest.approx(gain)
        # Both rules compare logarithms; near the border the linear one is the stricter.
        assert row["best_measured"] == 16384 or not pays
    assert "break_even_vocabulary" not in price([{"vocab_size": 320, "bytes_per_token": 1.0}])[0]


def test_languages_are_told_apart_and_code_is_unsure() -> None:
    english = "The quick brown fox jumps over the lazy dog while the children are playing in the garden. " * 3
    german = "Der Bundestag hat mit der Mehrheit seiner Mitglieder das folgende Gesetz beschlossen und verkündet. " * 3
    assert languages([english, german, "0123 4567 89"]) == ["en", "de", "unsure"]


def test_pictures_escape_names_and_survive_a_single_point() -> None:
    bars = bar_chart({"<own>": {"<b>" * 9: 2.0, "": 0.0}, "gpt2": {"<b>" * 9: 1.0, "": 3.0}})
    assert "<b>" not in bars and "<own>" not in bars
    assert "&lt;own&gt;" in bars
    assert "nan" not in curve_chart([(320, 1.0)], {"<x>": 3.0}).lower()
    assert np.isfinite([float(part) for part in curve_chart([(320, 1.0)], {}).split('cx="')[1].split('"')[:1]]).all()
