"""The tokenizer: two encoders with equal ids, exact round trips, specials that text cannot reach."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizerFile

from model.tokenizer import (
    SMALLEST_VOCAB,
    SPECIAL_TOKENS,
    IncrementalDecoder,
    Tokenizer,
    byte_tokenizer_json,
    train_tokenizer_json,
)

WORDS = "the model reads a row of tokens and it's not 1234567 rows; we'll see\n\n    def f(x):\n        return x ** 2 "
MORE = "packing splits documents; training predicts the following token from everything before it " * 2
TEXTS = [WORDS * 3, MORE, "naïve café größer 東京 привет " * 5, "aaaa aaaaa aaaaaaa abababab bababa " * 4]
TRAINED = train_tokenizer_json(TEXTS, 384)

text_with_known_words = st.lists(
    st.sampled_from([*WORDS.split(), " ", "\n", "\r\n", "é", "東京", "aaa", "ab", "'S", "12", "<|bos|>"])
    | st.text(max_size=5),
    max_size=20,
).map("".join)


@pytest.fixture(scope="module", params=["trained", "byte"])
def content(request: pytest.FixtureRequest) -> str:
    return TRAINED if request.param == "trained" else byte_tokenizer_json()


@settings(max_examples=150, deadline=None)
@given(text_with_known_words)
def test_fast_encoder_equals_the_reference_and_round_trips(text: str) -> None:
    """Reference: the `tokenizers` library on the same file. Catches a wrong split pattern or ids out of merge order."""
    for content in (TRAINED, byte_tokenizer_json()):
        tokenizer = Tokenizer.from_json(content)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        if not any(name in text for name in SPECIAL_TOKENS):  # the reference turns those names into ids
            assert ids == TokenizerFile.from_str(content).encode(text, add_special_tokens=False).ids


def test_text_never_becomes_a_special_token(content: str) -> None:
    """A user who types <|assistant_end|> must not be able to end a turn."""
    tokenizer = Tokenizer.from_json(content)
    lowest = min(tokenizer.special_id(name) for name in SPECIAL_TOKENS)
    for name in (*SPECIAL_TOKENS, "<|reserved_0|>"):
        ids = tokenizer.encode(f"a{name}b")
        assert ids
        assert max(ids) < lowest
        assert tokenizer.decode(ids) == f"a{name}b"
        assert tokenizer.encode_batch([f"a{name}b"]) == [ids]


def test_specials_are_the_last_ids_in_order(content: str) -> None:
    tokenizer = Tokenizer.from_json(content)
    assert tokenizer.vocab_size % 64 == 0
    ids = [tokenizer.special_id(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(tokenizer.vocab_size - 9, tokenizer.vocab_size))
    assert tokenizer.bos_id == ids[0]


def test_bytes_per_id_adds_up_to_the_text(content: str) -> None:
    """The denominator of bits per byte: a table off by one would shift every reported loss."""
    tokenizer = Tokenizer.from_json(content)
    table = tokenizer.bytes_per_id()
    text = "".join(TEXTS)
    assert len(table) == tokenizer.vocab_size
    assert sum(table[number] for number in tokenizer.encode(text)) == len(text.encode())
    assert [table[tokenizer.special_id(name)] for name in SPECIAL_TOKENS] == [0] * 9


def test_decode_names_specials_or_leaves_them_out(content: str) -> None:
    tokenizer = Tokenizer.from_json(content)
    ids = [tokenizer.bos_id, *tokenizer.encode("hi")]
    assert tokenizer.decode(ids) == "<|bos|>hi"
    assert tokenizer.decode(ids, specials=False) == "hi"
    assert tokenizer.decode_bytes(ids) == b"hi"
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([-1])  # a negative index would silently name the last token


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_incremental_decoder_never_shows_half_a_character(text: str) -> None:
    tokenizer = Tokenizer.from_json(byte_tokenizer_json())
    decoder = IncrementalDecoder(tokenizer)
    shown = [decoder.push(number) for number in tokenizer.encode(text)]
    assert "".join(shown) + decoder.flush() == text
    assert decoder.flush() == ""


def test_incremental_decoder_flushes_a_broken_character() -> None:
    tokenizer = Tokenizer.from_json(byte_tokenizer_json())
    decoder = IncrementalDecoder(tokenizer)
    first_of_two = tokenizer.encode("é")[0]
    assert decoder.push(first_of_two) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(tokenizer.encode("a")[0]) == "a"


def test_training_is_deterministic_and_independent_of_grouping() -> None:
    assert train_tokenizer_json(TEXTS, 384) == TRAINED
    assert train_tokenizer_json(iter(TEXTS[::-1]), 384) == TRAINED


def test_vocabulary_sizes_are_checked() -> None:
    for size in (SMALLEST_VOCAB - 64, 383, 0):
        with pytest.raises(ValueError, match="multiples of 64"):
            train_tokenizer_json(TEXTS, size)


def test_batch_equals_one_by_one_for_any_number_of_threads() -> None:
    tokenizer = Tokenizer.from_json(TRAINED)
    expected = [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS, threads=1) == tokenizer.encode_batch(TEXTS, threads=3) == expected


def test_unpaired_surrogates_are_encoded_as_replacement_characters() -> None:
    """JSON can smuggle a lone surrogate into a chat request; it must not crash the server."""
    tokenizer = Tokenizer.from_json(TRAINED)
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def _changed(**changes: object) -> str:
    data = json.loads(TRAINED)
    data["model"] |= changes.get("model", {})
    if "added_tokens" in changes:
        data["added_tokens"] = changes["added_tokens"]
    return json.dumps(data)


def test_foreign_files_are_refused() -> None:
    data = json.loads(TRAINED)
    added, merges = data["added_tokens"], data["model"]["merges"]
    for content, message in [
        ("not json", "not a byte-level BPE"),
        ('{"model": {}}', "not a byte-level BPE"),
        (_changed(added_tokens=added[1:]), r"no special token <\|bos\|>"),
        (_changed(model={"merges": merges[::-1]}), "merge order"),
        (_changed(model={"vocab": {k: v for k, v in data["model"]["vocab"].items() if v != 300}}), "ids are not"),
        (_changed(model={"vocab": {k + "€": v for k, v in data["model"]["vocab"].items()}}), "byte-level alphabet"),
    ]:
        with pytest.raises(ValueError, match=message):
            Tokenizer.from_json(content)


def test_transformers_reads_the_file(tmp_path) -> None:
    from transformers import PreTrainedTokenizerFast

    (tmp_path / "tokenizer.json").write_text(TRAINED, encoding="utf-8")
    reader = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert len(reader) == tokenizer.vocab_size
    assert reader.encode(WORDS, add_special_tokens=False) == tokenizer.encode(WORDS)
    assert reader.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [tokenizer.special_id(n) for n in SPECIAL_TOKENS]
