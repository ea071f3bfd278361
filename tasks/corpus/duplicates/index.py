"""The index of kept documents, against which later crawls are deduplicated: earlier documents always win.

An index is a folder of parts, one per crawl; a later crawl only adds its own. A part is named after its content, so
writing the same documents again adds nothing, and holds

    ids.parquet        id of each document
    exact_keys.npy     uint64 [documents, 2], see minhash.exact_keys
    signatures.npy     uint32 [documents, 112], see minhash.signatures
    manifest.json      what made them, number of documents, size and sha256 of each file

Not covered  Texts are not kept: the similarity with an earlier document is an estimate (near_duplicates.near_earlier).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks import _files
from tasks._errors import StageError
from tasks._words import KERNEL_VERSION
from tasks.corpus.duplicates.minhash import PERMUTATIONS, SCHEME, SHINGLE_WORDS, permutations
from tasks.corpus.duplicates.partitions import group_begins, partitions, records, repeated_keys

if TYPE_CHECKING:
    import polars as pl

FORMAT = 1
IDS, KEYS, SIGNATURES, MANIFEST = "ids.parquet", "exact_keys.npy", "signatures.npy", "manifest.json"
_CHUNK = 1 << 16


class Index(NamedTuple):
    """Documents of all parts, numbered one after the other in the order of the parts' names."""

    parts: tuple[Path, ...]
    starts: NDArray[np.int64]
    """starts[p]..starts[p + 1] are the documents of part p."""

    @property
    def documents(self) -> int:
        return int(self.starts[-1])

    @property
    def signature_files(self) -> list[Path]:
        return [part / SIGNATURES for part in self.parts]

    def ids(self, numbers: NDArray[np.int64]) -> list[str]:
        """Ids of the numbered documents, in that order; of each part only its ids are read, and only when needed."""
        import polars as pl

        result = np.empty(len(numbers), object)
        part_of = np.searchsorted(self.starts, numbers, side="right") - 1
        for part in np.unique(part_of).tolist():
            own = np.flatnonzero(part_of == part)
            ids = pl.read_parquet(self.parts[part] / IDS)["id"]
            result[own] = ids.gather(numbers[own] - self.starts[part]).to_list()
        return result.tolist()


def save_index(
    folder: Path,
    ids: "pl.Series | Sequence[str]",
    exact_keys: NDArray[np.uint64],
    signatures: NDArray[np.uint32] | Iterable[NDArray[np.uint32]],
) -> Path:
    """Add a part with these documents and return its folder. It appears whole or not at all.

    signatures: [documents, 112], or blocks of rows one after the other, which need not be in memory together.
    """
    import polars as pl

    temporary = folder / f".part.{os.getpid()}"
    _files.remove(temporary)
    temporary.mkdir(parents=True)
    pl.DataFrame({"id": pl.Series(ids, dtype=pl.String)}).write_parquet(temporary / IDS, compression="zstd")
    np.save(temporary / KEYS, np.ascontiguousarray(exact_keys, "<u8"))
    _save_blocks(temporary / SIGNATURES, [signatures] if isinstance(signatures, np.ndarray) else signatures, len(ids))
    if exact_keys.shape != (len(ids), 2):
        raise ValueError(f"{len(ids)} ids, exact keys of shape {exact_keys.shape}; allowed: ({len(ids)}, 2)")
    digests = {name: _sha256(temporary / name) for name in (IDS, KEYS, SIGNATURES)}
    described = {
        name: {"bytes": (temporary / name).stat().st_size, "sha256": digest} for name, digest in digests.items()
    }
    _files.write_json(temporary / MANIFEST, {**_made_by(), "documents": len(ids), "files": described})
    content = hashlib.sha256((digests[KEYS] + digests[SIGNATURES]).encode())
    for first in range(0, len(ids), _CHUNK):  # not the digest of the Parquet file, whose bytes depend on its writer
        content.update("".join(f"{name}\n" for name in ids[first : first + _CHUNK]).encode())
    part = folder / f"part-{content.hexdigest()[:16]}"
    _files.publish_folder(temporary, part)
    return part


def open_index(folder: Path, verify: bool = True) -> Index:
    """The index in `folder`. verify: compare every file with its sha256, not only its size.

    StageError: no part there, a part that is incomplete or damaged, or one made by another version of the hashes.
    """
    parts = tuple(sorted(path for path in folder.glob("part-*") if path.is_dir()))
    if not parts:
        raise StageError(
            f"corpus: {folder} holds no part of an index; allowed: a folder that an earlier run of this stage wrote; "
            f"next: correct the path, or remove the setting to start without one"
        )
    counts = [_check(part, verify) for part in parts]
    return Index(parts, np.cumsum([0, *counts], dtype=np.int64))


