"""The report's content: counts, samples and clusters, from the table of documents (the form: report.py)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.corpus.documents import NONE, DocumentTable, Numbers, Shard

DROPPED_SAMPLES, KEPT_SAMPLES = 4, 2
CLUSTERS, MEMBERS = 20, 8
UNREADABLE_SAMPLES = 50
DUPLICATE_REASONS = ("exact_duplicate", "near_duplicate")


def counts(table: DocumentTable, shards: Sequence[Shard]) -> dict[str, Any]:
    """Documents and bytes in, kept and dropped by reason: in total, per domain and per shard."""
    names, size = table.reasons, table.bytes.astype(np.float64)  # exact up to 2^53 bytes
    by_domain = np.zeros((len(table.domains), len(names)), np.int64)
    np.add.at(by_domain, (table.domain, table.reason), 1)
    bytes_in = np.bincount(table.domain, size, len(table.domains))
    bytes_kept = np.bincount(table.domain, (size - table.trimmed) * table.kept, len(table.domains))
    domains = {
        domain: {
            "in": int(by_domain[number].sum()),
            "kept": int(by_domain[number, 0]),
            "in_bytes": int(bytes_in[number]),
            "kept_bytes": int(bytes_kept[number]),
            "dropped": _dropped(by_domain[number], names),
        }
        for number, domain in enumerate(table.domains)
    }
    whole = by_domain.sum(axis=0)
    bad = [record for shard in shards for record in shard.info.bad]
    return {
        "records": sum(shard.info.records for shard in shards),
        "unreadable": sum(shard.info.unreadable for shard in shards),
        "unreadable_samples": [record._asdict() for record in sorted(bad)[:UNREADABLE_SAMPLES]],
        "duplicate_ids": int((table.copy > 1).sum()),
        "total": {
            "documents": len(table),
            "kept": int(whole[0]),
            "dropped": int(whole[1:].sum()),
            "bytes": int(bytes_in.sum()),
            "kept_bytes": int(bytes_kept.sum()),
        },
        "dropped_by_reason": _dropped(whole, names),
        "domains": domains,
        "shards": _shard_counts(table, shards),
        "text": _changes(shards),
    }


def _dropped(row: np.ndarray, names: list[str]) -> dict[str, int]:
    return {names[code]: int(row[code]) for code in range(1, len(names)) if row[code]}


def _shard_counts(table: DocumentTable, shards: Sequence[Shard]) -> list[dict[str, Any]]:
    own = iter(range(len(table.shards)))  # by place: two sources may share the unit of a file that both name
    rows = []
    for shard in shards:
        info = shard.info
        codes = table.reason[table.span(next(own))] if info.documents else np.zeros(0, np.int64)
        row = np.bincount(codes, minlength=len(table.reasons))
        rows.append(
            {
                "name": info.name,
                "records": info.records,
                "unreadable": info.unreadable,
                "in": info.documents,
                "kept": int(row[0]),
                "dropped": _dropped(row, table.reasons),
            }
        )
    return sorted(rows, key=lambda row: str(row["name"]))


def _changes(shards: Sequence[Shard]) -> dict[str, dict[str, int]]:
    """Documents changed and replacements made while cleaning, per domain and step."""
    total: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for shard in shards:
        for domain, steps in shard.info.changes.items():
            for step, count in steps.items():
                total[domain][step] += count
    return {domain: dict(sorted(steps.items())) for domain, steps in sorted(total.items())}


def choose_samples(table: DocumentTable) -> dict[str, Numbers]:
    """Documents to show: a few per reason (keys: reasons) and per domain of what is kept (keys: "kept/<domain>"), the
    first in hash order, and the winners of the largest clusters ("clusters")."""
    order = table.hash_order()
    chosen: dict[str, Numbers] = {}
    for code, reason in enumerate(table.reasons):
        own = order[table.reason[order] == code]
        if code:
            chosen[reason] = own[:DROPPED_SAMPLES]
            continue
        grouped = own[np.argsort(table.domain[own], kind="stable")]
        starts = np.searchsorted(table.domain[grouped], np.arange(len(table.domains) + 1)).tolist()
        for domain, start, end in zip(table.domains, starts[:-1], starts[1:], strict=True):
            chosen[f"kept/{domain}"] = grouped[start : min(end, start + KEPT_SAMPLES)]
    chosen["clusters"] = np.array([winner for winner, _ in _largest_clusters(table)], np.int64)
    return chosen


def _duplicates(table: DocumentTable) -> np.ndarray:
    codes = [table.reasons.index(reason) for reason in DUPLICATE_REASONS if reason in table.reasons]
    return np.isin(table.reason, codes) & (table.cluster != NONE)


def _largest_clusters(table: DocumentTable) -> list[tuple[int, int]]:
    """(winner, documents dropped for it), largest first; ties by the hash of the winner's id."""
    winners, sizes = np.unique(table.cluster[_duplicates(table)], return_counts=True)
    order = np.lexsort((*table.hash_keys(winners), -sizes))[:CLUSTERS]
    return [(int(winners[place]), int(sizes[place])) for place in order]


def samples(table: DocumentTable, chosen: dict[str, Numbers], texts: dict[int, str]) -> dict[str, Any]:
    """The samples as the report shows them."""
    every = np.concatenate(
        [numbers for name, numbers in chosen.items() if name != "clusters"] or [np.zeros(0, np.int64)]
    )
    ids = table.ids(every.astype(np.int64))
    found: dict[str, Any] = {"kept": {}}
    for name, numbers in chosen.items():
        if name.startswith("kept/"):
            found["kept"][name[5:]] = [{"id": ids[n], "text": texts[n]} for n in numbers.tolist()]
        elif name != "clusters":
            found[name] = [
                {
                    "id": ids[n],
                    "domain": table.domains[table.domain[n]],
                    "value": _number(table.value[n]),
                    "threshold": _number(table.threshold[n]),
                    "text": texts[n],
                }
                for n in numbers.tolist()
            ]
    return found


def clusters(table: DocumentTable, texts: dict[int, str]) -> list[dict[str, Any]]:
    """The largest clusters of duplicates with a few members each, most similar first."""
    duplicates = np.flatnonzero(_duplicates(table))
    rows = []
    for winner, size in _largest_clusters(table):
        own = duplicates[table.cluster[duplicates] == winner]
        order = np.lexsort((*table.hash_keys(own), -table.similarity[own]))
        members = own[order][:MEMBERS]
        names = table.ids(np.r_[members, winner])
        reasons = {table.reasons[code] for code in np.unique(table.reason[own]).tolist()}
        rows.append(
            {
                "cluster_id": names[winner],
                "reason": " + ".join(sorted(reasons)),
                "size": size + 1,
                "members": [
                    {"id": names[n], "similarity": round(float(table.similarity[n]), 4)} for n in members.tolist()
                ],
                "sample": texts[winner],
            }
        )
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
