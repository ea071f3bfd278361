"""Step 1, data collection and filtering: near-duplicate search, hours at scale, the worth of repeated text.

MinHash-LSH as in datasketch and datatrove: k = b r hashes per document in b bands of r rows; two documents are compared
if a band of theirs is equal. Costs: compute (signing), memory (the index). Left out: reading and decompressing text.
"""

import math
from dataclasses import dataclass

from pipeline_math.checks import checked, positive, share, whole

REPETITION_HALF_LIFE = 15.387756
"""R*_D of Muennighoff 2023 (arXiv 2305.16264, appendix A): at so many repetitions a repeated token is worth 1/e."""
SIGNATURE_BYTES_PER_HASH = 4
"""MinHash values are 32-bit."""
BAND_KEY_BYTES = 8
"""Key of one band in a sorted search, a 64-bit hash of its rows."""
DOCUMENT_ID_BYTES = 8
"""Number of a document beside its key, and its entry in the union-find."""
SIGN_SECONDS_PER_DOCUMENT = 351e-6
"""datasketch 2.0.0, 112 hashes, 200 shingles, one core of a 2-core Zen 5 CPU under other load. Grows with the shingles;
hardly with the hashes, which are one vector operation per shingle."""
INSERT_SECONDS_PER_DOCUMENT = 27e-6
"""The same, into a MinHashLSH index of 14 bands."""
INDEX_BYTES_PER_DOCUMENT = 5100
"""The same: resident bytes of one document in that index, its signature included."""
MEASURED_BANDS = 14
"""Bands of the index above."""
MEASURED_HASHES = 112
"""Hashes of the index above."""


@dataclass(frozen=True)
class Bands:
    """A division of a MinHash signature."""

    bands: int
    rows_per_band: int

    def __post_init__(self) -> None:
        whole(1, bands=self.bands, rows_per_band=self.rows_per_band)

    @property
    def hashes(self) -> int:
        """k = b r."""
        return self.bands * self.rows_per_band


@checked
def candidate_probability(similarity: float, bands: int, rows_per_band: int) -> float:
    """Chance that MinHash-LSH compares two documents of Jaccard `similarity`: 1 - (1 - s^r)^b (the S-curve)."""
    share(similarity=similarity)
    whole(1, bands=bands, rows_per_band=rows_per_band)
    return _candidate(similarity, bands, rows_per_band)


@checked
def similarity_threshold(bands: int, rows_per_band: int) -> float:
    """Similarity where the candidate curve is steepest, about (1/b)^(1/r)."""
    whole(1, bands=bands, rows_per_band=rows_per_band)
    return (1.0 / bands) ** (1.0 / rows_per_band)


@checked
def jaccard_standard_error(similarity: float, hashes: int) -> float:
    """Standard error of a Jaccard similarity estimated from k hashes, sqrt(s (1 - s) / k), at most 1 / (2 sqrt k)."""
    share(similarity=similarity)
    whole(1, hashes=hashes)
    return math.sqrt(similarity * (1.0 - similarity) / hashes)


@checked
def expected_missed_share(threshold: float, bands: int, rows_per_band: int, steps: int = 1000) -> float:
    """Area of 1 - P(candidate) above the threshold: false negatives if similarities were uniform (datasketch)."""
    share(threshold=threshold)
    whole(1, bands=bands, rows_per_band=rows_per_band, steps=steps)
    width = (1.0 - threshold) / steps
    middles = (threshold + (i + 0.5) * width for i in range(steps))
    return width * math.fsum(1.0 - _candidate(s, bands, rows_per_band) for s in middles)


@checked
def expected_false_share(threshold: float, bands: int, rows_per_band: int, steps: int = 1000) -> float:
    """Area of P(candidate) below the threshold: false positives if similarities were uniform (datasketch)."""
    share(threshold=threshold)
    whole(1, bands=bands, rows_per_band=rows_per_band, steps=steps)
    width = threshold / steps
    return width * math.fsum(_candidate((i + 0.5) * width, bands, rows_per_band) for i in range(steps))