def find_exact(
    index: Index,
    exact_keys: NDArray[np.uint64],
    candidate: NDArray[np.bool_],
    scratch: Path,
    memory_bytes: int,
) -> NDArray[np.int64]:
    """For each candidate the first document of the index with the same key, -1 for none."""
    new = index.documents
    tables = [
        (np.load(part / KEYS, mmap_mode="r"), first)
        for part, first in zip(index.parts, index.starts.tolist(), strict=False)
    ]
    tables.append((exact_keys, new))

    def chunks() -> Iterator[NDArray[np.void]]:
        for keys, first in tables:
            for start in range(0, len(keys), _CHUNK):
                numbers = np.arange(start, min(start + _CHUNK, len(keys)))
                if first == new:
                    numbers = numbers[candidate[numbers]]
                yield records(keys[numbers, 0], numbers + first)

    found = np.full(len(exact_keys), -1, np.int64)
    for part in partitions(chunks(), new + len(exact_keys), scratch / "exact", memory_bytes):
        group = repeated_keys(part)
        numbers = group["number"]
        second = np.empty(len(group), np.uint64)
        for keys, first in tables:
            own = (numbers >= first) & (numbers < first + len(keys))
            second[own] = keys[numbers[own] - first, 1]
        order = np.lexsort((numbers, second, group["key"]))
        numbers = numbers[order]
        begins = group_begins(group["key"]) | group_begins(second[order])
        leaders = numbers[np.maximum.accumulate(np.where(begins, np.arange(len(numbers)), 0))]
        match = (numbers >= new) & (leaders < new)
        found[numbers[match] - new] = leaders[match]
    return found


def _made_by() -> dict[str, Any]:
    """What must be the same for hashes to be comparable; the version of datasketch is for people."""
    import datasketch

    a, b = permutations()
    return {
        "format": FORMAT,
        "kernel": KERNEL_VERSION,
        "scheme": SCHEME,
        "permutations": PERMUTATIONS,
        "permutations_sha256": hashlib.sha256(a.astype("<u4").tobytes() + b.astype("<u4").tobytes()).hexdigest(),
        "shingle_words": SHINGLE_WORDS,
        "datasketch": datasketch.__version__,
    }


def _check(part: Path, verify: bool) -> int:
    """The number of documents of a sound part."""
    remedy = f"next: restore {part} from a copy, or remove it and rebuild the index from its documents"
    try:
        manifest = json.loads((part / MANIFEST).read_text(encoding="utf-8"))
        files, documents = manifest["files"], int(manifest["documents"])
        expected = {name: (int(files[name]["bytes"]), files[name]["sha256"]) for name in (IDS, KEYS, SIGNATURES)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"corpus: the index part {part} has no usable {MANIFEST} ({error}); {remedy}") from error
    differing = [
        f"{name} {manifest.get(name)!r} (allowed: {value!r})"
        for name, value in _made_by().items()
        if name != "datasketch" and manifest.get(name) != value
    ]
    if differing:
        raise StageError(
            f"corpus: the index part {part} was made with other hashes: {', '.join(differing)}; they cannot be "
            f"compared; next: rebuild the index from its documents, or use the version that made it"
        )
    for name, (size, digest) in expected.items():
        found = (part / name).stat().st_size if (part / name).is_file() else None
        if found != size:
            raise StageError(f"corpus: {part / name} has {found} bytes; its manifest says {size}; {remedy}")
        if verify and _sha256(part / name) != digest:
            raise StageError(f"corpus: {part / name} is damaged: its sha256 is not that of the manifest; {remedy}")
    for name, columns in ((KEYS, 2), (SIGNATURES, PERMUTATIONS)):
        shape = np.load(part / name, mmap_mode="r").shape
        if shape != (documents, columns):
            raise StageError(f"corpus: {part / name} has shape {shape}; allowed: {(documents, columns)}; {remedy}")
    return documents


def _save_blocks(path: Path, blocks: Iterable[NDArray[np.uint32]], documents: int) -> None:
    table = np.lib.format.open_memmap(path, "w+", np.dtype("<u4"), (documents, PERMUTATIONS))
    row = 0
    for block in blocks:
        if row + len(block) > documents:
            raise ValueError(f"more than {documents} signatures for {documents} ids")
        table[row : row + len(block)] = block
        row += len(block)
    if row != documents:
        raise ValueError(f"{row} signatures for {documents} ids")
    table.flush()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
