"""Lines of a .jsonl, .jsonl.gz or .jsonl.zst file, or of a byte range of a plain one, in bounded memory.

A byte range owns the lines that start in it, so ranges that cover a file yield each line exactly once.
A line's offset counts bytes of the decompressed stream.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tasks.corpus.records import BadRecord

_CHUNK_BYTES = 1 << 20
_PACKED_BUFFER_BYTES = 1 << 15
"""At most this much in front of a damaged place is lost with it."""


class Line(NamedTuple):
    """One line with its place."""

    number: int
    """From 1; 0 when the range does not begin with the file, so that it is unknown."""
    offset: int
    """Of its first byte."""
    content: bytes


def read_lines(path: Path, name: str, first: int, last: int, limit: int) -> Iterator[Line | BadRecord]:
    """Lines that start in bytes [first, last), blank ones included; last = -1 is the end of the file.

    A line over `limit` bytes and the point where a compressed stream breaks off are bad records. OSError: the disk.
    """
    with _open(path) as file:
        offset = _start_of_line(file, first, last)
        number = 0
        while offset is not None and (last < 0 or offset < last):
            number += 1
            known = number if first == 0 else 0
            try:
                content = file.readline(limit + 1)
                if not content:
                    return
                length = len(content)
                if length > limit and not content.endswith(b"\n"):
                    length += _skip_line(file, -1 if last < 0 else max(0, last - offset - length))
            except (OSError, EOFError, zlib.error) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                reason = f"the compressed file is damaged: {error}; nothing behind this place can be read"
                yield BadRecord(name, known, f"byte {offset}: {reason}")
                return
            if length > limit + content.endswith(b"\n"):
                yield BadRecord(name, known, f"byte {offset}: longer than max_record_bytes={limit}")
            else:
                yield Line(known, offset, content)
            offset += length


def _start_of_line(file: IO[bytes], first: int, last: int) -> int | None:
    """Offset of the first line that starts at or behind `first`; None if that is not before `last`."""
    if first == 0:
        return 0
    file.seek(first - 1)  # a line starts at `first` if the byte before it ends one
    offset = first - 1 + _skip_line(file, -1 if last < 0 else last - first + 1)
    return offset if last < 0 or offset < last else None


def _skip_line(file: IO[bytes], enough: int) -> int:
    """Bytes read up to and including the next line end, the end of the file, or once `enough` (>= 0) are read."""
    skipped = 0
    while enough < 0 or skipped < enough:
        part = file.readline(_CHUNK_BYTES)
        skipped += len(part)
        if not part or part.endswith(b"\n"):
            break
    return skipped


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if path.suffix == ".gz":
        with gzip.open(path) as unzipped:
            yield unzipped
    elif path.suffix == ".zst":
        # Not python-zstandard's reader: that ends without an error where a file breaks off, and after the first frame.
        import pyarrow as pa

        with pa.OSFile(str(path), "rb") as packed, pa.CompressedInputStream(packed, "zstd") as unpacked:
            yield io.BufferedReader(unpacked, _PACKED_BUFFER_BYTES)
    else:
        with path.open("rb") as file:
            yield file
