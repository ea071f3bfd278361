"""The table of all documents: what the main process knows of each, some eighty bytes, and never its text.

Documents are numbered over all shards, in shard order. The order in which they win, are taken and are written follows
hashes of their ids, so it does not depend on that numbering.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks._errors import StageError
from tasks.corpus.passes import MEASURES
from tasks.corpus.reading import TEXT, ShardInfo, row_groups

Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]
NONE = -1
MAX_DOMAINS = 1 << 16
"""Thresholds, mixing and the report treat each apart."""


class Shard(NamedTuple):
    """One portion of a source after reading and measuring."""

    source: int
    info: ShardInfo
    key: str
    """Name of its unit: what the text depends on."""
    text: Path
    measures: Path


@dataclass
class DocumentTable:
    """Arrays of one entry per document; `starts[s]` is the number of shard s's first."""

    shards: list[Shard]
    starts: Numbers
    domains: list[str]
    id_high: NDArray[np.uint64]
    id_low: NDArray[np.uint64]
    record: NDArray[np.uint64]
    characters: NDArray[np.uint32]
    bytes: NDArray[np.uint32]
    domain: NDArray[np.uint16]
    source: NDArray[np.uint16]
    reason: NDArray[np.uint16] = field(init=False)
    """0: kept; else the place of the reason in `reasons`."""
    value: NDArray[np.float64] = field(init=False)
    threshold: NDArray[np.float64] = field(init=False)
    cluster: Numbers = field(init=False)
    """Number of the best ranked document of the same cluster of duplicates; NONE: no duplicate known in this crawl."""
    earlier: dict[int, str] = field(default_factory=dict)
    """Documents dropped for one of an earlier crawl -> its id."""
    similarity: NDArray[np.float32] = field(init=False)
    copy: NDArray[np.uint32] = field(init=False)
    """1 for the first document of an id, 2, 3, ... for further ones."""
    repeats: NDArray[np.int32] = field(init=False)
    """How often a kept document is trained on."""
    trimmed: Numbers = field(init=False)
    """Bytes of a kept document's repeated paragraphs, which are left out."""
    reasons: list[str] = field(default_factory=lambda: ["kept"])

    def __post_init__(self) -> None:
        n = len(self.id_high)
        self.reason = np.zeros(n, np.uint16)
        self.value, self.threshold = np.full(n, np.nan), np.full(n, np.nan)
        self.cluster, self.similarity = np.full(n, NONE, np.int64), np.zeros(n, np.float32)
        self.repeats, self.trimmed = np.ones(n, np.int32), np.zeros(n, np.int64)
        self.copy = _copies(self)

    def __len__(self) -> int:
        return len(self.id_high)

    @property
    def kept(self) -> Mask:
        return self.reason == 0

    def code(self, reason: str) -> int:
        """The number of a reason, given on first use."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason)

    def drop(
        self,
        chosen: Mask,
        reason: str,
        value: NDArray[np.floating] | NDArray[np.integer] | float = np.nan,
        threshold: NDArray[np.floating] | float = np.nan,
    ) -> int:
        """Give the still kept among the chosen a reason; returns their number. Arrays are per document of the table."""
        fresh = chosen & self.kept
        self.reason[fresh] = self.code(reason)
        self.value[fresh] = value[fresh] if isinstance(value, np.ndarray) else value
        self.threshold[fresh] = threshold[fresh] if isinstance(threshold, np.ndarray) else threshold
        return int(fresh.sum())

    def span(self, shard: int) -> slice:
        """The documents of one shard."""
        return slice(int(self.starts[shard]), int(self.starts[shard + 1]))

    def by_shard(self, numbers: Numbers) -> Iterator[tuple[int, Numbers]]:
        """(shard, numbers within it) of sorted document numbers."""
        owners = np.searchsorted(self.starts, numbers, side="right") - 1
        for shard in np.unique(owners).tolist():
            yield shard, numbers[owners == shard] - self.starts[shard]

    def hash_order(self) -> Numbers:
        """Document numbers in the order of their ids' hashes: a fixed shuffle that knows nothing of shards."""
        return np.lexsort(self.hash_keys(slice(None)))

    def hash_keys(self, numbers: Numbers | slice) -> tuple[NDArray[Any], ...]:
        """Keys for np.lexsort, the last one first: they tell records of one id apart, too."""
        return self.domain[numbers], self.record[numbers], self.id_low[numbers], self.id_high[numbers]

    def order_key(self, numbers: Numbers) -> NDArray[np.uint64]:
        """One hash per document that depends on the document alone; records of one id differ."""
        return self.id_high[numbers] ^ self.record[numbers]

    def winner_rank(self) -> Numbers:
        """Who stays in a cluster of duplicates, least first: the source named first in params.yaml, then the longer
        text, then the smaller hash of the id."""
        shorter = -self.characters.astype(np.int64)
        order = np.lexsort((*self.hash_keys(slice(None)), shorter, self.source))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank

    def ids(self, numbers: Numbers) -> dict[int, str]:
        """The ids of some documents, read from their shards; further documents of one id end in #2, #3, ..."""
        found: dict[int, str] = {}
        for shard, inside in self.by_shard(np.unique(numbers)):
            start = 0
            for group in row_groups(self.shards[shard].text, ["id"]):
                rows = inside[(inside >= start) & (inside < start + group.height)]
                for row, name in zip(rows.tolist(), group["id"].gather(rows - start).to_list(), strict=True):
                    number = int(self.starts[shard]) + row
                    found[number] = name if self.copy[number] == 1 else f"{name}#{self.copy[number]}"
                start += group.height
        return found


