"""Step 1 at any size: time, memory and disk of the corpus engine as functions of raw bytes and documents.

The engine makes passes over shards of text, one shard per core at a time (time falls with cores, memory does not grow
with the text), then decides in one process over arrays of tens of bytes per document (time and memory grow with the
documents, whatever the cores). So bytes decide how many cores are worth having and documents decide where one machine
ends; beyond it a collection is cut into dumps. Left out: fetching; HTML at scale, where the raw bytes are many times
the text and extraction costs more per byte of text than here; comparing the shingles of candidate pairs, which grows
with the near copies there are; a slow or shared disk; the tail of a run, when the last shards keep few cores busy;
repeated work after a failure (at most one shard per worker); queues of a cluster.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

from pipeline_math.checks import checked, positive, share, whole

# --- Time, measured on two cores of a Xeon with AVX-512 (benchmarks/corpus_cpu_202611.md). ---
CORE_SECONDS_PER_BYTE: Mapping[str, float] = MappingProxyType(
    {
        "read": 1.05e-7,
        "measure": 9.2e-8,
        "sign": 2.7e-8,
        "overlap": 2.6e-8,
        "write": 4.5e-8,
    }
)
"""Core-seconds per raw byte of every pass over 152 MB: read and clean, a twentieth of it HTML; statistics (60 %) and
language; words and signatures; words and benchmark n-grams; split, sort and write what is kept, which is what a whole
run takes beyond the others. Short documents cost more: a language is identified per document, not per byte."""
SCORE_CORE_SECONDS_PER_BYTE = 2.9e-8
"""The optional quality classifier: 35 MB/s on one core of a 2-core Zen 5 under other load, 4,000 documents of the
development corpus, of which the first 5,000 characters are read."""
BAND_CORE_SECONDS_PER_DOCUMENT = 1.3e-6
"""Grouping all bands: 815,000 documents/s on one core of a 2-core Zen 5. One task per band, so at most BANDS cores."""
DECIDE_SECONDS_PER_DOCUMENT = 5.0e-6
"""ASSUMPTION, not measured: thresholds, union-find, mixing and report rows in the main process."""
START_SECONDS = 3.0
"""Measured: a run that finds everything in the cache, of 144 MB."""
BANDS = 14

# --- Memory. ---
RESIDENT_BYTES_PER_DOCUMENT = 720
"""Measured: what the main process holds more at its peak with 157,538 documents than with 15,750. A hundred stay
(hashes, sizes, verdict, cluster); the others are keys, orders and copies while duplicates are sought."""
INDEXED_RESIDENT_BYTES_PER_DOCUMENT = 21
"""Of a document of an earlier dump, known by its signature on disk: rank 8, candidate 1, winner 8, similarity 4."""
MAIN_RESIDENT_BYTES = 2.1e8
"""Measured: the main process, report included."""
WORKER_RESIDENT_BYTES = 3.0e8
"""Measured: interpreter and libraries of one worker."""
RESIDENT_BYTES_PER_UNIT_BYTE = 8.0
"""Measured, a worker at its peak: text, its lower-cased copy, words and n-gram hashes of the row group in work."""
UNIT_BYTES = 16e6
"""Text of one unit of work: a row group of a shard."""

# --- Disk. ---
PACKED_SHARE = 0.275
"""zstd Parquet over raw text; the development corpus as delivered."""
SIGNATURE_BYTES_PER_DOCUMENT = 448
"""112 hashes of 32 bits."""
KEY_BYTES_PER_DOCUMENT = 24
"""Exact key (128 bits) and hash of the id."""
STATISTICS_BYTES_PER_DOCUMENT = 200
"""About fifty Float32 columns with language and scores; ASSUMPTION that compression saves nothing."""
PARTITION_BYTES_PER_DOCUMENT = 16
"""Band key and document number, for every band that is being grouped."""
INDEX_BYTES_PER_DOCUMENT = SIGNATURE_BYTES_PER_DOCUMENT + KEY_BYTES_PER_DOCUMENT + 40
"""What a later dump needs of a kept document: signature, keys, id (ids of about 40 bytes)."""


@checked
def documents_of(raw_bytes: float, bytes_per_document: float) -> float:
    """Documents in so much text."""
    positive(bytes_per_document=bytes_per_document)
    return raw_bytes / bytes_per_document


@checked
def core_seconds(raw_bytes: float, documents: float) -> float:
    """Work of all cores: every pass over the bytes, the bands of the documents. Left out: the classifier."""
    return raw_bytes * math.fsum(CORE_SECONDS_PER_BYTE.values()) + documents * BAND_CORE_SECONDS_PER_DOCUMENT


@checked
def serial_seconds(documents: float) -> float:
    """What no further core shortens: start, and the decisions of the main process."""
    return START_SECONDS + documents * DECIDE_SECONDS_PER_DOCUMENT


@checked
def seconds(raw_bytes: float, documents: float, cores: int, busy_share: float = 1.0) -> float:
    """Wall clock: serial part + (bytes * passes / min(cores, units) + bands / min(cores, 14)) / u (Amdahl's law).

    A unit, UNIT_BYTES of text, is the work of one core; so a small collection cannot use many. `busy_share` u is the
    part of the time cores compute; 1 means that storage keeps up and no shard is left over.
    """
    whole(1, cores=cores)
    positive(busy_share=busy_share)
    share(busy_share=busy_share)
    passes = core_seconds(raw_bytes, 0) / min(cores, _units(raw_bytes))
    bands = core_seconds(0, documents) / min(cores, BANDS)
    return serial_seconds(documents) + (passes + bands) / busy_share


@checked
def useful_cores(raw_bytes: float, documents: float) -> int:
    """Cores at which the rest takes as long as the serial part, no more than there are units of work.

    Twice as many save a quarter of the time at most.
    """
    return min(_units(raw_bytes), max(1, math.ceil(core_seconds(raw_bytes, documents) / serial_seconds(documents))))


@checked
def resident_bytes(documents: float, workers: int, unit_bytes: float = UNIT_BYTES, indexed: float = 0) -> float:
    """Main process and workers: fixed parts, arrays of the documents, one unit in work per worker.

    `indexed` are documents of earlier dumps. It does not depend on the size of the text.
    """
    whole(1, workers=workers)
    worker = WORKER_RESIDENT_BYTES + RESIDENT_BYTES_PER_UNIT_BYTE * unit_bytes
    arrays = documents * RESIDENT_BYTES_PER_DOCUMENT + indexed * INDEXED_RESIDENT_BYTES_PER_DOCUMENT
    return MAIN_RESIDENT_BYTES + workers * worker + arrays


@checked
def signature_bytes(documents: float) -> float:
    """What near-duplicate search reads of all documents."""
    return documents * SIGNATURE_BYTES_PER_DOCUMENT


@checked
def scratch_bytes(raw_bytes: float, documents: float, bands_at_once: int = BANDS) -> float:
    """Disk beside the raw text: cleaned shards, what is kept of them (at most all), and the documents' columns.

    With all bands partitioned at once, as many cores do; on few cores fewer are on disk together.
    """
    whole(1, bands_at_once=bands_at_once)
    columns = SIGNATURE_BYTES_PER_DOCUMENT + KEY_BYTES_PER_DOCUMENT + STATISTICS_BYTES_PER_DOCUMENT
    partitions = min(bands_at_once, BANDS) * PARTITION_BYTES_PER_DOCUMENT
    return 2 * PACKED_SHARE * raw_bytes + documents * (columns + partitions)


@checked
def index_bytes(documents: float) -> float:
    """Disk of the index through which later dumps know these kept documents."""
    return documents * INDEX_BYTES_PER_DOCUMENT


@checked
def largest_documents(memory_bytes: float, workers: int = 1, unit_bytes: float = UNIT_BYTES, indexed: float = 0) -> int:
    """Most documents of one run in so much memory; 0 where workers and index leave no room."""
    room = memory_bytes - resident_bytes(0, workers, unit_bytes, indexed)
    return max(0, int(room / RESIDENT_BYTES_PER_DOCUMENT))


@checked
def dumps_needed(documents: float, memory_bytes: float, workers: int = 1, unit_bytes: float = UNIT_BYTES) -> int:
    """Equal dumps that fit one after the other, each deduplicated in itself only, as FineWeb was (arXiv 2406.17557)."""
    most = largest_documents(memory_bytes, workers, unit_bytes)
    if most < 1:
        raise ValueError(_no_room(memory_bytes, workers, unit_bytes))
    return max(1, math.ceil(documents / most))


@checked
def indexed_dumps_needed(
    documents: float, memory_bytes: float, workers: int = 1, unit_bytes: float = UNIT_BYTES
) -> int:
    """Equal dumps, each deduplicated also against the index of all before it: the last one must fit beside the others.

    d (r - i) + n i <= room, with d documents in a dump, n in all, r resident bytes of a document and i of an indexed
    one. ValueError where the index alone does not fit: it moves the end of one machine by r / i and does not remove it.
    Upper bound: as if nothing had been dropped from earlier dumps.
    """
    room = memory_bytes - resident_bytes(0, workers, unit_bytes)
    if room < RESIDENT_BYTES_PER_DOCUMENT:
        raise ValueError(_no_room(memory_bytes, workers, unit_bytes))
    left = room - documents * INDEXED_RESIDENT_BYTES_PER_DOCUMENT
    most = left / (RESIDENT_BYTES_PER_DOCUMENT - INDEXED_RESIDENT_BYTES_PER_DOCUMENT)
    if documents > 0 and most < 1:
        raise ValueError(
            f"documents={documents:g}: an index of them takes {documents * INDEXED_RESIDENT_BYTES_PER_DOCUMENT:g} B of "
            f"{room:g} B; allowed: fewer than {room / INDEXED_RESIDENT_BYTES_PER_DOCUMENT:g}, or deduplicate within "
            f"dumps only"
        )
    return max(1, math.ceil(documents / most)) if documents else 1


@checked
def largest_indexed_documents(memory_bytes: float, workers: int = 1, unit_bytes: float = UNIT_BYTES) -> int:
    """Documents of all dumps together at which an index ends one machine."""
    room = memory_bytes - resident_bytes(0, workers, unit_bytes)
    return max(0, int(room / INDEXED_RESIDENT_BYTES_PER_DOCUMENT))


@checked
def transfer_seconds(moved_bytes: float, network_gigabits_per_second: float) -> float:
    """Seconds to move bytes through one link at full speed, 8 bytes / rate.

    Moving signatures instead of text is what makes near-duplicate search over several machines cheap.
    """
    positive(network_gigabits_per_second=network_gigabits_per_second)
    return 8e-9 * moved_bytes / network_gigabits_per_second


@checked
def price_usd(busy_seconds: float, usd_per_core_hour: float) -> float:
    """Cost of rented cores, core-seconds / 3600 * rate. Left out: disk, traffic, idle cores."""
    return busy_seconds / 3600.0 * usd_per_core_hour


def _units(raw_bytes: float) -> int:
    return max(1, math.ceil(raw_bytes / UNIT_BYTES))


def _no_room(memory_bytes: float, workers: int, unit_bytes: float) -> str:
    return (
        f"memory_bytes={memory_bytes:g}: {workers} worker(s) take {resident_bytes(0, workers, unit_bytes):g} B before "
        f"the first document; allowed: more than that; use fewer workers or smaller units"
    )
