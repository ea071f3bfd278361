"""Sources of text, and the one place that turns their parameters into portions to read.

Portions are cut by content (files, row groups, byte ranges), never by the number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tasks._context import StageContext
from tasks._params import StageParams
from tasks._units import digest_of, unit_key
from tasks.corpus.reading import SourcePortion
from tasks.corpus.records import BadRecord, Document, Harvest
from tasks.corpus.sources.fetch import RemoteFile, fetch_all
from tasks.corpus.sources.files import Portion as FilePortion
from tasks.corpus.sources.files import find_files, named_errors, portions_of, read_portion
from tasks.corpus.sources.hub import Hub, Urls
from tasks.corpus.sources.pins import complete_pin, pin, pin_path
from tasks.corpus.sources.python_docs import (
    SourceFile,
    harvest_descriptions,
    harvest_files,
    harvest_topics,
    list_files,
    locked_distributions,
    share_out,
    topics_file,
)

PORTION_BYTES = 1 << 26
"""Bytes on disk of one portion of a large file."""
DOWNLOADS = 4
"""Files fetched at once."""
PINS = "data/pins"
"""What remote sources held when they were first fetched; kept in git, obeyed ever after."""


class PythonDocs(StageParams):
    """Documentation of the standard library and of the packages in requirements.lock: text that needs no download."""

    kind: Literal["python_docs"]
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """UTF-8 bytes of documentation taken from this source, in hash order of the ids; None takes everything."""
    max_package_bytes: Annotated[int, Field(gt=0)] = 3_000_000
    """Bytes of Python source read per package, so that a few very large ones do not dominate."""


class Files(StageParams):
    """The user's own files below data/text."""

    kind: Literal["files"]
    glob: str
    """Pattern relative to data/text, such as "**/*.jsonl.gz"."""
    domain: str | None = None
    """Domain of records that name none; None: "files"."""


AnySource = PythonDocs | Files | Hub | Urls
Source = Annotated[AnySource, Field(discriminator="kind")]
IsDone = Callable[[SourcePortion], bool]


def portions(
    ctx: StageContext, sources: Sequence[AnySource], max_record_bytes: int, is_done: IsDone
) -> Iterator[SourcePortion]:
    """Every portion of every source, in a fixed order. Remote files are fetched ahead of their turn, unless `is_done`
    says that their unit is in the cache; whoever has read one deletes it (SourcePortion.fetched)."""
    for number, source in enumerate(sources):
        if isinstance(source, PythonDocs):
            yield from _python_docs(ctx, number, source)
        elif isinstance(source, Files):
            yield from _files(ctx, number, source, max_record_bytes)
        else:
            yield from _remote(ctx, number, source, max_record_bytes, is_done)


def _python_docs(ctx: StageContext, number: int, source: PythonDocs) -> Iterator[SourcePortion]:
    lock = ctx.input("requirements.lock")
    for files in share_out(list_files(lock, source.max_package_bytes)):
        content = unit_key([(file.module, file.domain, digest_of(Path(file.path))) for file in files])
        name = f"{files[0].module} .. {files[-1].module}"
        yield SourcePortion(number, name, content, read_python_files, (files,))
    topics = topics_file()
    content = digest_of(topics) if topics.is_file() else ""
    yield SourcePortion(number, "help topics", content, read_topics, ())
    installed = unit_key([(found.metadata["Name"], found.version) for found in locked_distributions(lock)])
    yield SourcePortion(number, "package descriptions", installed, read_descriptions, (str(lock),))


def read_python_files(files: list[SourceFile]) -> Iterator[Document | BadRecord]:
    """The documented objects of these files."""
    yield from _records(harvest_files(files))


def read_topics() -> Iterator[Document | BadRecord]:
    """The language reference behind `help()`."""
    yield from _records(harvest_topics())


def read_descriptions(lock: str) -> Iterator[Document | BadRecord]:
    """Summary and long description of each package of the lock file."""
    yield from _records(harvest_descriptions(Path(lock)))


def _records(harvest: Harvest) -> Iterator[Document | BadRecord]:
    yield from harvest.documents
    yield from harvest.bad


def _files(ctx: StageContext, number: int, source: Files, max_record_bytes: int) -> Iterator[SourcePortion]:
    root = ctx.input("data/text")
    for name in find_files(root, source.glob):
        for part in portions_of(root, name, PORTION_BYTES):
            shown = name if part == (name, 0, -1) else f"{name} from {part.first:,}"
            with named_errors(root / name):
                content = unit_key(digest_of(root / name), part)
            yield SourcePortion(number, shown, content, read_portion, (root, part, max_record_bytes), source.domain)


def _remote(
    ctx: StageContext, number: int, source: Hub | Urls, max_record_bytes: int, is_done: IsDone
) -> Iterator[SourcePortion]:
    pins = ctx.root / PINS
    # A folder per source: two of them may hold files of one name, and each deletes its own once they are read.
    folder = fetched_folder(ctx) / f"{pin_path(source, pins).stem}-{number}"

    def portion(file: RemoteFile) -> SourcePortion:
        arguments = (folder, FilePortion(file.name, 0, -1), max_record_bytes)
        raw = str(folder / file.name)
        return SourcePortion(number, file.name, str(file.sha256), read_portion, arguments, source.domain, raw)

    files = pin(source, pins)
    # A file of unknown sha256 has never been read: the pin is completed before its unit is computed.
    missing = {file.name for file in files if file.sha256 is None or not is_done(portion(file))}
    wanted = (file for file in files if file.name in missing)
    with closing(fetch_all(wanted, folder, DOWNLOADS, check_stop=ctx.check_stop)) as fetched:
        for file in files:
            if file.name in missing:
                file = next(fetched)
                complete_pin(source, pins, file)
            yield portion(file)


def fetched_folder(ctx: StageContext) -> Path:
    """Where remote files lie between their download and the end of their reading."""
    return ctx.cache.parent / "fetched"
