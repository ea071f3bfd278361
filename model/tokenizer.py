"""Byte-level BPE tokenizer: one tokenizer.json, two readers that give equal ids.

`transformers` reads tokenizer.json with the `tokenizers` library; the pipeline encodes with tiktoken, built from the
same vocabulary and split pattern, because it is several times faster. The two agree as long as a token's id is also its
merge rank, which `Tokenizer` checks when it loads a file.

Ordinary text never becomes a special token here: the nine specials exist only as ids, so text such as "<|bos|>" typed
by a user is encoded letter by letter and cannot forge a turn.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)

# GPT-4's split pattern with at most two digits per token instead of three (better loss for small vocabularies).
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
BYTE_TOKENS = 256
VOCAB_MULTIPLE = 64
"""Vocabulary sizes are multiples of this: matrix products are fastest on such shapes."""
SMALLEST_VOCAB = -(-(BYTE_TOKENS + len(SPECIAL_TOKENS)) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


@cache
def byte_to_letter() -> dict[int, str]:
    """The printable letter that stands for each byte in tokenizer.json.

    Printable Latin-1 bytes stand for themselves; the others take the code points from 256 upwards, in byte order. This
    is the byte-level alphabet of GPT-2, which `tokenizers` and `transformers` expect.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def train_tokenizer_json(texts: Iterable[str], vocab_size: int) -> str:
    """Train byte-level BPE on `texts`; returns the content of tokenizer.json.

    The result depends on the texts only, not on threads. When the texts hold fewer pairs worth merging than asked for,
    the vocabulary comes out smaller than `vocab_size`: compare with `Tokenizer.vocab_size`.
    ValueError unless `vocab_size` is a multiple of 64 with room for 256 bytes and nine specials.
    """
    from tokenizers import Tokenizer as TokenizerFile
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    if vocab_size < SMALLEST_VOCAB or vocab_size % VOCAB_MULTIPLE:
        raise ValueError(
            f"vocab_size={vocab_size}; allowed: multiples of {VOCAB_MULTIPLE} from {SMALLEST_VOCAB}; "
            f"next: use {max(SMALLEST_VOCAB, round(vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE)}"
        )
    file = TokenizerFile(BPE())
    _add_byte_level(file)
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    file.train_from_iterator(texts, trainer)
    return _with_specials(file, SPECIAL_TOKENS)


def byte_tokenizer_json() -> str:
    """tokenizer.json with one token per byte, unused `<|reserved_N|>` ids up to a multiple of 64, then the specials."""
    from tokenizers import Tokenizer as TokenizerFile
    from tokenizers.models import BPE

    letters = byte_to_letter()
    file = TokenizerFile(BPE(vocab={letters[byte]: byte for byte in range(BYTE_TOKENS)}, merges=[]))
    _add_byte_level(file)
    reserved = SMALLEST_VOCAB - BYTE_TOKENS - len(SPECIAL_TOKENS)
    return _with_specials(file, (*(f"<|reserved_{i}|>" for i in range(reserved)), *SPECIAL_TOKENS))


def _add_byte_level(file: Any) -> None:
    from tokenizers import Regex, decoders, pre_tokenizers

    file.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    file.decoder = decoders.ByteLevel()


def _with_specials(file: Any, names: Sequence[str]) -> str:
    from tokenizers import AddedToken

    file.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return file.to_str(pretty=True) + "\n"


