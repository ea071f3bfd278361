"""Step 1, data collection and filtering: near-duplicate search and the worth of repeated text."""

import math

REPETITION_HALF_LIFE = 15.39
"""R* of Muennighoff 2023 (arXiv 2305.16264), not checked against the paper: repetitions beyond it add little."""
SIGNATURE_BYTES_PER_HASH = 4
"""MinHash values are 32-bit."""
BAND_KEY_BYTES = 8
"""Key of one band in a sorted, on-disk search."""


def candidate_probability(similarity: float, bands: int, rows_per_band: int) -> float:
    """Chance that MinHash-LSH compares two documents of Jaccard `similarity`: 1 - (1 - s^r)^b."""
    return 1.0 - (1.0 - similarity**rows_per_band) ** bands


def similarity_threshold(bands: int, rows_per_band: int) -> float:
    """Similarity where the candidate curve is steepest, about (1/b)^(1/r)."""
    return (1.0 / bands) ** (1.0 / rows_per_band)


def jaccard_standard_error(similarity: float, hashes: int) -> float:
    """Standard error of a Jaccard similarity estimated from k hashes, sqrt(s (1 - s) / k)."""
    return math.sqrt(similarity * (1.0 - similarity) / hashes)


def expected_missed_share(threshold: float, bands: int, rows_per_band: int, steps: int = 1000) -> float:
    """Area of 1 - P(candidate) above the threshold: false negatives if similarities were uniform (datasketch)."""
    width = (1.0 - threshold) / steps
    middles = (threshold + (i + 0.5) * width for i in range(steps))
    return width * sum(1.0 - candidate_probability(s, bands, rows_per_band) for s in middles)


def expected_false_share(threshold: float, bands: int, rows_per_band: int, steps: int = 1000) -> float:
    """Area of P(candidate) below the threshold: false positives if similarities were uniform (datasketch)."""
    width = threshold / steps
    return width * sum(candidate_probability((i + 0.5) * width, bands, rows_per_band) for i in range(steps))


def band_key_memory_bytes(documents: int, bands: int) -> int:
    """Resident bytes of a banded, sorted search: one key per document and band."""
    return documents * bands * BAND_KEY_BYTES


def effective_tokens(unique_tokens: float, trained_tokens: float) -> float:
    """Unique tokens that would teach as much: U + U R* (1 - exp(-R/R*)), R = epochs - 1 (arXiv 2305.16264).

    Below one epoch every trained token is new. `unique_tokens` is counted after packing losses.
    """
    if trained_tokens <= unique_tokens:
        return trained_tokens
    repetitions = trained_tokens / unique_tokens - 1.0
    return unique_tokens * (1.0 + REPETITION_HALF_LIFE * (1.0 - math.exp(-repetitions / REPETITION_HALF_LIFE)))
