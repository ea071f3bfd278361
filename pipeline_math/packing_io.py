"""Step 3, packing and shards: rows, bytes on disk and what cutting documents costs."""

import math


def row_bytes(tokens_per_row: int, vocab_size: int) -> int:
    """Bytes of one stored row: tokens_per_row + 1 ids (inputs and shifted targets) of 2 bytes, 4 above 65,536 ids."""
    return (tokens_per_row + 1) * id_bytes(vocab_size)


def id_bytes(vocab_size: int) -> int:
    """Bytes of one stored token id."""
    return 2 if vocab_size <= 65536 else 4


def shard_bytes(tokens: float, vocab_size: int) -> float:
    """Bytes of a packed corpus, 2 D for uint16. Left out: padding and the one extra id per row."""
    return tokens * id_bytes(vocab_size)


def rows_needed(tokens: float, tokens_per_row: int) -> int:
    """Rows that hold `tokens` ids without padding."""
    return math.ceil(tokens / (tokens_per_row + 1))


def cut_probability(document_tokens: float, tokens_per_row: int) -> float:
    """Chance that plain concatenation cuts a document of l <= T tokens, (l - 1) / T."""
    return min(1.0, max(0.0, (document_tokens - 1.0) / tokens_per_row))


def loader_bytes_per_second(tokens_per_second: float, vocab_size: int) -> float:
    """Bytes/s that training consumes; the loader should manage ten times as many."""
    return tokens_per_second * id_bytes(vocab_size)


def effective_unique_tokens(raw_tokens: float, dropped_share: float) -> float:
    """Unique tokens left after packing dropped a share of them, D_raw (1 - delta)."""
    return raw_tokens * (1.0 - dropped_share)