class Tokenizer:
    """Encodes ordinary text and decodes ids. Build it with `from_file` or `from_json`."""

    def __init__(self, content: bytes, where: str) -> None:
        import tiktoken

        self.sha256 = hashlib.sha256(content).hexdigest()
        """sha256 of the file, hexadecimal: the identity that shards and checkpoints record."""
        pattern, ranks, self._specials = _read(content, where)
        self.vocab_size = len(ranks) + len(self._specials)
        """Number of ids, including reserved and special ones."""
        self._bytes = [b""] * len(ranks)
        for token, rank in ranks.items():
            self._bytes[rank] = token
        self._names = {number: name for name, number in self._specials.items()}
        self._encoding = tiktoken.Encoding(self.sha256, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self.bos_id = self.special_id("<|bos|>")

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Read tokenizer.json. ValueError when it is not byte-level BPE or lacks one of the nine specials."""
        return cls(Path(path).read_bytes(), str(path))

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer whose tokenizer.json has this content."""
        return cls(text.encode(), "tokenizer JSON")

    def special_id(self, name: str) -> int:
        """The id of a special token; ValueError for any other name."""
        if name not in self._specials:
            raise ValueError(f"special token {name!r} is unknown; allowed: {', '.join(SPECIAL_TOKENS)}")
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text, without BOS. Unpaired surrogates become U+FFFD, as UTF-8 cannot hold them."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str], threads: int = 1) -> list[list[int]]:
        """`encode` for many texts; the result does not depend on `threads`."""
        return self._encoding.encode_ordinary_batch(texts, num_threads=threads)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind `ids`; special tokens contribute none. ValueError for an id outside the vocabulary."""
        return b"".join(self._token_bytes(number) for number in ids)

    def decode(self, ids: Iterable[int], specials: bool = True) -> str:
        """Text behind `ids`; special tokens appear by name, or not at all. Broken UTF-8 becomes U+FFFD."""
        pieces: list[bytes] = []
        for number in ids:
            token = self._token_bytes(number)
            pieces.append(self._names[number].encode() if specials and number in self._names else token)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def bytes_per_id(self) -> list[int]:
        """Length in bytes of every token, 0 for specials: the denominator of bits per byte."""
        return [len(self._token_bytes(number)) for number in range(self.vocab_size)]

    def _token_bytes(self, number: int) -> bytes:
        if 0 <= number < len(self._bytes):
            return self._bytes[number]
        if number in self._names:
            return b""
        raise ValueError(f"token id {number} is outside the vocabulary; allowed: 0..{self.vocab_size - 1}")


class IncrementalDecoder:
    """Turns a stream of ids into text that never ends inside a UTF-8 character. Special tokens are left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, number: int) -> str:
        """Text completed by this id; empty while a character is still incomplete."""
        return self._decoder.decode(self._tokenizer.decode_bytes([number]))

    def flush(self) -> str:
        """U+FFFD for the character that never came to an end, or nothing; the decoder starts afresh."""
        return self._decoder.decode(b"", final=True)


def _read(content: bytes, where: str) -> tuple[str, dict[bytes, int], dict[str, int]]:
    """Split pattern, ordinary tokens with their ranks, special tokens with their ids."""
    hint = "next: use a tokenizer.json written by the tokenizer stage"
    try:
        data = json.loads(content)
        vocab: dict[str, int] = data["model"]["vocab"]
        merges: list[list[str]] = data["model"]["merges"]
        steps = data["pre_tokenizer"]["pretokenizers"]
        pattern = next(step["pattern"]["Regex"] for step in steps if step["type"] == "Split")
        added = {token["content"]: token["id"] for token in data["added_tokens"] if token["special"]}
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"{where} is not a byte-level BPE tokenizer.json ({error!r}); {hint}") from None
    missing = [name for name in SPECIAL_TOKENS if name not in added]
    if missing:
        raise ValueError(f"{where} has no special token {', '.join(missing)}; needed: all nine, last; {hint}")
    letter_to_byte = {letter: byte for byte, letter in byte_to_letter().items()}
    unknown = next((token for token in vocab if not set(token) <= letter_to_byte.keys()), None)
    if unknown is not None:
        raise ValueError(f"{where}: token {unknown!r} is not written in the byte-level alphabet; {hint}")
    ranks = {bytes(letter_to_byte[letter] for letter in token): number for token, number in vocab.items()}
    if sorted([*ranks.values(), *added.values()]) != list(range(len(ranks) + len(added))):
        raise ValueError(f"{where}: ids are not 0..{len(ranks) + len(added) - 1}, each once, specials last; {hint}")
    if any(bytes([byte]) not in ranks for byte in range(BYTE_TOKENS)):
        raise ValueError(f"{where}: not every one of the {BYTE_TOKENS} bytes has a token; {hint}")
    if min(added.values()) != len(ranks) or sorted(added, key=added.__getitem__)[-len(SPECIAL_TOKENS) :] != list(
        SPECIAL_TOKENS
    ):
        raise ValueError(f"{where}: special tokens are not the last ids, as in {' '.join(SPECIAL_TOKENS)}; {hint}")
    merged = [vocab["".join(pair)] for pair in merges]
    if merged != list(range(BYTE_TOKENS, len(ranks))):
        raise ValueError(f"{where}: ids do not follow merge order, so fast encoding would differ; {hint}")
    return pattern, ranks, added
