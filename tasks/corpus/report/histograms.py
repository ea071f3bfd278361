"""Histograms of document statistics per domain, over edges that depend on the statistic's name alone.

Promise  counts of parts add up to the counts of the whole, for any split, order and number of workers
Limits   values outside the edges count in the first or last bin; NaN and null count as missing, in no bin
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

_UNIT_ENDINGS = ("fraction", "share", "ratio", "score", "probability", "similarity")
"""Statistics between 0 and 1; what has `_per_` in its name is drawn likewise, a rare value above 1 in the last bin."""
_UNIT_BINS = 50
_MEAN_LIMIT, _MEAN_BINS = 20.0, 80
_COUNT_DECADES, _BINS_PER_DECADE = 8, 10


def edges_of(statistic: str) -> NDArray[np.float64]:
    """Bin edges: linear for fractions, scores and means, for counts and lengths 0, 1, then logarithmic."""
    if statistic.endswith(_UNIT_ENDINGS) or "_per_" in statistic:
        return np.linspace(0.0, 1.0, _UNIT_BINS + 1)
    if statistic.startswith("mean_"):
        return np.linspace(0.0, _MEAN_LIMIT, _MEAN_BINS + 1)
    # Whole numbers: narrower bins between small counts would hold none and look like gaps.
    powers = 10.0 ** (np.arange(_COUNT_DECADES * _BINS_PER_DECADE + 1) / _BINS_PER_DECADE)
    return np.unique(np.concatenate([[0.0], np.round(powers)]))


class Histograms:
    """Counts per statistic, domain and bin; small (kilobytes per domain), picklable, mergeable."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, NDArray[np.int64]]] = {}
        self._missing: dict[str, dict[str, int]] = {}

    def add(self, statistics: "pl.DataFrame") -> None:
        """Count every floating-point column of a frame that has a `domain` column, one document per row."""
        if statistics.is_empty():
            return
        domains = statistics["domain"].fill_null("")
        names = domains.unique().sort().to_list()
        codes = domains.replace_strict(names, list(range(len(names)))).to_numpy().astype(np.int64)
        for column in statistics.iter_columns():
            if column.dtype.is_float():
                self._add(column.name, column.to_numpy(), names, codes)

    def _add(self, statistic: str, values: NDArray[np.floating], names: list[str], codes: NDArray[np.int64]) -> None:
        # Statistics are float32: compared with the rounded edges, 0.7 lies at the edge 0.7 and not just below it.
        edges = edges_of(statistic).astype(np.float32)
        bins = len(edges) - 1
        present = ~np.isnan(values)
        place = np.searchsorted(edges, values[present].astype(np.float32), side="right") - 1
        flat = codes[present] * bins + np.clip(place, 0, bins - 1)
        table = np.bincount(flat, minlength=len(names) * bins).reshape(len(names), bins)
        missing = np.bincount(codes[~present], minlength=len(names))
        for name, row, absent in zip(names, table, missing.tolist(), strict=True):
            self._merge(statistic, name, row, absent)

    def _merge(self, statistic: str, domain: str, row: NDArray[np.int64], missing: int) -> None:
        counts = self._counts.setdefault(statistic, {})
        counts[domain] = counts[domain] + row if domain in counts else row.astype(np.int64)
        absent = self._missing.setdefault(statistic, {})
        absent[domain] = absent.get(domain, 0) + missing

    def merge(self, other: "Histograms") -> None:
        """Add another one's counts to these."""
        for statistic, rows in other._counts.items():
            for domain, row in rows.items():
                self._merge(statistic, domain, row, other._missing[statistic][domain])

    def as_dict(self) -> dict[str, Any]:
        """{statistic: {"edges", "counts": {domain: [...]}, "missing": {domain: n}}}, all sorted, for JSON."""
        return {
            statistic: {
                "edges": edges_of(statistic).round(6).tolist(),
                "counts": {domain: rows[domain].tolist() for domain in sorted(rows)},
                "missing": {domain: self._missing[statistic][domain] for domain in sorted(rows)},
            }
            for statistic, rows in sorted(self._counts.items())
        }