@checked
def bands_for_threshold(threshold: float, hashes: int, false_positive_weight: float = 0.5, steps: int = 200) -> Bands:
    """The division of at most `hashes` hashes that errs least at a wanted threshold, found by trying all.

    Least w * (false positive area) + (1 - w) * (false negative area), as `_optimal_param` of datasketch. The weight
    of missed pairs is 1 - w. Left out: the true distribution of similarities, which has most pairs near 0.
    """
    whole(1, hashes=hashes, steps=steps)
    share(threshold=threshold, false_positive_weight=false_positive_weight)

    def error(shape: Bands) -> float:
        missed = expected_missed_share(threshold, shape.bands, shape.rows_per_band, steps)
        false = expected_false_share(threshold, shape.bands, shape.rows_per_band, steps)
        return false_positive_weight * false + (1.0 - false_positive_weight) * missed

    divisions = (Bands(b, r) for b in range(1, hashes + 1) for r in range(1, hashes // b + 1))
    return min(divisions, key=error)


@checked
def signing_seconds(
    documents: float, seconds_per_document: float = SIGN_SECONDS_PER_DOCUMENT, processes: int = 1
) -> float:
    """Seconds to compute all signatures: documents * seconds each / processes. ASSUMPTION: processes do not slow
    each other down, as signatures are independent."""
    whole(1, processes=processes)
    return documents * seconds_per_document / processes


@checked
def index_insert_seconds(documents: float, seconds_per_document: float = INSERT_SECONDS_PER_DOCUMENT) -> float:
    """Seconds to enter all signatures into one in-memory index, which one process owns."""
    return documents * seconds_per_document


@checked
def index_memory_bytes(documents: float, bands: int = MEASURED_BANDS, rows_per_band: int = 8) -> float:
    """Resident bytes of an in-memory MinHashLSH index: documents * (4 b r + b * bytes per table entry).

    Bytes per entry follow from the one measured index (datasketch 2.0.0, 14 bands of 8), keys and sets of Python
    included. ASSUMPTION: they do not depend on the rows of a band.
    """
    whole(1, bands=bands, rows_per_band=rows_per_band)
    entry = (INDEX_BYTES_PER_DOCUMENT - SIGNATURE_BYTES_PER_HASH * MEASURED_HASHES) / MEASURED_BANDS
    return documents * bands * (SIGNATURE_BYTES_PER_HASH * rows_per_band + entry)


@checked
def signature_bytes(documents: float, hashes: int) -> float:
    """Bytes of the signatures alone, 4 k per document: what is written between signing and searching."""
    return documents * hashes * SIGNATURE_BYTES_PER_HASH


@checked
def band_key_memory_bytes(documents: int, bands: int) -> int:
    """Bytes of all band keys at once, 8 b per document: sort each band, then union-find over equal neighbours.

    Left out: document numbers, which are implied while a band is kept in document order; see `one_band_memory_bytes`.
    """
    return documents * bands * BAND_KEY_BYTES


@checked
def one_band_memory_bytes(documents: float) -> float:
    """Least memory of a banded search, band after band: key and document number to sort, one union-find entry."""
    return documents * (BAND_KEY_BYTES + 2 * DOCUMENT_ID_BYTES)


@checked
def banded_sort_seconds(documents: float, bands: int, keys_sorted_per_second: float) -> float:
    """Seconds to sort all bands, documents * b / rate. The rate is a measured one: the log factor of a sort hides in
    it, so measure it at about as many keys. Left out: union-find, nearly linear."""
    positive(keys_sorted_per_second=keys_sorted_per_second)
    return documents * bands / keys_sorted_per_second


@checked
def largest_collection_documents(memory_bytes: float, bytes_per_document: float) -> int:
    """Most documents whose index fits into memory, rounded down."""
    positive(bytes_per_document=bytes_per_document)
    return int(memory_bytes / bytes_per_document)


@checked
def processing_hours(documents: float, documents_per_core_second: float, cores: int, busy_share: float = 1.0) -> float:
    """Hours of a filter over a whole collection: documents / (rate * cores * u) / 3600.

    `busy_share` u is the part of the time cores compute; the rest waits for storage or for the slowest file.
    """
    positive(documents_per_core_second=documents_per_core_second, busy_share=busy_share)
    share(busy_share=busy_share)
    whole(1, cores=cores)
    return documents / (documents_per_core_second * cores * busy_share) / 3600.0


@checked
def cores_needed(documents: float, documents_per_core_second: float, hours: float, busy_share: float = 1.0) -> int:
    """Fewest cores that finish within `hours`; the inverse of `processing_hours`, rounded up."""
    positive(hours=hours)
    return math.ceil(processing_hours(documents, documents_per_core_second, 1, busy_share) / hours - 1e-9)


@checked
def raw_bytes_needed(
    unique_tokens: float, bytes_per_token: float, kept_share: float, packing_dropped_share: float = 0.0
) -> float:
    """Raw text to collect for `unique_tokens` in the rows: D * bytes/token / (kept * (1 - delta)).

    `kept_share` of the raw bytes survives cleaning, filters and duplicates; packing drops a share delta of the rest.
    """
    positive(kept_share=kept_share)
    share(kept_share=kept_share, packing_dropped_share=packing_dropped_share)
    if packing_dropped_share == 1:
        raise ValueError("packing_dropped_share=1: allowed are shares below 1; no text is enough if all is dropped")
    return unique_tokens * bytes_per_token / (kept_share * (1.0 - packing_dropped_share))


@checked
def effective_tokens(unique_tokens: float, trained_tokens: float) -> float:
    """Unique tokens that would teach as much: U + U R* (1 - exp(-R/R*)), R = epochs - 1 (arXiv 2305.16264).

    Below one epoch every trained token is new. `unique_tokens` is counted after packing losses. Left out: that strong
    weight decay makes repetition worth more than this, and over-fitting worth less.
    """
    positive(unique_tokens=unique_tokens)
    if trained_tokens <= unique_tokens:
        return trained_tokens
    repetitions = trained_tokens / unique_tokens - 1.0
    return unique_tokens * (1.0 + REPETITION_HALF_LIFE * (1.0 - math.exp(-repetitions / REPETITION_HALF_LIFE)))


@checked
def trained_tokens_needed(unique_tokens: float, wanted_effective_tokens: float) -> float:
    """Tokens to train on until repetition is worth `wanted_effective_tokens`; the inverse of `effective_tokens`.

    ValueError where no amount of repetition reaches it: U (1 + R*) is the limit.
    """
    positive(unique_tokens=unique_tokens)
    if wanted_effective_tokens <= unique_tokens:
        return wanted_effective_tokens
    reached = (wanted_effective_tokens / unique_tokens - 1.0) / REPETITION_HALF_LIFE
    if reached >= 1.0:
        limit = unique_tokens * (1.0 + REPETITION_HALF_LIFE)
        raise ValueError(
            f"wanted_effective_tokens={wanted_effective_tokens:g}: {unique_tokens:g} unique tokens are never worth "
            f"{limit:g} or more, however often repeated; collect more text"
        )
    return unique_tokens * (1.0 - REPETITION_HALF_LIFE * math.log1p(-reached))


def _candidate(similarity: float, bands: int, rows_per_band: int) -> float:
    return 1.0 - (1.0 - similarity**rows_per_band) ** bands
