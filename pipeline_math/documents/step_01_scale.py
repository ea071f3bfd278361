"""Numbers of 01_data_filtering_cost.md about the corpus engine at any size."""

from pipeline_math.corpus_scale import (
    core_seconds,
    documents_of,
    dumps_needed,
    index_bytes,
    indexed_dumps_needed,
    largest_documents,
    largest_indexed_documents,
    price_usd,
    resident_bytes,
    scratch_bytes,
    seconds,
    serial_seconds,
    signature_bytes,
    transfer_seconds,
    useful_cores,
)
from pipeline_math.documents.number import Number, compute, constant, over, times
from pipeline_math.documents.table import Cell, Shown, Table

DEVELOPMENT_BYTES, DEVELOPMENT_DOCUMENTS = 151.9e6, 15_797
"""The development corpus as delivered."""
RAW_BYTES = (DEVELOPMENT_BYTES, 10e9, 500e9, 60e12)
"""Chosen for the example; the last is the text of the largest public English collections, 15 T tokens of four bytes."""
BYTES_PER_DOCUMENT = (DEVELOPMENT_BYTES / DEVELOPMENT_DOCUMENTS, 3000.0, 3000.0, 3000.0)
"""Of the development corpus; ASSUMPTION for web text."""
LAPTOP_CORES, SERVER_CORES, CLUSTER_CORES = 2, 64, 4096
"""Chosen for the example."""
LAPTOP_MEMORY_BYTES, SERVER_MEMORY_BYTES = 8e9, 512e9
"""Chosen for the example: main memory."""
NETWORK_GIGABITS_PER_SECOND = 10
"""Chosen for the example: one link of a cluster."""
USD_PER_CORE_HOUR = 0.04
"""ASSUMPTION: order of magnitude of a rented core; put yours here."""
CASES = range(len(RAW_BYTES))
WEB = len(RAW_BYTES) - 1


def scale_values() -> dict[str, Number | Table]:
    """What the template names beside the tables of step_01."""
    laptop, server = _chosen("LAPTOP_MEMORY_BYTES", "B"), _chosen("SERVER_MEMORY_BYTES", "B")
    laptop_cores, server_cores = _chosen("LAPTOP_CORES", "cores"), _chosen("SERVER_CORES", "cores")
    development = _chosen("DEVELOPMENT_DOCUMENTS", "")
    server_documents = compute(largest_documents, server, server_cores, unit="documents")
    return {
        "passes": _passes(),
        "scale_time": _time(),
        "scale_memory": _memory(),
        "scale_moving": _moving(),
        "per_document": constant("corpus_scale.RESIDENT_BYTES_PER_DOCUMENT", "B"),
        "per_indexed": constant("corpus_scale.INDEXED_RESIDENT_BYTES_PER_DOCUMENT", "B"),
        "laptop_cores": laptop_cores,
        "laptop_memory": laptop,
        "laptop_documents": compute(largest_documents, laptop, laptop_cores, unit="documents"),
        "server_cores": server_cores,
        "server_memory": server,
        "server_documents": server_documents,
        "server_bytes": times(server_documents, _bytes_per_document(WEB), "B"),
        "server_indexed": compute(largest_indexed_documents, server, server_cores, unit="documents"),
        "development_seconds": compute(seconds, _raw(0), development, laptop_cores, unit="s"),
        "development_resident": compute(resident_bytes, development, laptop_cores, unit="B"),
        "cluster_cores": _chosen("CLUSTER_CORES", "cores"),
        "usd_per_core_hour": _chosen("USD_PER_CORE_HOUR", "USD"),
        "network": _chosen("NETWORK_GIGABITS_PER_SECOND", "Gbit/s"),
    }


def scale_levers() -> tuple[tuple[str, str, Number, Number], ...]:
    """Rows of the table of optimisation targets."""
    case = WEB - 1
    raw, documents = _raw(case), _documents(case)
    few, many = (compute(seconds, raw, documents, _chosen(name, ""), unit="s") for name in _CORES[:2])
    text, signatures = _moved(raw), _moved(compute(signature_bytes, documents, unit="B"))
    return (
        ("the engine on a server instead of a laptop", "compute", few, many),
        ("move signatures between machines instead of text", "bandwidth", text, signatures),
    )


