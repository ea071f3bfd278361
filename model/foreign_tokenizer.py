"""Tokenizers made elsewhere: tiktoken rank files, tokenizer.json, Hugging Face folders.

What is taken over are the tokens, their ids and the split pattern; special tokens keep their ids by name. What is left
out on purpose: normalisation (ids must lead back to the very same bytes) and tokens that a post-processor would add
(BOS is added where rows are made). `notes` says which of these a file had.
Covered: byte-level BPE whose ids are merge ranks (GPT-2, GPT-4, Llama 3, Qwen and their like).
Not covered: SentencePiece and WordPiece models, and several split patterns after one another.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any, NamedTuple

from model.tokenizer import SPLIT_PATTERN, byte_to_letter

SPLIT_PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": SPLIT_PATTERN.replace(r"\p{N}{1,2}", r"\p{N}{1,3}"),
    "zero2chat": SPLIT_PATTERN,
}
"""How text is cut before merging. `zero2chat` is GPT-4's with two digits a token at most."""
RANK_SUFFIX = ".tiktoken"
_NEXT = "next: name a tokenizer.json of byte-level BPE, the folder that holds one, or a *.tiktoken rank file"


class Vocabulary(NamedTuple):
    """What a tokenizer file says."""

    ranks: dict[bytes, int]
    """Token -> id, which is its merge rank."""
    pattern: str
    added: tuple[str, ...]
    """Names of the ids behind the ordinary tokens, in order."""
    notes: tuple[str, ...]
    """What the file had that is left out."""


def read_vocabulary(path: Path, split_pattern: str) -> Vocabulary:
    """Read a file or folder; `split_pattern` names the pattern of a rank file, which has none of its own.

    ValueError says what is missing or cannot be taken over.
    """
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; {_NEXT}")
    if path.suffix == RANK_SUFFIX:
        return Vocabulary(read_ranks(path), SPLIT_PATTERNS[split_pattern], (), ())
    return _read_json(path)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank of a tiktoken rank file: lines of base64 and rank. ValueError names the line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token, value = base64.b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"{path}:{number}: found {line[:80]!r}; allowed: a token in base64, a space, its rank; {_NEXT}"
            ) from None
        if token in ranks:
            raise ValueError(f"{path}:{number}: token {token!r} stands twice; allowed: once; next: fetch the file anew")
        ranks[token] = value
    _check_ranks(ranks, str(path))
    return ranks


def _check_ranks(ranks: dict[bytes, int], where: str) -> None:
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{where}: {len(ranks)} tokens do not have the ids 0..{len(ranks) - 1}, each once; {_NEXT}")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(
            f"{where}: {len(missing)} of the 256 bytes have no token, the first is {missing[0]:#04x}; needed: all, so "
            f"that every text can be encoded; {_NEXT}"
        )


def _read_json(path: Path) -> Vocabulary:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        model, vocab, steps = data["model"], data["model"]["vocab"], _steps(data["pre_tokenizer"])
        named = {token["content"]: token["id"] for token in data["added_tokens"]}
        numbers = all(isinstance(number, int) for number in (*vocab.values(), *named.values()))
        if model.get("type", "BPE") != "BPE" or not numbers:
            raise ValueError(f"model.type is {model.get('type')!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a byte-level BPE tokenizer.json ({error!r}); {_NEXT}") from None
    letters = {letter: byte for byte, letter in byte_to_letter().items()}
    ordinary = {text: number for text, number in vocab.items() if text not in named}
    foreign = next((text for text in ordinary if not set(text) <= letters.keys()), None)
    if foreign is not None:
        raise ValueError(f"{path}: token {foreign!r} is not written in the byte-level alphabet; {_NEXT}")
    ranks = {bytes(letters[letter] for letter in text): number for text, number in ordinary.items()}
    _check_ranks(ranks, str(path))
    added = sorted(named, key=named.__getitem__)
    if [named[name] for name in added] != list(range(len(ranks), len(ranks) + len(added))):
        raise ValueError(
            f"{path}: the {len(added)} added tokens do not have the ids {len(ranks)}..{len(ranks) + len(added) - 1}, "
            f"each once, behind the {len(ranks)} ordinary ones; {_NEXT}"
        )
    return Vocabulary(ranks, _pattern(steps, path), tuple(added), _left_out(data))


def _steps(pre_tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    return pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]


def _pattern(steps: list[dict[str, Any]], path: Path) -> str:
    kinds = [step.get("type") for step in steps]
    level = steps[-1]
    if kinds[-1:] == ["ByteLevel"] and not level.get("add_prefix_space", True):
        uses_own = level.get("use_regex", True)
        if kinds == ["ByteLevel"] and uses_own:
            return SPLIT_PATTERNS["gpt2"]
        split = steps[0]
        isolates = split.get("behavior") == "Isolated" and not split.get("invert")
        if kinds == ["Split", "ByteLevel"] and not uses_own and isolates and "Regex" in split.get("pattern", {}):
            return str(split["pattern"]["Regex"])
    raise ValueError(
        f"{path}: the pre-tokenizer is {json.dumps(steps)[:300]}; allowed: ByteLevel with GPT-2's pattern, or one "
        f"isolating Split by a regular expression and ByteLevel without, both without a space in front; {_NEXT}"
    )


def _left_out(data: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if data.get("normalizer"):
        notes.append(f"normalisation ({data['normalizer'].get('type')}): text is encoded as it is")
    post = data.get("post_processor")
    if post and post.get("type") != "ByteLevel":
        notes.append(f"post-processing ({post.get('type')}): no token is added by itself")
    ordinary = sum(not token.get("special") for token in data["added_tokens"])
    if ordinary:
        notes.append(f"{ordinary} added token(s) that text could spell: here only code can place them")
    return tuple(notes)
