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
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import count, islice, pairwise
from pathlib import Path

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


def train_tokenizer_json(texts: Iterable[str], vocab_size: int, pattern: str = SPLIT_PATTERN) -> str:
    """Train byte-level BPE on `texts`; returns the content of tokenizer.json.

    The result depends on the texts only, not on their order or on threads. When the texts hold fewer pairs than asked
    for, the vocabulary comes out smaller than `vocab_size`: compare with `Tokenizer.vocab_size`. A vocabulary of half
    the size holds the first half of the same tokens. ValueError unless `vocab_size` is a multiple of 64 with room for
    256 bytes and nine specials.
    """
    import rustbpe  # same compression as the trainer of `tokenizers` at a third of its time: benchmarks/tokenizer.py

    if vocab_size < SMALLEST_VOCAB or vocab_size % VOCAB_MULTIPLE:
        raise ValueError(
            f"vocab_size={vocab_size}; allowed: multiples of {VOCAB_MULTIPLE} from {SMALLEST_VOCAB}; "
            f"next: use {max(SMALLEST_VOCAB, round(vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE)}"
        )
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=pattern)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    return tokenizer_json(ranks, pattern, SPECIAL_TOKENS)


def byte_tokenizer_json() -> str:
    """tokenizer.json with one token per byte, unused `<|reserved_N|>` ids up to a multiple of 64, then the specials."""
    ranks = {bytes([byte]): byte for byte in range(BYTE_TOKENS)}
    return tokenizer_json(ranks, SPLIT_PATTERN, with_specials((), len(ranks)))


def with_specials(own: Sequence[str], ordinary_tokens: int) -> tuple[str, ...]:
    """Names of the ids behind the ordinary tokens: a vocabulary's own ones, reserved ones, those of the nine it lacks.

    There are as many reserved names as make the whole a multiple of 64.
    """
    missing = [name for name in SPECIAL_TOKENS if name not in own]
    spare = -(ordinary_tokens + len(own) + len(missing)) % VOCAB_MULTIPLE
    free = (name for name in (f"<|reserved_{number}|>" for number in count()) if name not in own)
    return (*own, *islice(free, spare), *missing)


def tokenizer_json(ranks: Mapping[bytes, int], pattern: str, added: Sequence[str]) -> str:
    """The content of tokenizer.json: tokens with their merge ranks as ids, then the special tokens `added`.

    ValueError when a token is not the merger of two tokens of lower rank.
    """
    letters = byte_to_letter()
    names = {token: "".join(letters[byte] for byte in token) for token in sorted(ranks, key=ranks.__getitem__)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(ranks) + i, "content": name, **flags} for i, name in enumerate(added)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: ranks[token] for token, name in names.items()},
            "merges": [[names[left], names[right]] for left, right in merges_of(ranks)],
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two tokens that each token of more than one byte was merged from, in rank order.

    They are what its bytes come to when only the merges before it are made. ValueError names a token for which these
    are not exactly two: the ranks are not those of byte-pair merges.
    """
    merges: list[tuple[bytes, bytes]] = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        parts = [token[place : place + 1] for place in range(len(token))]
        while len(parts) > 2:
            found = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
            lowest = min(found)
            if lowest >= ranks[token]:
                break
            place = found.index(lowest)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) != 2 or any(ranks.get(part, len(ranks)) >= ranks[token] for part in parts):
            raise ValueError(
                f"token {token!r} of rank {ranks[token]} is no merger of two tokens of lower rank; allowed: ranks in "
                f"the order of byte-pair merges; next: use another file"
            )
        merges.append((parts[0], parts[1]))
    return merges


class Tokenizer:
    """Encodes ordinary text and decodes ids. Build it with `from_file` or `from_json`."""

    def __init__(self, content: bytes, where: str) -> None:
        import tiktoken

        self.sha256 = hashlib.sha256(content).hexdigest()
        """sha256 of the file, hexadecimal: the identity that shards and checkpoints record."""
        pattern, ranks, self._specials = _read(content, where)
        self.split_pattern = pattern
        """Regular expression whose matches are encoded on their own."""
        self.ordinary_tokens = len(ranks)
        """Number of ids that text can become; reserved and special ones stand behind them."""
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
        """Ids of ordinary text, without BOS. ValueError names a surrogate, which is no character by itself."""
        _refuse_surrogates(text, "text")
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str], threads: int = 1) -> list[list[int]]:
        """`encode` for many texts; the result does not depend on `threads`. ValueError counts texts from 0."""
        for number, text in enumerate(texts):
            _refuse_surrogates(text, f"text {number}")
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


def _refuse_surrogates(text: str, what: str) -> None:
    """tiktoken would put U+FFFD in their place, so that the text could not be had back from its ids."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds the surrogate {text[error.start]!a} at character {error.start}; allowed: Unicode "
            f"characters, which UTF-8 can hold; next: remove it or put U+FFFD in its place"
        ) from None


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
        raise ValueError(f"{where} has no special token {', '.join(missing)}; needed: all nine; {hint}")
    letter_to_byte = {letter: byte for byte, letter in byte_to_letter().items()}
    unknown = next((token for token in vocab if not set(token) <= letter_to_byte.keys()), None)
    if unknown is not None:
        raise ValueError(f"{where}: token {unknown!r} is not written in the byte-level alphabet; {hint}")
    ranks = {bytes(letter_to_byte[letter] for letter in token): number for token, number in vocab.items()}
    if sorted([*ranks.values(), *added.values()]) != list(range(len(ranks) + len(added))):
        raise ValueError(
            f"{where}: ids are not 0..{len(ranks) + len(added) - 1}, each once, specials among them; {hint}"
        )
    if any(bytes([byte]) not in ranks for byte in range(BYTE_TOKENS)):
        raise ValueError(f"{where}: not every one of the {BYTE_TOKENS} bytes has a token; {hint}")
    if min(added.values()) != len(ranks):
        raise ValueError(f"{where}: special tokens are not the last ids, behind all others; {hint}")
    merged = [vocab["".join(pair)] for pair in merges]
    if merged != list(range(BYTE_TOKENS, len(ranks))):
        raise ValueError(f"{where}: ids do not follow merge order, so fast encoding would differ; {hint}")
    return pattern, ranks, added
