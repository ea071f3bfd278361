"""The tokenizer: two encoders with equal ids, exact round trips, specials that text cannot reach."""

import json
import sys
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizerFile

from model.tokenizer import (
    SMALLEST_VOCAB,
    SPECIAL_TOKENS,
    IncrementalDecoder,
    Tokenizer,
    byte_tokenizer_json,
    merges_of,
    tokenizer_json,
    train_tokenizer_json,
    with_specials,
)

WORDS = "the model reads a row of tokens and it's not 1234567 rows; we'll see\n\n    def f(x):\n        return x ** 2 "
MORE = "packing splits documents; training predicts the following token from everything before it " * 2
TEXTS = [WORDS * 3, MORE, "naïve café größer 東京 привет " * 5, "aaaa aaaaa aaaaaaa abababab bababa " * 4]
TRAINED = train_tokenizer_json(TEXTS, 384)

# Letters that fold to one of the contractions' (long s), white space beyond ASCII, marks, digits of other scripts.
ODD = [
    "'\u017f",
    "'S",
    "'LL",
    "\u0085",
    "\u00a0",
    "\u2028",
    "\u3000",
    "e\u0301",
    "\u0663\u0664\u0665",
    "\u00b2",
    "\U0001f469\u200d",
]
text_with_known_words = st.lists(
    st.sampled_from([*WORDS.split(), " ", "\n", "\r\n", "é", "東京", "aaa", "ab", "12", "<|bos|>", *ODD])
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


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=8), st.characters(categories=["Cs"]), st.text(st.characters(), max_size=8))
def test_surrogates_are_refused_where_the_first_one_stands(before: str, surrogate: str, after: str) -> None:
    """They used to become U+FFFD in silence, so that a text could come back different from what went in."""
    tokenizer = Tokenizer.from_json(TRAINED)
    text = before + surrogate + after
    place = rf"surrogate '\\u{ord(surrogate):04x}' at character {len(before)}; allowed"
    with pytest.raises(ValueError, match=f"^text holds the {place}"):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match=f"^text 1 holds the {place}"):
        tokenizer.encode_batch(["fine", text])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("abc é東 ", min_size=1, max_size=30), min_size=1, max_size=8), st.integers(6, 9))
def test_any_trained_vocabulary_is_read_alike_by_both_encoders(texts: list[str], multiples: int) -> None:
    """Random texts of few letters hold many overlapping pairs: the hard case for the order of merges."""
    content = train_tokenizer_json(texts, 64 * multiples)
    assert train_tokenizer_json(texts[::-1], 64 * multiples) == content
    tokenizer, reference = Tokenizer.from_json(content), TokenizerFile.from_str(content)
    for text in texts:
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode_bytes(ids) == text.encode()


def test_merges_are_found_again_from_the_ranks() -> None:
    """Reference: merging by definition, where every merge scans all words."""
    words = ["aaaa", "abab", "aaab", "babab", "aabb"] * 3
    parts = [[bytes([byte]) for byte in word.encode()] for word in words]
    ranks, expected = {bytes([byte]): byte for byte in range(256)}, []
    for _ in range(6):
        pairs = [pair for word in parts for pair in pairwise(word)]
        best = max(pairs, key=lambda pair: (pairs.count(pair), pair))
        expected.append(best)
        ranks[best[0] + best[1]] = len(ranks)
        for word in parts:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = [best[0] + best[1]]
                place += 1
    assert len(ranks) == 262
    assert merges_of(ranks) == expected


def test_ranks_that_are_no_merges_are_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(ValueError, match=r"token b'abcd' of rank 256 is no merger.*next: use another file"):
        merges_of({**ranks, b"abcd": 256})
    with pytest.raises(ValueError, match="b'abc' of rank 256"):
        merges_of({**ranks, b"abc": 256, b"ab": 257})


@given(st.integers(256, 2000), st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|end|>", "<|reserved_0|>"]), unique=True))
def test_missing_specials_are_appended_and_the_size_rounded_up(ordinary: int, own: list[str]) -> None:
    names = with_specials(own, ordinary)
    assert names[: len(own)] == tuple(own)
    assert set(SPECIAL_TOKENS) <= set(names)
    assert len(set(names)) == len(names)
    assert (ordinary + len(names)) % 64 == 0
    assert sum(name.startswith("<|reserved_") and name not in own for name in names) < 64
    missing = [name for name in SPECIAL_TOKENS if name not in own]
    assert list(names[len(names) - len(missing) :]) == missing


def test_the_file_is_what_the_tokenizers_library_would_write() -> None:
    for content in (TRAINED, byte_tokenizer_json()):
        assert json.loads(TokenizerFile.from_str(content).to_str()) == json.loads(content)


def test_half_a_vocabulary_is_the_beginning_of_the_whole() -> None:
    whole, half = Tokenizer.from_json(TRAINED), Tokenizer.from_json(train_tokenizer_json(TEXTS, 320))
    numbers = range(half.ordinary_tokens)
    assert len(numbers) == 311
    assert [whole.decode_bytes([n]) for n in numbers] == [half.decode_bytes([n]) for n in numbers]


def test_specials_may_stand_before_others_in_a_file_made_elsewhere() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    content = tokenizer_json(ranks, ".+", with_specials(("<|bos|>", "<|end|>"), 256))
    tokenizer = Tokenizer.from_json(content)
    assert (tokenizer.bos_id, tokenizer.vocab_size, tokenizer.ordinary_tokens) == (256, 320, 256)
    assert tokenizer.special_id("<|end|>") == 257
    assert max(tokenizer.encode("<|bos|><|end|>")) < 256


@example("\u0000")
@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=sys.maxunicode, exclude_categories=["Cs"]), max_size=40))
def test_no_text_reaches_a_special_token_and_every_one_comes_back(text: str) -> None:
    tokenizer = Tokenizer.from_json(TRAINED)
    ids = tokenizer.encode(text)
    assert all(number < tokenizer.ordinary_tokens for number in ids)
    assert tokenizer.decode_bytes(ids).decode() == text


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
