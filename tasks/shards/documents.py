"""The table of all documents: what the main process knows of each, some fifty bytes and its id, and never its text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks._errors import StageError
from tasks.shards.encoding import DOCUMENTS

if TYPE_CHECKING:
    import polars as pl


@dataclass
class DocumentTable:
    """Arrays of one entry per document, in the order of their ids: the number of a document is its place in
    documents.parquet, whatever files the corpus consists of."""

    ids: "pl.Series"
    domains: list[str]
    domain: NDArray[np.uint32]
    identity: NDArray[np.uint64]
    """Hash of the id: chooses the order."""
    group: NDArray[np.uint64]
    """Hash of the cluster of near-duplicates, or of the id where there is none: chooses the split."""
    file: NDArray[np.uint32]
    first: NDArray[np.int64]
    """Place of the first token within the ids of its file."""
    tokens: NDArray[np.uint32]
    bytes: NDArray[np.uint32]
    repeats: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tokens)

    def statistics(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """What a split says about its documents `chosen`; tokens without BOS, copies counted in all but the first."""
        repeats = self.repeats[chosen].astype(np.int64)
        tokens, domain = self.tokens[chosen] * repeats, self.domain[chosen]
        documents = np.bincount(domain, minlength=len(self.domains))
        copied = np.zeros(len(self.domains), np.int64)
        np.add.at(copied, domain, tokens)
        return {
            "documents": len(chosen),
            "copies": int(repeats.sum()),
            "unique_tokens": int(self.tokens[chosen].sum(dtype=np.int64)),
            "bytes": int((self.bytes[chosen] * repeats).sum()),
            "domains": {
                name: {"documents": int(documents[code]), "tokens": int(copied[code])}
                for code, name in enumerate(self.domains)
                if documents[code]
            },
        }

    def write(self, path: Path, is_val: NDArray[np.bool_]) -> None:
        """documents.parquet: id, split, tokens of one copy, repeats, domain, sorted by id."""
        import polars as pl

        names = pl.Series("domain", self.domains, pl.String)
        pl.DataFrame(
            {
                "id": self.ids,
                "split": pl.Series(["train", "val"], dtype=pl.String).gather(is_val.astype(np.uint32)),
                "tokens": self.tokens.astype(np.int64),
                "repeats": self.repeats,
                "domain": names.gather(self.domain),
            }
        ).write_parquet(path, compression="zstd")


def read_table(units: Sequence[Path]) -> DocumentTable:
    """The documents of all encoded files. StageError: two documents of one id."""
    import polars as pl

    tables = []
    for number, unit in enumerate(units):
        table = pl.read_parquet(unit / DOCUMENTS)
        first = pl.col("tokens").cast(pl.Int64).cum_sum() - pl.col("tokens")
        tables.append(table.with_columns(first.alias("first"), pl.lit(number, pl.UInt32).alias("file")))
    together = pl.concat(tables).sort("id")
    ids = together["id"]
    twice = ids.filter(ids == ids.shift(1))
    if len(twice):
        raise StageError(
            f"shards: {len(twice)} document(s) share the id of another, such as {twice[0]!r}; allowed: one document "
            f"per id, since rows are found by it; next: build the corpus again"
        )
    domains = together["domain"].unique().sort().to_list()
    codes = {name: number for number, name in enumerate(domains)}
    domain = together["domain"].replace_strict(codes, return_dtype=pl.UInt32).to_numpy()
    columns = ("identity", "group", "file", "first", "tokens", "bytes", "repeats")
    return DocumentTable(ids, domains, domain, *(together[name].to_numpy(writable=True) for name in columns))
