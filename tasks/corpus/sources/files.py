"""The user's own text below data/text, record by record: plain text, HTML, JSON lines (also .gz, .zst) and Parquet.

Promise  every record becomes one Document or one BadRecord with file, line and reason, and reading goes on behind it;
         damage that ends a file or a row group early is one BadRecord that says so
         the portions of a file hold every record exactly once, and a record does not depend on its portion
Errors   StageError: a Parquet file without a usable `text` column, or a file that cannot be opened or read at all
Memory   about one record: a JSON line is skipped beyond the size limit without being held, Parquet comes in batches
         (a Parquet value is decoded before its size is known)
"""

import codecs
import errno
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tasks._errors import StageError
from tasks.corpus.records import BadRecord, Document
from tasks.corpus.sources.json_lines import Line, read_lines

SUFFIXES = (".txt", ".md", ".html", ".htm", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
METADATA = ("id", "source", "domain", "title", "url", "licence", "license")
"""Optional fields of a record beside `text`: text or number; null counts as absent."""

Record = Document | BadRecord


class Portion(NamedTuple):
    """A part of a file that one worker reads."""

    name: str
    first: int
    last: int
    """Bytes [first, last) of a .jsonl, row groups [first, last) of a .parquet; (0, -1) is the whole file."""


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


def portions_of(root: Path, name: str, target_bytes: int) -> list[Portion]:
    """Portions of about `target_bytes`: byte ranges of a plain .jsonl, row groups of a .parquet, other files whole."""
    whole = [Portion(name, 0, -1)]
    with named_errors(root / name):
        size = (root / name).stat().st_size
    if name.endswith(".parquet"):
        from tasks.corpus.sources.parquet_rows import row_group_ranges

        with named_errors(root / name):
            ranges = row_group_ranges(root / name, target_bytes)
    elif name.endswith(".jsonl") and size > target_bytes:
        number = math.ceil(size / target_bytes)
        cuts = [size * i // number for i in range(number)]
        ranges = list(zip(cuts, [*cuts[1:], -1], strict=True))
    else:
        return whole
    return [Portion(name, first, last) for first, last in ranges] if len(ranges) > 1 else whole


def read_portion(root: Path, portion: Portion, max_record_bytes: int) -> Iterator[Record]:
    """The portion's records in order, with raw text. Runs in worker processes; holds about one record at a time."""
    name, path = portion.name, root / portion.name
    with named_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if path.stat().st_size == 0:
            yield BadRecord(name, 0, "the file is empty")
        elif name.endswith(".parquet"):
            from tasks.corpus.sources.parquet_rows import read_rows

            for row in read_rows(path, name, portion.first, portion.last):
                if isinstance(row, BadRecord):
                    yield row
                else:
                    yield to_document(name, row.number, f"{name}#{row.number}", row.fields, max_record_bytes)
        elif name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            for line in read_lines(path, name, portion.first, portion.last, max_record_bytes):
                record = line if isinstance(line, BadRecord) else _from_line(name, line, max_record_bytes)
                if record is not None:
                    yield record
        else:
            yield _whole_file(path, name, max_record_bytes)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """What the operating system refuses becomes a StageError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise StageError(
            f"corpus: {path} is gone; it was there when the files were listed; "
            f"next: put it back, or run the stage again without it"
        ) from error
    except OSError as error:
        raise StageError(
            f"corpus: {path} cannot be read: {error.strerror or error}; allowed: a readable file; "
            f"next: mend its permissions or its disk, or leave it out of corpus.sources"
        ) from error


def _whole_file(path: Path, name: str, limit: int) -> Record:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        return BadRecord(name, 0, f"{path.stat().st_size} bytes; allowed: max_record_bytes={limit}")
    text = _decode_page(content) if name.endswith((".html", ".htm")) else None
    if text is None:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return BadRecord(name, 0, f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}")
    return to_document(name, 0, name, {"text": text, "title": Path(name).stem}, limit)


_NAMED_CHARSET = re.compile(rb"""(?:charset|encoding)\s{0,3}=\s{0,3}["']?([A-Za-z0-9_:.-]{3,30})""", re.IGNORECASE)
_CHARSETS = re.compile(r"iso8859|cp125|cp949|cp932|koi8|euc|shift_jis|gb|big5|utf-16")


def _decode_page(content: bytes) -> str | None:
    """A page that is not UTF-8, in the charset its head names; None where that does not work."""
    match = _NAMED_CHARSET.search(content, 0, 2000)
    try:
        content.decode("utf-8")
        return None
    except UnicodeDecodeError:
        pass
    try:
        charset = codecs.lookup(match[1].decode("ascii")).name if match else ""
        return content.decode(charset) if _CHARSETS.match(charset) else None
    except (LookupError, UnicodeDecodeError):
        return None


def _from_line(name: str, line: Line, limit: int) -> Record | None:
    """A line of JSON; None for a blank one."""
    content = line.content.removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        return None
    where = f"byte {line.offset}: "
    try:
        fields = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRecord(name, line.number, f"{where}not UTF-8: byte {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return BadRecord(name, line.number, f"{where}not JSON: {error}")
    return to_document(name, line.number, f"{name}@{line.offset}", fields, limit, where)


def to_document(name: str, line: int, position: str, fields: Any, limit: int, where: str = "") -> Record:
    """One record as a document or a bad record. Without an id of its own it is known by its position in its file."""
    text = fields.get("text") if isinstance(fields, dict) else None
    if not isinstance(text, str):
        if not isinstance(fields, dict):
            found = type(fields).__name__
        elif "text" in fields:
            found = "null" if text is None else type(text).__name__
        else:
            found = f"keys {', '.join(map(str, list(fields)[:8]))}"
        return BadRecord(name, line, f"{where}no text of type string in field 'text'; found: {found[:200]}")
    text = valid_unicode(text)
    if len(text) * 4 > limit and (size := len(text.encode("utf-8"))) > limit:
        return BadRecord(name, line, f"{where}{size} bytes of text; allowed: max_record_bytes={limit}")
    if not text or text.isspace():
        return BadRecord(name, line, f"{where}the text is empty")
    values: dict[str, str | None] = {}
    for field in METADATA:
        value = fields.get(field)
        if isinstance(value, (list, dict, bytes)):
            found = type(value).__name__
            return BadRecord(name, line, f"{where}field {field!r} is a {found}; allowed: text, a number or null")
        absent = value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))
        values[field] = None if absent else valid_unicode(str(value))
    return Document(
        f"files:{values['id'] or position}",
        text,
        values["source"] or name,
        values["domain"] or "files",
        values["title"] or "",
        "file",
        values["url"],
        values["licence"] or values["license"],
    )


def valid_unicode(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no UTF-8 file can hold: it becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
