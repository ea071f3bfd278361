"""Which documents are held out for validation, and in which order documents are packed: hashes decide, nothing else."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.shards.documents import DocumentTable

SPLIT, ORDER = 1, 2
"""What a hash is used for: one document's split and place are independent."""
SMALLEST_FRACTION = 2.0**-53


class Split(NamedTuple):
    """Validation documents, and the share of all hashes they were chosen by."""

    is_val: NDArray[np.bool_]
    fraction: float


def choose_split(table: DocumentTable, val_fraction: float, max_val_bytes: int, seed: int) -> Split:
    """A document is held out when the hash of its group lies below a threshold, whatever other documents there are.

    The threshold is `val_fraction`, halved until the held-out text has at most `max_val_bytes`. So a growing corpus
    moves no document while the text fits; when it no longer fits, half of the held-out documents become training text,
    and none ever goes the other way. Documents of one group (near-duplicates) are on one side.
    """
    share = (mixed(table.group, seed, SPLIT) >> np.uint64(11)) * 2.0**-53
    fraction = val_fraction
    while fraction > SMALLEST_FRACTION:
        is_val = share < fraction
        if int(table.bytes[is_val].sum(dtype=np.int64)) <= max_val_bytes:
            return Split(is_val, fraction)
        fraction /= 2
    return Split(np.zeros(len(table), bool), 0.0)


def hash_order(table: DocumentTable, seed: int) -> NDArray[np.int64]:
    """Numbers of the documents in the order in which they are packed."""
    return np.argsort(mixed(table.identity, seed, ORDER), kind="stable")


def mixed(hashes: NDArray[np.uint64], seed: int, use: int) -> NDArray[np.uint64]:
    """Hashes for one seed and use, from hashes of names.

    The finaliser of splitmix64 (Steele, Lea, Flood 2014): every bit of the input reaches every bit of the result.
    """
    salt = np.random.SeedSequence([seed, use]).generate_state(1, np.uint64)
    value = hashes ^ salt
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))
