"""Pass `read`: one portion of a source becomes a text shard, a Parquet file of clean documents.

A shard's row groups hold about ROW_GROUP_BYTES of text each; that, and one record, bound the memory of every pass.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks._files import write_json
from tasks.corpus.records import BadRecord, Document
from tasks.corpus.text.extraction import TextOptions, clean

if TYPE_CHECKING:
    import polars as pl

ROW_GROUP_BYTES = 1 << 24
ROW_GROUP_DOCUMENTS = 1 << 15
FILES_DOMAIN = "files"
BAD_RECORDS_KEPT = 1000
"""Of one portion; all are counted, but a file of nothing else must not fill the memory."""
TEXT, INFO = "text.parquet", "info.json"
CODE = (
    *(f"tasks/corpus/sources/{name}.py" for name in ("files", "json_lines", "parquet_rows", "python_docs")),
    *(f"tasks/corpus/text/{name}.py" for name in ("extraction", "normalise", "personal_data")),
    "tasks/corpus/reading.py",
    "tasks/corpus/records.py",
    "tasks/corpus/sources/portions.py",
)
LIBRARIES = ("ftfy", "trafilatura", "lxml", "justext", "pyarrow", "zstandard")


Reader = Callable[..., Iterator[Document | BadRecord]]


class SourcePortion(NamedTuple):
    """A part of one source that is read in one go."""

    source: int
    """Position in corpus.sources."""
    name: str
    """For people: file or modules, and which part; the same on every machine."""
    content: str
    """Digest of the bytes that are read."""
    reader: Reader
    arguments: tuple[Any, ...]
    domain: str | None = None
    """Given to documents whose record names none (the reader then says FILES_DOMAIN)."""
    fetched: str | None = None
    """A downloaded file that is of no use once the portion has been read."""


class ShardInfo(NamedTuple):
    """What became of a portion's records; info.json of the unit."""

    name: str
    records: int
    documents: int
    bytes: int
    unreadable: int
    bad: list[BadRecord]
    """The first BAD_RECORDS_KEPT of the unreadable ones."""
    changes: dict[str, dict[str, int]]
    """Per domain: documents changed and replacements made, by step of the cleaning."""


def read(
    out: Path,
    name: str,
    reader: Reader,
    arguments: tuple[Any, ...],
    domain: str | None,
    options: Mapping[str, TextOptions],
) -> None:
    """Fill `out` with text.parquet and info.json; `options` by domain, "*" for the rest.

    A record whose text is empty after cleaning counts as bad.
    """
    bad: list[BadRecord] = []
    changes: dict[str, Counter[str]] = defaultdict(Counter)
    documents = size = unreadable = 0
    with ShardWriter(out / TEXT) as writer:
        for record in reader(*arguments):
            found = record if isinstance(record, BadRecord) else _cleaned(name, record, domain, options, changes)
            if isinstance(found, BadRecord):
                unreadable += 1
                if len(bad) < BAD_RECORDS_KEPT:
                    bad.append(found)
                continue
            documents += 1
            size += writer.add(found)
    counted = {domain: dict(sorted(counts.items())) for domain, counts in sorted(changes.items()) if counts}
    info = ShardInfo(name, documents + unreadable, documents, size, unreadable, bad, counted)
    write_json(out / INFO, info._asdict())


def _cleaned(
    name: str,
    record: Document,
    domain: str | None,
    options: Mapping[str, TextOptions],
    changes: dict[str, Counter[str]],
) -> Document | BadRecord:
    if domain is not None and record.domain == FILES_DOMAIN:
        record = record._replace(domain=domain)
    found = clean(record, options.get(record.domain, options["*"]), changes[record.domain])
    if found.text.strip():
        return found
    return BadRecord(name, 0, f"no text is left after cleaning; id {record.id}, source {record.source}")


def read_info(unit: Path) -> ShardInfo:
    """info.json of a unit."""
    content = json.loads((unit / INFO).read_text(encoding="utf-8"))
    content["bad"] = [BadRecord(*record) for record in content["bad"]]
    return ShardInfo(**content)


class ShardWriter:
    """Writes documents to Parquet in row groups of bounded size."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.schema = pa.schema([(name, pa.large_string()) for name in Document._fields])
        self.file = pq.ParquetWriter(path, self.schema, compression="zstd", compression_level=1)
        self.pending: list[Document] = []
        self.pending_bytes = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self.file.close()

    def add(self, document: Document) -> int:
        """Take a document; returns the UTF-8 bytes of its text."""
        size = len(document.text) if document.text.isascii() else len(document.text.encode())
        self.pending.append(document)
        self.pending_bytes += size
        if self.pending_bytes >= ROW_GROUP_BYTES or len(self.pending) >= ROW_GROUP_DOCUMENTS:
            self._flush()
        return size

    def _flush(self) -> None:
        import pyarrow as pa

        if self.pending:
            columns = {name: [document[i] for document in self.pending] for i, name in enumerate(Document._fields)}
            self.file.write_table(pa.table(columns, self.schema))
            self.pending, self.pending_bytes = [], 0


def row_groups(shard: Path, columns: list[str]) -> Iterator["pl.DataFrame"]:
    """A text shard's documents, one row group at a time."""
    import polars as pl
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard) as file:
        for number in range(file.num_row_groups):
            yield pl.DataFrame(pl.from_arrow(file.read_row_group(number, columns=columns, use_threads=False)))


def body() -> "pl.Expr":
    """The text that duplicates are judged by: without the heading of a docstring, which names the object."""
    import polars as pl

    without_heading = pl.col("text").str.replace(r"\A[^\n]*\n\n", "")
    return pl.when(pl.col("kind") == "file").then(pl.col("text")).otherwise(without_heading)
