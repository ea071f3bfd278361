"""Step 3, packing and shards: rows, bytes on disk, what cutting documents costs, what the loader must deliver.

A stored row has tokens_per_row + 1 ids: inputs and targets shifted by one. Cost type: io.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline_math.checks import checked, not_negative, positive, share, whole

LOADER_MARGIN = 10.0
"""Times its consumption that a loader should deliver, so that it never shows in a step."""
UINT16_VOCABULARY = 65536
"""Ids that fit 2 bytes."""


@dataclass(frozen=True)
class Packing:
    """What packing did to a corpus. Ids in the rows are real tokens and padding; dropped tokens are in no row."""

    packed_tokens: int
    """Real tokens in the rows, BOS included."""
    padding_tokens: int
    dropped_tokens: int
    documents: int
    split_documents: int
    """Documents that lie in more than one row or lost their end."""

    def __post_init__(self) -> None:
        whole(1, packed_tokens=self.packed_tokens, documents=self.documents)
        whole(
            0,
            padding_tokens=self.padding_tokens,
            dropped_tokens=self.dropped_tokens,
            split_documents=self.split_documents,
        )
        if self.split_documents > self.documents:
            raise ValueError(f"split_documents={self.split_documents}: allowed are at most documents={self.documents}")

    @property
    def utilisation(self) -> float:
        """u = real tokens / ids in the rows."""
        return self.packed_tokens / (self.packed_tokens + self.padding_tokens)

    @property
    def dropped_share(self) -> float:
        """delta = dropped / (packed + dropped)."""
        return self.dropped_tokens / (self.packed_tokens + self.dropped_tokens)

    @property
    def split_rate(self) -> float:
        """sigma = split documents / documents."""
        return self.split_documents / self.documents


@checked
def id_bytes(vocab_size: int) -> int:
    """Bytes of one stored token id: 2 up to 65,536 ids, else 4."""
    whole(1, vocab_size=vocab_size)
    return 2 if vocab_size <= UINT16_VOCABULARY else 4


@checked
def row_bytes(tokens_per_row: int, vocab_size: int) -> int:
    """Bytes of one stored row, (tokens_per_row + 1) ids."""
    whole(1, tokens_per_row=tokens_per_row)
    return (tokens_per_row + 1) * id_bytes(vocab_size)


@checked
def shard_bytes(tokens: float, vocab_size: int) -> float:
    """Bytes of a packed corpus, 2 D for uint16. Left out: padding and the one extra id per row (`split_file_bytes`)."""
    return tokens * id_bytes(vocab_size)


@checked
def split_file_bytes(rows: int, tokens_per_row: int, vocab_size: int, masked: bool = False) -> int:
    """Exact bytes of all shard files of a split: rows * row bytes, + rows * (T + 1) where a loss mask is stored.

    A mask takes one byte per id. Left out: manifest.json.
    """
    whole(0, rows=rows)
    mask = rows * (tokens_per_row + 1) if masked else 0
    return rows * row_bytes(tokens_per_row, vocab_size) + mask


@checked
def rows_needed(tokens: float, tokens_per_row: int, padding_share: float = 0.0) -> int:
    """Rows that hold `tokens` ids when a share of all ids is padding: ceil(D / ((T + 1) (1 - padding)))."""
    whole(1, tokens_per_row=tokens_per_row)
    share(padding_share=padding_share)
    if padding_share == 1:
        raise ValueError("padding_share=1: allowed are shares below 1; rows of padding hold no tokens")
    return math.ceil(tokens / ((tokens_per_row + 1) * (1.0 - padding_share)))


@checked
def cut_probability(document_tokens: float, tokens_per_row: int) -> float:
    """Chance that plain concatenation cuts a document of l <= T tokens, (l - 1) / T; 1 for longer ones."""
    whole(1, tokens_per_row=tokens_per_row)
    return min(1.0, max(0.0, (document_tokens - 1.0) / tokens_per_row))


def concatenation_split_rate(document_tokens: Iterable[float], tokens_per_row: int) -> float:
    """Expected share of documents that plain concatenation cuts: the mean of `cut_probability` over their lengths."""
    chances = [cut_probability(length, tokens_per_row) for length in document_tokens]
    if not chances:
        raise ValueError("document_tokens: found no document, allowed is at least one")
    return math.fsum(chances) / len(chances)


def own_row_padding_share(sequence_tokens: Iterable[float], tokens_per_row: int) -> float:
    """Share of padding when every sequence has a row of its own, 1 - mean(l) / (T + 1): the cost of not packing.

    ValueError for a sequence longer than a row of T + 1 ids.
    """
    whole(1, tokens_per_row=tokens_per_row)
    room, lengths = tokens_per_row + 1, list(sequence_tokens)
    if not lengths:
        raise ValueError("sequence_tokens: found no sequence, allowed is at least one")
    for length in lengths:
        not_negative(sequence_tokens=length)
        if length > room:
            raise ValueError(f"sequence_tokens={length}: allowed are at most the {room} ids of a row; split it first")
    return 1.0 - math.fsum(lengths) / (len(lengths) * room)


@checked
def effective_unique_tokens(raw_tokens: float, dropped_share: float) -> float:
    """Unique tokens left after packing dropped a share of them, D_raw (1 - delta). Only these can be repeated."""
    share(dropped_share=dropped_share)
    return raw_tokens * (1.0 - dropped_share)


@checked
def loader_bytes_per_second(tokens_per_second: float, vocab_size: int) -> float:
    """Bytes/s that training consumes from the shards; `loader_suffices` asks for ten times as many."""
    return tokens_per_second * id_bytes(vocab_size)


@checked
def text_bytes_per_second(tokens_per_second: float, bytes_per_token: float) -> float:
    """Bytes/s of text that would have to be tokenized while training, if shards did not exist."""
    positive(bytes_per_token=bytes_per_token)
    return tokens_per_second * bytes_per_token


@checked
def loader_suffices(loader_tokens_per_second: float, training_tokens_per_second: float) -> bool:
    """True if the loader delivers at least LOADER_MARGIN times what all devices consume."""
    return loader_tokens_per_second >= LOADER_MARGIN * training_tokens_per_second
