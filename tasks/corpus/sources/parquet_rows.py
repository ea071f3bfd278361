"""Rows of a Parquet file, row group by row group, with a name for everything that can be wrong with the file.

Memory   one batch of about `_BATCH_BYTES`, the row group's dictionary pages and one data page of each column
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks._errors import StageError
from tasks.corpus.records import BadRecord

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

COLUMNS = ("text", "id", "source", "domain", "title", "url", "licence", "license")
_BATCH_BYTES = 16 << 20
_MAX_BATCH_ROWS = 1024


class Row(NamedTuple):
    """One row as a mapping of column to value."""

    number: int
    """From 1, over the whole file."""
    fields: dict[str, Any]


def row_group_ranges(path: Path, target_bytes: int) -> list[tuple[int, int]]:
    """Consecutive row groups in ranges [first, last) of about `target_bytes` uncompressed; [] for a damaged file."""
    file = _open(path)
    if isinstance(file, str):
        return []
    with file:
        metadata = file.metadata
        sizes = [max(0, metadata.row_group(i).total_byte_size) for i in range(metadata.num_row_groups)]
    ranges: list[tuple[int, int]] = []
    filled = target_bytes
    for group, size in enumerate(sizes):
        if filled + size > target_bytes:
            ranges.append((group, group))
            filled = 0
        ranges[-1] = (ranges[-1][0], group + 1)
        filled += size
    return ranges


def read_rows(path: Path, name: str, first: int, last: int) -> Iterator[Row | BadRecord]:
    """Rows of row groups [first, last); last = -1 is the end. A damaged group ends in one BadRecord; the next follow.

    StageError: `text` is missing, or a column has a type that cannot be used.
    """
    file = _open(path)
    if isinstance(file, str):
        yield BadRecord(name, 0, f"not a Parquet file, or damaged: {file}")
        return
    with file:
        columns = _usable_columns(file.schema_arrow, path)
        metadata = file.metadata
        before = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if first <= group and (last < 0 or group < last):
                yield from _read_group(file, name, group, before, columns)
            before += rows


def _read_group(
    file: "pq.ParquetFile", name: str, group: int, before: int, columns: list[str]
) -> Iterator[Row | BadRecord]:
    import pyarrow as pa

    metadata = file.metadata.row_group(group)
    per_row = max(1, metadata.total_byte_size // max(1, metadata.num_rows))
    batch_rows = min(_MAX_BATCH_ROWS, max(1, _BATCH_BYTES // per_row))
    read = 0
    try:
        for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False):
            for row in _to_rows(batch):
                read += 1
                number = before + read
                yield Row(number, row) if isinstance(row, dict) else BadRecord(name, number, row)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = _first_line(error)
    else:
        if read == metadata.num_rows:
            return
        reason = f"it ends after {read} rows"
    lost = metadata.num_rows - read
    yield BadRecord(name, before + read + 1, f"row group {group} is damaged: {reason}; {lost} of its rows are lost")


def _to_rows(batch: "pa.RecordBatch") -> Iterator[dict[str, Any] | str]:
    """Each row as a mapping, or the reason why it is none."""
    rows: list[dict[str, Any] | None]
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:  # of one value at least; the others are fine
        rows = [None] * batch.num_rows
    for index, row in enumerate(rows):
        try:
            values = batch.slice(index, 1).to_pylist()[0] if row is None else row
            values = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
        except UnicodeDecodeError as error:
            yield f"not UTF-8: byte {error.start} of a value"
        else:
            yield values


def _usable_columns(schema: "pa.Schema", path: Path) -> list[str]:
    import pyarrow.types as kinds

    if "text" not in schema.names:
        raise StageError(
            f"corpus: {path} has no column 'text'; found: {', '.join(schema.names)}; "
            f"next: rename the column that holds the text"
        )
    usable = []
    for column in COLUMNS:
        if (number := schema.names.count(column)) == 0:
            continue
        kind = schema.field(schema.names.index(column)).type
        if number > 1:
            raise StageError(f"corpus: {path} has {number} columns {column!r}; next: keep one of them")
        plain = kind.value_type if kinds.is_dictionary(kind) else kind
        tests = [kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_binary, kinds.is_large_binary]
        if column != "text":
            tests += [kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_null]
        if not any(test(plain) for test in tests):
            allowed = "string or binary" if column == "text" else "string, binary, integer, floating point or boolean"
            raise StageError(
                f"corpus: {path}: column {column!r} has type {kind}; allowed: {allowed}; "
                f"next: convert the column, or rename it if it holds something else"
            )
        usable.append(column)
    return usable


def _open(path: Path) -> "pq.ParquetFile | str":
    """The open file, or why it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered streams without pre-buffering: pages are read as they are needed, not a whole row group at once.
        return pq.ParquetFile(path, page_checksum_verification=True, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