def read_table(shards: Sequence[Shard]) -> DocumentTable:
    """The table of these shards; those without documents are left out. StageError: too many domains."""
    import polars as pl

    full = [shard for shard in shards if shard.info.documents]
    columns = ["id_high", "id_low", "record", "size_characters", "size_bytes", "domain"]
    tables = [pl.read_parquet(shard.measures / MEASURES, columns=columns) for shard in full]
    domains = sorted({name for table in tables for name in table["domain"].unique().to_list()})
    if len(domains) > MAX_DOMAINS:
        raise StageError(
            f"corpus: the documents name {len(domains):,} domains, such as {domains[0]!r} and {domains[-1]!r}; "
            f"allowed: at most {MAX_DOMAINS:,}; next: name groups in the field `domain`, and what is peculiar to a "
            f"document in `source` or `url`"
        )
    codes = {name: number for number, name in enumerate(domains)}
    together = pl.concat(tables).with_columns(pl.col("domain").replace_strict(codes, return_dtype=pl.UInt16))
    heights = [table.height for table in tables]
    return DocumentTable(
        shards=full,
        starts=np.concatenate([[0], np.cumsum(heights)]).astype(np.int64),
        domains=domains,
        id_high=together["id_high"].to_numpy(),
        id_low=together["id_low"].to_numpy(),
        record=together["record"].to_numpy(),
        characters=together["size_characters"].to_numpy(),
        bytes=together["size_bytes"].to_numpy(),
        domain=together["domain"].to_numpy(),
        source=np.repeat(np.array([shard.source for shard in full], np.uint16), heights),
    )


def shard_text(unit: Path) -> Path:
    """The text of a unit of the pass `read`."""
    return unit / TEXT


def _copies(table: DocumentTable) -> NDArray[np.uint32]:
    """Place of each document among those of the same id, in the order of their records' hashes."""
    order = table.hash_order()
    high, low = table.id_high[order], table.id_low[order]
    same = np.r_[False, (high[1:] == high[:-1]) & (low[1:] == low[:-1])] if len(order) else np.zeros(0, bool)
    place = np.arange(len(order))
    first = np.maximum.accumulate(np.where(same, 0, place))
    copies = np.empty(len(order), np.uint32)
    copies[order] = place - first + 1
    return copies
