"""From sources to measured shards: the passes that do not depend on any threshold."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from pathlib import Path
from typing import Any

from tasks import _units
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import remove
from tasks._units import Unit, code_version, compute, compute_all, unit_key
from tasks.corpus import passes, reading
from tasks.corpus.documents import Shard
from tasks.corpus.params import Params
from tasks.corpus.sources.portions import AnySource, fetched_folder, portions

BAD_SAMPLES = 20


class Work:
    """The passes over text shards: computes what is missing, remembers every unit the run used."""

    def __init__(self, ctx: StageContext, executor: Executor) -> None:
        self.ctx, self.executor = ctx, executor
        self.used: set[Path] = set()
        self.computed: dict[str, int] = {}
        """Pass -> bytes of text it had to go through; the rest came from the cache."""

    def folder(self, name: str, *parts: object) -> Path:
        """Where the unit of a pass lies, whose result depends on `parts`."""
        folder = self.ctx.cache / name / unit_key(*parts)
        self.used.add(folder)
        return folder

    def over(
        self, name: str, shards: Sequence[Shard], version: str, arguments: tuple[object, ...] = (), *parts: object
    ) -> list[Path]:
        """One pass over all shards, `passes.<name>(out, text, *arguments)`; `parts` identify what `arguments` name."""
        units = [Unit(self.folder(name, version, shard.key, *parts), (str(shard.text), *arguments)) for shard in shards]
        missing = (s.info.bytes for s, unit in zip(shards, units, strict=True) if not unit.folder.exists())
        self.computed[name] = sum(missing)
        return list(compute_all(self.ctx, self.executor, getattr(passes, name), units, len(units), name))

    def one(self, name: str, function: Callable[..., None], arguments: tuple[Any, ...], *parts: object) -> Path:
        """A single unit that does not belong to a shard, computed here."""
        folder = self.folder(name, *parts)
        compute(function, str(folder), arguments)
        return folder

    def new_bytes(self) -> float:
        """Bytes of text that were not in the cache, averaged over the passes."""
        return sum(self.computed.values()) / max(1, len(self.computed))

    def finish(self) -> None:
        """Tell `flows gc` what this run used."""
        _units.keep_only(self.ctx.cache, self.used)


def gather(work: Work, params: Params) -> list[Shard]:
    """Read and measure everything. StageError: too many unusable records, or no document at all."""
    shards = _read(work, params)
    _check_bad_records(shards, params)
    if not any(shard.info.documents for shard in shards):
        raise StageError(
            f"corpus: the {len(params.sources)} source(s) hold no document; allowed: at least one; "
            f"next: put text files into data/text or add a source of kind python_docs"
        )
    full = [shard for shard in shards if shard.info.documents]
    version = code_version(passes.MEASURE_CODE, passes.MEASURE_LIBRARIES)
    measured = iter(work.over("measure", full, version))
    return [shard._replace(measures=next(measured)) if shard.info.documents else shard for shard in shards]


def _read(work: Work, params: Params) -> list[Shard]:
    options = params.text_options()
    version = code_version(reading.CODE, reading.LIBRARIES)
    choices = {domain: own.model_dump() for domain, own in options.items()}
    parts: list[reading.SourcePortion] = []
    present: list[bool] = []

    def unit(portion: reading.SourcePortion) -> Path:
        identity = (portion.reader.__name__, portion.name, portion.content, portion.domain, params.max_record_bytes)
        return work.folder("read", version, identity, choices)

    def is_done(portion: reading.SourcePortion) -> bool:
        return unit(portion).exists()

    def units() -> Generator[Unit, None, None]:
        for portion in portions(work.ctx, params.sources, params.max_record_bytes, is_done):
            parts.append(portion)
            present.append(is_done(portion))
            yield Unit(unit(portion), (portion.name, portion.reader, portion.arguments, portion.domain, options))

    shards: list[Shard] = []
    with closing(units()) as pending:  # whatever goes wrong, downloads end with it
        for folder in compute_all(work.ctx, work.executor, reading.read, pending, None, "reading"):
            portion = parts[len(shards)]
            if portion.fetched:
                remove(Path(portion.fetched))
            shards.append(Shard(portion.source, reading.read_info(folder), folder.name, folder / reading.TEXT, folder))
    work.computed["read"] = sum(shard.info.bytes for number, shard in enumerate(shards) if not present[number])
    remove(fetched_folder(work.ctx))  # what is left are parts of files that nobody asks for any more
    return shards


def _check_bad_records(shards: Sequence[Shard], params: Params) -> None:
    for number, source in enumerate(params.sources):
        own = [shard.info for shard in shards if shard.source == number]
        bad = [record for info in own for record in info.bad]
        records, unreadable = sum(info.records for info in own), sum(info.unreadable for info in own)
        if records and unreadable > params.max_bad_fraction * records:
            samples = "\n  ".join(f"{b.file}:{b.line}: {b.reason}" for b in bad[:BAD_SAMPLES])
            raise StageError(
                f"corpus: {unreadable} of {records} records of source {number} ({_name(source)}) are unusable; "
                f"allowed: corpus.max_bad_fraction={params.max_bad_fraction}; next: mend them or raise the limit. "
                f"Such as:\n  {samples}"
            )


def _name(source: AnySource) -> str:
    glob = getattr(source, "glob", None)
    return f"glob {glob!r}" if source.kind == "files" else source.kind
