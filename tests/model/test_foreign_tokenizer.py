"""Vocabularies made elsewhere: taken over with equal ids, or refused with the reason."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as TokenizerFile
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from model.foreign_tokenizer import SPLIT_PATTERNS, read_ranks, read_vocabulary
from model.tokenizer import SPECIAL_TOKENS, Tokenizer, tokenizer_json, train_tokenizer_json, with_specials

TEXTS = [
    "the model reads a row of tokens, it's 12345 rows; WE'LL see\n\n  naïve café 東京 привет " * 4,
    "aaaa abab " * 9,
]
PROBES = [*TEXTS, "", " \t\n\r\n x", "don't 'S 1234567 ___ <|endoftext|>", "\u3000é\u0301\u017f'\u017f", "ﬁ ⅷ"]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def _foreign(gpt2_style: bool, specials: list[str]) -> TokenizerFile:
    """A file as others write it: GPT-2's ByteLevel, or a Split like Llama 3's."""
    file = TokenizerFile(BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2_style)
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERNS["gpt4"]), "isolated")
    file.pre_tokenizer = level if gpt2_style else pre_tokenizers.Sequence([split, level])
    file.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    file.train_from_iterator(TEXTS, trainer)
    file.add_special_tokens(specials)
    return file


def _taken_over(path: Path, split_pattern: str = "zero2chat") -> Tokenizer:
    found = read_vocabulary(path, split_pattern)
    added = with_specials(found.added, len(found.ranks))
    return Tokenizer.from_json(tokenizer_json(found.ranks, found.pattern, added))


@pytest.mark.parametrize("gpt2_style", [True, False], ids=["gpt2", "llama3"])
def test_a_hugging_face_folder_keeps_its_ids(tmp_path: Path, gpt2_style: bool) -> None:
    theirs = _foreign(gpt2_style, ["<|endoftext|>", "<|bos|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = _taken_over(tmp_path)
    assert ours.vocab_size == 384
    assert ours.special_id("<|endoftext|>") == theirs.token_to_id("<|endoftext|>")
    assert ours.bos_id == theirs.token_to_id("<|bos|>")
    assert {ours.special_id(name) for name in SPECIAL_TOKENS} == {ours.bos_id, *range(376, 384)}
    for text in PROBES:
        plain = text.replace("<|endoftext|>", "")  # their encoder turns the name into its id
        assert ours.encode(plain) == theirs.encode(plain, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text


def test_our_own_file_comes_back_as_it_was(tmp_path: Path) -> None:
    content = train_tokenizer_json(TEXTS, 320)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    assert _taken_over(tmp_path / "tokenizer.json").sha256 == Tokenizer.from_json(content).sha256


def test_a_rank_file_takes_the_pattern_asked_for(tmp_path: Path) -> None:
    trained = Tokenizer.from_json(train_tokenizer_json(TEXTS, 320, SPLIT_PATTERNS["gpt4"]))
    tokens = [trained.decode_bytes([number]) for number in range(trained.ordinary_tokens)]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    path = tmp_path / "x.tiktoken"
    path.write_text("\n".join(reversed(lines)) + "\n\n", encoding="utf-8")
    for name, pattern in SPLIT_PATTERNS.items():
        ours = _taken_over(path, name)
        assert ours.split_pattern == pattern
        assert ours.decode_bytes(range(311)) == b"".join(tokens)
    assert [_taken_over(path, "gpt4").encode(text) for text in PROBES] == [trained.encode(text) for text in PROBES]


def test_both_libraries_cut_before_the_same_characters() -> None:
    """Every character of the basic plane behind a letter, a space and a digit: the two regular expression engines
    bring their own Unicode tables, which may come to differ with a new version of either."""
    import tiktoken

    split = pre_tokenizers.Split(Regex(SPLIT_PATTERNS["zero2chat"]), "isolated")
    plane = [chr(point) for point in range(0x10000) if not 0xD800 <= point < 0xE000]
    different = []
    for before in ("a", " ", "1"):
        ranks = {bytes([byte]): byte for byte in range(256)}
        pairs = [(before + character).encode() for character in plane]
        for pair in pairs:  # every suffix is a token: what is not cut becomes one
            for length in range(2, len(pair) + 1):
                ranks.setdefault(pair[-length:], len(ranks))
        fast = tiktoken.Encoding("pairs", pat_str=SPLIT_PATTERNS["zero2chat"], mergeable_ranks=ranks, special_tokens={})
        for pair, ids in zip(pairs, fast.encode_ordinary_batch([pair.decode() for pair in pairs]), strict=True):
            if (len(ids) == 1) != (len(split.pre_tokenize_str(pair.decode())) == 1):
                different.append(pair.decode())
    assert different == []


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    file = _foreign(False, [])
    file.normalizer = normalizers.NFC()
    file.add_tokens(["<tool>"])
    file.save(str(tmp_path / "tokenizer.json"))
    found = read_vocabulary(tmp_path, "zero2chat")
    assert [note.split(" (")[0] for note in found.notes] == [
        "normalisation",
        "1 added token(s) that text could spell: here only code can place them",
    ]
    assert "<tool>" in found.added


def test_unfit_rank_files_are_refused_by_line(tmp_path: Path) -> None:
    good = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    path = tmp_path / "x.tiktoken"
    for lines, message in [
        (["%%% 0"], r":1: found b'%%% 0'; allowed: a token in base64"),
        (["YQ== one"], ":1: found"),
        ([*good, good[0]], ":257: token .* stands twice"),
        (good[:-1], "1 of the 256 bytes have no token, the first is 0xff"),
        ([*good, "YWI= 300"], r"257 tokens do not have the ids 0\.\.256"),
        ([], "256 of the 256 bytes"),
    ]:
        path.write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_ranks(path)


def _without(data: dict[str, Any], *path: str) -> dict[str, Any]:
    copy = json.loads(json.dumps(data))
    inside = copy
    for name in path[:-1]:
        inside = inside[name]
    del inside[path[-1]]
    return copy


def test_unfit_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    data = json.loads(_foreign(False, ["<s>"]).to_str())
    pre = data["pre_tokenizer"]["pretokenizers"]
    spaced = [pre[0], {**pre[1], "add_prefix_space": True}]
    shifted = [{**data["added_tokens"][0], "id": 999}]
    first = next(iter(data["model"]["vocab"]))
    for changed, message in [
        (None, "does not exist; next: name a tokenizer.json"),
        ({}, "is not a byte-level BPE"),
        ({**data, "model": {**data["model"], "type": "WordPiece"}}, "model.type is 'WordPiece'"),
        ({**data, "model": {**data["model"], "vocab": {"▁the": 0}}}, "'▁the' is not written in the byte-level"),
        (_without(data, "model", "vocab", first), "do not have the ids"),
        ({**data, "pre_tokenizer": {"type": "Sequence", "pretokenizers": spaced}}, "the pre-tokenizer is"),
        ({**data, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pre[0], *pre]}}, "the pre-tokenizer is"),
        ({**data, "added_tokens": shifted}, "the 1 added tokens do not have the ids 330..330"),
    ]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        if changed is not None:
            (folder / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_vocabulary(folder, "gpt4")


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the development data")
@pytest.mark.parametrize(
    ("name", "pattern", "size"), [("r50k_base_gpt2", "gpt2", 50304), ("cl100k_base", "gpt4", 100288)]
)
def test_the_vocabularies_of_gpt2_and_gpt4_are_taken_over(name: str, pattern: str, size: int) -> None:
    import polars as pl

    path = SHARED / f"tokenizers/{name}.tiktoken"
    found = read_vocabulary(path, pattern)
    content = tokenizer_json(found.ranks, found.pattern, with_specials((), len(found.ranks)))
    ours, reference = Tokenizer.from_json(content), TokenizerFile.from_str(content)
    assert ours.vocab_size == size
    texts = pl.read_parquet(SHARED / "corpus/corpus-007.parquet", columns=["text"])["text"].head(60).to_list()
    texts += PROBES
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        assert ids == reference.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == text
