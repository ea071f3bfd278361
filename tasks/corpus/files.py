"""The user's own text: .txt, .md, .jsonl (also .gz, .zst) and .parquet below data/text.

A record that cannot be used is reported with file, line and reason; reading goes on behind it. Memory holds one record
beyond what is kept: a JSON line is read up to the size limit and skipped beyond it, Parquet is read in batches.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tasks._errors import StageError
from tasks.corpus.normalise import normalise
from tasks.corpus.records import BadRecord, Document, Harvest

SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
OPTIONAL_COLUMNS = ("id", "source", "domain", "title")
_CHUNK_BYTES = 1 << 20


def find_files(root: Path, glob: str) -> list[str]:
    """Files that match, relative to `root`, sorted. StageError if none match, or one is outside or of unknown kind."""
    if Path(glob).is_absolute() or ".." in Path(glob).parts:
        raise StageError(
            f"corpus.sources: glob {glob!r} leads outside data/text; allowed: a pattern relative to data/text, such as "
            f"'**/*.jsonl'; next: put or link the files there"
        )
    found = sorted(
        path.relative_to(root).as_posix()
        for path in root.glob(glob)
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not found:
        raise StageError(
            f"corpus.sources: glob {glob!r} matches no file in data/text; next: put {', '.join(SUFFIXES)} files there, "
            f"correct the pattern, or remove this source"
        )
    outside = [name for name in found if not (root / name).resolve().is_relative_to(root.resolve())]
    if outside:
        raise StageError(f"corpus.sources: {outside[0]!r} is a link to a place outside data/text; next: copy it there")
    foreign = [name for name in found if not name.endswith(SUFFIXES)]
    if foreign:
        raise StageError(
            f"corpus.sources: glob {glob!r} matches {len(foreign)} file(s) of an unknown kind, such as {foreign[0]!r}; "
            f"allowed: {', '.join(SUFFIXES)}; next: narrow the pattern"
        )
    return found


def harvest_file(root: Path, name: str, max_record_bytes: int) -> Harvest:
    """All documents and bad records of one file. Runs in worker processes. StageError: Parquet without `text`."""
    result = Harvest()
    path = root / name
    if path.stat().st_size == 0:
        result.bad.append(BadRecord(name, 0, "the file is empty"))
    elif name.endswith((".txt", ".md")):
        _whole_file(path, name, max_record_bytes, result)
    elif name.endswith(".parquet"):
        _parquet(path, name, max_record_bytes, result)
    else:
        _json_lines(path, name, max_record_bytes, result)
    return result


def _whole_file(path: Path, name: str, limit: int, result: Harvest) -> None:
    size = path.stat().st_size
    if size > limit:
        result.bad.append(BadRecord(name, 0, f"{size} bytes; allowed: max_record_bytes={limit}"))
        return
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        result.bad.append(BadRecord(name, 0, f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"))
        return
    _add(result, name, 0, {"text": text, "title": Path(name).stem}, f"files:{name}", limit)


def _json_lines(path: Path, name: str, limit: int, result: Harvest) -> None:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(_lines(file, limit), start=1):
                if line is None:
                    reason = f"longer than max_record_bytes={limit}"
                    result.bad.append(BadRecord(name, number, reason))
                    continue
                if not line.strip():
                    continue
                try:
                    record = json.loads(line.decode("utf-8"))
                except UnicodeDecodeError as error:
                    result.bad.append(BadRecord(name, number, f"not UTF-8: byte {error.start} of the line"))
                except (ValueError, RecursionError) as error:
                    result.bad.append(BadRecord(name, number, f"not JSON: {error}"))
                else:
                    _add(result, name, number, record, f"files:{name}#{number}", limit)
    except (OSError, EOFError) as error:
        result.bad.append(BadRecord(name, number + 1, f"the compressed file is damaged: {error}"))
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        result.bad.append(BadRecord(name, number + 1, f"the compressed file is damaged: {error}"))


def _parquet(path: Path, name: str, limit: int, result: Harvest) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        result.bad.append(BadRecord(name, 0, f"not a Parquet file: {str(error).splitlines()[0]}"))
        return
    columns = file.schema_arrow.names
    if "text" not in columns:
        raise StageError(
            f"corpus: data/text/{name} has no column 'text'; found: {', '.join(columns)}; "
            f"next: rename the column that holds the text"
        )
    wanted = [column for column in ("text", *OPTIONAL_COLUMNS) if column in columns]
    row = 0
    for batch in file.iter_batches(batch_size=256, columns=wanted):
        for record in batch.to_pylist():
            row += 1
            _add(result, name, row, record, f"files:{name}#{row}", limit)


def _add(result: Harvest, name: str, line: int, record: Any, own_id: str, limit: int) -> None:
    """One record becomes a document or a bad record."""
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        found = f"keys {', '.join(map(str, list(record)[:8]))}" if isinstance(record, dict) else type(record).__name__
        result.bad.append(BadRecord(name, line, f"no text of type string in field 'text'; found: {found}"))
        return
    if len(text) > limit:
        result.bad.append(BadRecord(name, line, f"{len(text)} characters; allowed: max_record_bytes={limit}"))
        return
    text = normalise(text)
    if not text:
        result.bad.append(BadRecord(name, line, "the text is empty"))
        return
    given = record.get("id")
    result.documents.append(
        Document(
            own_id if given is None else f"files:{name}#{given}",
            text,
            str(record.get("source") or name),
            str(record.get("domain") or "files"),
            str(record.get("title") or ""),
            "file",
        )
    )


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            yield file
    elif path.suffix == ".zst":
        import io

        import zstandard

        with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            yield io.BufferedReader(reader)
    else:
        with path.open("rb") as file:
            yield file


def _lines(file: IO[bytes], limit: int) -> Iterator[bytes | None]:
    """Lines of at most `limit` bytes; None for a longer one, which is skipped without being held in memory."""
    while line := file.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        while rest := file.readline(_CHUNK_BYTES):
            if rest.endswith(b"\n"):
                break
        yield None