_CORES = ("LAPTOP_CORES", "SERVER_CORES", "CLUSTER_CORES")


def example_case(name: str, index: int) -> float:
    """An entry of one of the example lists of this module."""
    return {"RAW_BYTES": RAW_BYTES, "BYTES_PER_DOCUMENT": BYTES_PER_DOCUMENT}[name][index]


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_01_scale.{name}", unit)


def _raw(case: int) -> Number:
    return compute(example_case, "RAW_BYTES", case, unit="B")


def _bytes_per_document(case: int) -> Number:
    return compute(example_case, "BYTES_PER_DOCUMENT", case, unit="B")


def _documents(case: int) -> Number:
    return compute(documents_of, _raw(case), _bytes_per_document(case), unit="documents")


def _passes() -> Table:
    passes = (
        ("read, extract, clean", "read"),
        ("statistics, language", "measure"),
        ("words, signatures", "sign"),
        ("benchmark n-grams", "overlap"),
        ("write what is kept", "write"),
    )
    lines: list[list[Cell]] = [
        [words, constant(f"corpus_scale.CORE_SECONDS_PER_BYTE.{name}", "s/B")] for words, name in passes
    ]
    lines += [
        ["classifier, where one is used", constant("corpus_scale.SCORE_CORE_SECONDS_PER_BYTE", "s/B")],
        ["bands, per document", constant("corpus_scale.BAND_CORE_SECONDS_PER_DOCUMENT", "s")],
        ["decisions, per document, on one core", constant("corpus_scale.DECIDE_SECONDS_PER_DOCUMENT", "s")],
    ]
    return Table(("pass", "core time"), lines, "lr")


def _time() -> Table:
    header = ("raw text", "documents", "core time", "laptop", "server", "cluster", "of it on one core", "useful cores")
    lines: list[list[Cell]] = []
    for case in CASES:
        raw, documents = _raw(case), _documents(case)
        work = compute(core_seconds, raw, documents, unit="s")
        lines.append(
            [
                raw,
                documents,
                work,
                *(compute(seconds, raw, documents, _chosen(name, ""), unit="s") for name in _CORES),
                compute(serial_seconds, documents, unit="s"),
                Shown(compute(useful_cores, raw, documents, unit=""), ","),
                compute(price_usd, work, _chosen("USD_PER_CORE_HOUR", ""), unit="USD"),
            ]
        )
    return Table((*header, "rented cores"), lines, "r" * 9)


def _memory() -> Table:
    header = ("raw text", "resident in one run", "scratch disk", "signatures", "index", "dumps", "dumps with index")
    memory, cores = _chosen("SERVER_MEMORY_BYTES", ""), _chosen("SERVER_CORES", "")
    lines: list[list[Cell]] = []
    for case in CASES:
        raw, documents = _raw(case), _documents(case)
        indexed: Cell = "too large"
        if documents.value < largest_indexed_documents(SERVER_MEMORY_BYTES, SERVER_CORES):
            indexed = compute(indexed_dumps_needed, documents, memory, cores, unit="")
        lines.append(
            [
                raw,
                compute(resident_bytes, documents, cores, unit="B"),
                compute(scratch_bytes, raw, documents, unit="B"),
                compute(signature_bytes, documents, unit="B"),
                compute(index_bytes, documents, unit="B"),
                compute(dumps_needed, documents, memory, cores, unit=""),
                indexed,
            ]
        )
    return Table(header, lines, "r" * 7)


def _moved(moved: Number) -> Number:
    return compute(transfer_seconds, moved, _chosen("NETWORK_GIGABITS_PER_SECOND", ""), unit="s")


def _moving() -> Table:
    lines: list[list[Cell]] = []
    for case in CASES:
        raw, signatures = _raw(case), compute(signature_bytes, _documents(case), unit="B")
        lines.append([raw, _moved(raw), signatures, _moved(signatures), over(signatures, raw, "share")])
    header = ("raw text", "to move it", "signatures", "to move them", "signatures over text")
    return Table(header, lines, "r" * 5)
