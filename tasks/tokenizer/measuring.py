"""What a vocabulary does: bytes per token by domain, language and size, against others; which tokens are used."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import SMALLEST_VOCAB, SPECIAL_TOKENS, VOCAB_MULTIPLE, Tokenizer
from pipeline_math.model_flops_vram import shape_of_depth, shape_train_flops_per_token
from pipeline_math.tokenizer_cost import (
    break_even_vocabulary,
    compression_gain,
    head_train_flops_per_token,
    text_bytes_per_flop,
)

ENCODE_DOCUMENTS = 1_000
MIN_LANGUAGE_SCORE = 0.4
"""Below it the language of a document counts as unsure: tables, code, lists of names."""
UNSURE = "unsure"
DEPTHS = (4, 12, 20)
TOKENS_PER_ROW = 2048
"""Models for which the price of the vocabulary is told; their shape is the default one of `budget`."""
MEASURED_SIZES = 8
SHOWN_TOKENS = 20
USED_TWICE = 2
"""A merge learned from a single occurrence compresses nothing but that one text."""

Encode = Callable[[list[str]], list[list[int]]]


def encoder(ranks: Mapping[bytes, int], pattern: str, threads: int) -> Encode:
    """Fast encoding of ordinary text with any vocabulary."""
    import tiktoken

    encoding = tiktoken.Encoding("measured", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={})
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads)


def shortened(tokenizer: Tokenizer, vocab_size: int, threads: int) -> Encode:
    """Encoding with the first tokens only: what training with a smaller `vocab_size` would have given."""
    kept = min(vocab_size - len(SPECIAL_TOKENS), tokenizer.ordinary_tokens)
    ranks = {tokenizer.decode_bytes([number]): number for number in range(kept)}
    return encoder(ranks, tokenizer.split_pattern, threads)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of a bounded number."""
    source = iter(texts)
    while batch := list(islice(source, ENCODE_DOCUMENTS)):
        yield batch


def count_uses(encode: Encode, texts: Iterable[str], tokens: int) -> NDArray[np.int64]:
    """How often each token occurs in the texts."""
    uses = np.zeros(tokens, np.int64)
    for batch in batches(texts):
        together: list[int] = []
        for ids in encode(batch):
            together.extend(ids)
        uses += np.bincount(np.array(together, np.int64), minlength=tokens)
    return uses


def supported_size(tokenizer: Tokenizer, read: Callable[[], Iterable[str]], threads: int) -> int:
    """The largest vocabulary, a multiple of 64, whose last merge was made at least twice in the texts; 0 if none is.

    Merges are made in the order of their counts, so everything before the last one occurs as often or more.
    """

    def is_supported(size: int) -> bool:
        last = size - len(SPECIAL_TOKENS) - 1
        return int(count_uses(shortened(tokenizer, size, threads), read(), last + 1)[last]) >= USED_TWICE

    smallest = SMALLEST_VOCAB // VOCAB_MULTIPLE
    low, high = smallest - 1, tokenizer.vocab_size // VOCAB_MULTIPLE
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_supported(middle * VOCAB_MULTIPLE) else (low, middle - 1)
    return low * VOCAB_MULTIPLE if low >= smallest else 0


def describe_use(tokenizer: Tokenizer, uses: NDArray[np.int64]) -> dict[str, Any]:
    """Tokens of the training text: used, dead (merged, but inside longer tokens wherever they occur), longest."""
    sizes = np.array(tokenizer.bytes_per_id())
    dead = np.flatnonzero((uses == 0) & (sizes > 1))
    by_use = np.sort(uses)[::-1]
    half = int(np.searchsorted(np.cumsum(by_use), by_use.sum() / 2)) + 1
    longest = np.lexsort((np.arange(len(sizes)), -sizes))[:SHOWN_TOKENS]
    return {
        "used_tokens": int((uses > 0).sum()),
        "dead_tokens": len(dead),
        "unused_bytes": int(((uses == 0) & (sizes == 1)).sum()),
        "reserved_tokens": tokenizer.vocab_size - tokenizer.ordinary_tokens - len(SPECIAL_TOKENS),
        "tokens_of_half_the_text": half,
        "longest_tokens": [tokenizer.decode([number]) for number in longest.tolist()],
        "dead_samples": [tokenizer.decode([number]) for number in dead[:SHOWN_TOKENS].tolist()],
    }


def languages(texts: list[str]) -> list[str]:
    """The language of each text as an ISO 639 code, or UNSURE."""
    from tasks._language import detect

    found, scores = detect(texts)
    return [
        code if code and score >= MIN_LANGUAGE_SCORE else UNSURE
        for code, score in zip(found, scores.tolist(), strict=True)
    ]


def compression(
    texts: list[str], groups: Sequence[str], own: Encode, others: Mapping[str, Encode]
) -> dict[str, dict[str, Any]]:
    """Per group: documents, bytes, tokens, bytes per token, and bytes per token of the others on the same text."""
    found: dict[str, dict[str, Any]] = {}
    sizes = [len(text.encode()) for text in texts]
    for group, size in zip(groups, sizes, strict=True):
        entry = found.setdefault(group, {"documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += size
    for name, encode in {"": own, **others}.items():
        tokens: dict[str, int] = defaultdict(int)
        for group, ids in zip(groups, encode(texts), strict=True):
            tokens[group] += len(ids)
        for group, entry in found.items():
            ratio = round(entry["bytes"] / max(tokens[group], 1), 4)
            if name:
                entry.setdefault("others", {})[name] = ratio
            else:
                entry.update(tokens=tokens[group], bytes_per_token=ratio)
    return dict(sorted(found.items()))


def by_size(tokenizer: Tokenizer, texts: list[str], threads: int) -> list[dict[str, Any]]:
    """Bytes per token of the vocabulary and of its first half, quarter, ..., smallest first."""
    size = sum(len(text.encode()) for text in texts)
    chosen = [tokenizer.vocab_size]
    while len(chosen) < MEASURED_SIZES and chosen[-1] // 2 >= SMALLEST_VOCAB:
        chosen.append(chosen[-1] // 2)
    rows = []
    for vocab_size in reversed(chosen):
        tokens = sum(map(len, shortened(tokenizer, vocab_size, threads)(texts)))
        rows.append({"vocab_size": vocab_size, "bytes_per_token": round(size / max(tokens, 1), 4)})
    return rows


def price(sizes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the output head costs models of several depths, and whether the last doubling paid for itself."""
    rows = []
    for depth in DEPTHS:
        flops = [_flops(depth, entry["vocab_size"]) for entry in sizes]
        per_flop = [text_bytes_per_flop(e["bytes_per_token"], f) for e, f in zip(sizes, flops, strict=True)]
        last, width = sizes[-1], shape_of_depth(depth, 64, TOKENS_PER_ROW).d_model
        row: dict[str, Any] = {
            "depth": depth,
            "head_share": round(head_train_flops_per_token(last["vocab_size"], width) / flops[-1], 4),
            "best_measured": sizes[int(np.argmax(per_flop))]["vocab_size"],
        }
        if len(sizes) > 1:
            half = sizes[-2]
            gain = compression_gain(last["bytes_per_token"], half["bytes_per_token"])
            limit = break_even_vocabulary(half["vocab_size"], width, flops[-2], max(gain, 0.0))
            row |= {"gain_of_last_doubling": round(gain, 4), "break_even_vocabulary": round(limit)}
        rows.append(row)
    return rows


def _flops(depth: int, vocab_size: int) -> float:
    return shape_train_flops_per_token(shape_of_depth(depth, vocab_size, TOKENS_PER_ROW))
