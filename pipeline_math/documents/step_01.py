"""Numbers of 01_data_filtering_cost.md."""

from pipeline_math.data_filtering import (
    band_key_memory_bytes,
    bands_for_threshold,
    candidate_probability,
    cores_needed,
    effective_tokens,
    expected_false_share,
    expected_missed_share,
    index_insert_seconds,
    index_memory_bytes,
    jaccard_standard_error,
    largest_collection_documents,
    one_band_memory_bytes,
    raw_bytes_needed,
    signature_bytes,
    signing_seconds,
    similarity_threshold,
    trained_tokens_needed,
)
from pipeline_math.documents.number import Number, compute, constant, over
from pipeline_math.documents.recorded import amount, ledger_values, measured
from pipeline_math.documents.step_01_scale import scale_levers, scale_values
from pipeline_math.documents.table import Cell, Shown, Table, levers

BANDS, ROWS_PER_BAND, HASHES = 14, 8, 112
"""Default of FineWeb and datatrove."""
WANTED_SIMILARITY = 0.8
"""Chosen for the example: documents this alike are duplicates."""
SIMILARITIES = (0.5, 0.7, 0.75, 0.8, 0.85, 0.9)
DOCUMENTS = 1_000_000
"""Chosen for the example."""
MANY_DOCUMENTS = 10_000_000
"""Chosen for the example."""
MEMORY_BYTES = 24e9
"""Chosen for the example: main memory of a workstation."""
UNIQUE_TOKENS = 1e9
"""Chosen for the example."""
BYTES_PER_TOKEN = 4.67
"""Chosen for the example: GPT-2's tokenizer on English web text, see step 2."""
KEPT_SHARE = 0.8
"""Chosen for the example."""
DROPPED_SHARE = 0.35
"""Chosen for the example: what best-fit-crop packing drops, see step 3."""
EPOCHS = (1, 2, 4, 8, 16, 40)
WORTH = 3.0
"""Chosen for the example: wanted worth in multiples of the unique tokens."""
DAY_HOURS = 24.0
"""Chosen for the example."""
WEB_DOCUMENTS = 1e9
"""Chosen for the example: documents of a web-scale collection."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    own = _own() | scale_values() | {"targets": _targets()}
    return _search() | _cost() | _repetition() | own | ledger_values("corpus")


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_01.{name}", unit)


def _item(name: str, index: int, unit: str) -> Number:
    return compute(example_item, name, index, unit=unit)


def example_item(name: str, index: int) -> float:
    """An entry of one of the example lists of this module."""
    return {"SIMILARITIES": SIMILARITIES, "EPOCHS": EPOCHS}[name][index]


def _search() -> dict[str, Number | Table]:
    bands, rows, hashes = _chosen("BANDS", ""), _chosen("ROWS_PER_BAND", ""), _chosen("HASHES", "")
    best_bands = compute(bands_for_threshold, _chosen("WANTED_SIMILARITY", ""), hashes, unit="", pick="bands")
    best_rows = compute(bands_for_threshold, _chosen("WANTED_SIMILARITY", ""), hashes, unit="", pick="rows_per_band")
    lines: list[list[Cell]] = []
    for index in range(len(SIMILARITIES)):
        similarity = _item("SIMILARITIES", index, "")
        lines.append(
            [
                Shown(similarity, ".2g"),
                compute(candidate_probability, similarity, bands, rows, unit="share"),
                compute(candidate_probability, similarity, best_bands, best_rows, unit="share"),
                compute(jaccard_standard_error, similarity, hashes, unit="share"),
            ]
        )
    header = ("similarity of the pair", "compared, default", "compared, chosen by program", "error of the estimate")
    return {
        "bands": bands,
        "rows_per_band": rows,
        "hashes": hashes,
        "threshold": compute(similarity_threshold, bands, rows, unit=""),
        "best_bands": best_bands,
        "best_rows": best_rows,
        "wanted": _chosen("WANTED_SIMILARITY", ""),
        "curve": Table(header, lines, "rrrr"),
    }


def _cost() -> dict[str, Number | Table]:
    documents, many, memory = (
        _chosen("DOCUMENTS", "documents"),
        _chosen("MANY_DOCUMENTS", ""),
        _chosen("MEMORY_BYTES", "B"),
    )
    bands, hashes = _chosen("BANDS", ""), _chosen("HASHES", "")
    per_document = constant("data_filtering.INDEX_BYTES_PER_DOCUMENT", "B")
    rate = over(_chosen("DOCUMENTS", ""), compute(signing_seconds, documents, unit="s"), "documents/s")
    return {
        "documents": documents,
        "sign": compute(signing_seconds, documents, unit="s"),
        "insert": compute(index_insert_seconds, documents, unit="s"),
        "index": compute(index_memory_bytes, documents, unit="B"),
        "signatures": compute(signature_bytes, documents, hashes, unit="B"),
        "memory": memory,
        "largest": compute(largest_collection_documents, memory, per_document, unit="documents"),
        "many": _chosen("MANY_DOCUMENTS", "documents"),
        "many_keys": compute(band_key_memory_bytes, many, bands, unit="B"),
        "many_one_band": compute(one_band_memory_bytes, many, unit="B"),
        "web_documents": _chosen("WEB_DOCUMENTS", "documents"),
        "web_cores": compute(cores_needed, _chosen("WEB_DOCUMENTS", ""), rate, _chosen("DAY_HOURS", ""), unit="cores"),
    }


def _repetition() -> dict[str, Number | Table]:
    lines: list[list[Cell]] = []
    for index in range(len(EPOCHS)):
        epochs = _item("EPOCHS", index, "")
        worth = compute(effective_tokens, 1.0, epochs, unit="")
        lines.append([epochs, worth, over(worth, epochs, "share")])
    unique = _chosen("UNIQUE_TOKENS", "tokens")
    common = (unique, _chosen("BYTES_PER_TOKEN", ""), _chosen("KEPT_SHARE", "share"))
    return {
        "worth": Table(("passes", "worth, in multiples of the unique tokens", "worth per token"), lines, "rrr"),
        "half_life": constant("data_filtering.REPETITION_HALF_LIFE", ""),
        "wanted_worth": _chosen("WORTH", ""),
        "passes_needed": compute(trained_tokens_needed, 1.0, _chosen("WORTH", ""), unit=""),
        "unique_tokens": unique,
        "raw_needed": compute(raw_bytes_needed, *common, unit="B"),
        "dropped": _chosen("DROPPED_SHARE", "share"),
        "raw_needed_cropped": compute(raw_bytes_needed, *common, _chosen("DROPPED_SHARE", "share"), unit="B"),
    }


def _own() -> dict[str, Number | Table]:
    raw, documents = amount("corpus", "raw_bytes"), amount("corpus", "documents")
    seconds = measured("corpus", "seconds")
    return {
        "own_raw": raw,
        "own_documents": documents,
        "own_rate": over(raw, seconds, "B/s"),
        "own_kept": measured("corpus", "kept_share"),
        "own_index": compute(index_memory_bytes, documents, unit="B"),
        "own_sign": compute(signing_seconds, documents, unit="s"),
        "constant_once": constant("constants.CONSTANTS.cpu.corpus_once", "s"),
        "constant_raw": constant("constants.CONSTANTS.cpu.raw_bytes", "s/B"),
        "constant_judged": constant("constants.CONSTANTS.cpu.judged_bytes", "s/B"),
        "constant_documentation": constant("constants.CONSTANTS.cpu.documentation", "s"),
        "constant_process": constant("constants.CONSTANTS.cpu.process", "s"),
    }


def _targets() -> Table:
    documents, bands, rows = _chosen("DOCUMENTS", "documents"), _chosen("BANDS", ""), _chosen("ROWS_PER_BAND", "")
    index = compute(index_memory_bytes, documents, unit="B")
    keys = compute(band_key_memory_bytes, documents, bands, unit="B")
    one_band = compute(one_band_memory_bytes, documents, unit="B")
    one, two = (compute(signing_seconds, documents, processes=count, unit="s") for count in (1, 2))
    wanted, hashes = _chosen("WANTED_SIMILARITY", ""), _chosen("HASHES", "")
    best = [compute(bands_for_threshold, wanted, hashes, unit="", pick=part) for part in ("bands", "rows_per_band")]
    false, false_best = (
        compute(expected_false_share, wanted, *division, unit="share") for division in ((bands, rows), best)
    )
    missed, missed_best = (
        compute(expected_missed_share, wanted, *division, unit="share") for division in ((bands, rows), best)
    )
    common = (_chosen("UNIQUE_TOKENS", "tokens"), _chosen("BYTES_PER_TOKEN", ""), _chosen("KEPT_SHARE", "share"))
    cropped = compute(raw_bytes_needed, *common, _chosen("DROPPED_SHARE", "share"), unit="B")
    packed = compute(raw_bytes_needed, *common, unit="B")
    passes = compute(trained_tokens_needed, 1.0, _chosen("WORTH", ""), unit="")
    wanted_worth = _chosen("WORTH", "")
    return levers(
        (
            ("sort all band keys instead of an index", "memory", index, keys),
            ("sort one band after the other", "memory", index, one_band),
            ("sign on two cores", "compute", one, two),
            ("bands chosen for the wanted similarity: false pairs", "compute", false, false_best),
            ("the same: missed pairs, its price", "statistics", missed, missed_best),
            ("pack without cropping (raw text to collect)", "io", cropped, packed),
            ("repeat instead of collecting (passes for the worth of distinct ones)", "compute", wanted_worth, passes),
            *scale_levers(),
        )
    )
