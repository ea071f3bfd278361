"""How often each packed row is taken so that the domains make up given shares of the tokens.

A row holds documents of several domains, so a weight cannot simply act on a row, and counting a row for its largest
domain would miss the shares asked for. Instead the rows' frequencies are the ones closest to equal frequencies
(smallest Kullback-Leibler divergence) whose expected shares are exactly those asked for: frequency ~ exp(sum over
domains of lambda_d * (ids of d in the row - share_d * ids in the row)), lambda by Newton's method on the convex dual.

Not covered: shares that no frequencies of these rows reach (a domain that only occurs beside another one, say) and
shares of 0 are refused; corpus.mixing repeats whole documents before packing and has no such limit.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.pieces import Pieces

LARGEST_MISS = 1e-6
"""Allowed difference between a share asked for and the share expected."""
_NEWTON_STEPS = 100


def visits_per_epoch(folder: Path, split: str, shares: Mapping[str, float]) -> NDArray[np.float64]:
    """Expected visits [rows] of each row in an epoch of as many rows as the split has.

    `shares` has a positive weight for every domain of the split; they need not sum to 1. ValueError otherwise, and when
    the rows cannot give these shares.
    """
    import polars as pl

    domains = pl.read_parquet(folder / "documents.parquet", columns=["domain"])["domain"].to_list()
    names = sorted(set(domains))
    group = {name: number for number, name in enumerate(names)}
    counts = Pieces(folder, split).ids_per_group(np.array([group[name] for name in domains]), len(names))
    there = counts.sum(0) > 0
    present = [name for name, used in zip(names, there, strict=True) if used]
    bad = {name: weight for name, weight in shares.items() if not 0 < weight < np.inf}
    if sorted(shares) != present or bad:
        raise ValueError(
            f"domain_shares={dict(shares)}; allowed: a positive number for each of {', '.join(present)} (the domains "
            f"of split {split!r}); next: leave a domain out in the corpus stage"
        )
    target = np.array([shares[name] for name in present])
    return solve_visits(counts[:, there], target / target.sum(), present)


def solve_visits(counts: NDArray[np.int64], target: NDArray[np.float64], names: list[str]) -> NDArray[np.float64]:
    """Visits [rows], summing to the number of rows, after which domain d has the share target[d] of all ids.

    `counts` [rows, domains]. ValueError when no positive visits do.
    """
    ids = counts.astype(np.float64) / counts.sum(1).max()
    excess = ids - ids.sum(1, keepdims=True) * target
    tilt = np.zeros(len(target))
    frequency = _frequencies(excess @ tilt)
    for _ in range(_NEWTON_STEPS):
        if np.abs(_shares(ids, frequency) - target).max() <= LARGEST_MISS:
            return frequency * len(ids)
        mean = frequency @ excess
        covariance = (excess - mean).T @ ((excess - mean) * frequency[:, None])
        # The excesses of a row sum to 0, so the covariance has no inverse; any solution of least norm will do.
        step = np.linalg.lstsq(covariance, -mean, rcond=1e-12)[0]
        now, length = _log_sum(excess @ tilt), 1.0
        while length > 1e-6 and _log_sum(excess @ (tilt + length * step)) > now + 1e-4 * length * float(mean @ step):
            length /= 2
        tilt = tilt + length * step
        frequency = _frequencies(excess @ tilt)
    reached = dict(zip(names, np.round(_shares(ids, frequency), 4).tolist(), strict=True))
    wanted = dict(zip(names, np.round(target, 4).tolist(), strict=True))
    raise ValueError(
        f"these rows cannot give the domain shares {wanted}; nearest: about {reached}, as rows hold documents of "
        f"several domains; next: ask for less extreme shares, or set corpus.mixing, which repeats whole documents"
    )


def draw_rows(visits: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.int64]:
    """An epoch's rows in random order: row r floor(visits[r]) or ceil(visits[r]) times, visits[r] on average.

    Systematic sampling: one random offset, then equal steps along the summed visits of a random order.
    """
    order = draw.permutation(len(visits))
    summed = np.cumsum(visits[order])
    points = (draw.random() + np.arange(len(visits))) * (summed[-1] / len(visits))
    places = np.minimum(np.searchsorted(summed, points, side="right"), len(visits) - 1)
    return draw.permutation(order[places])


def _frequencies(exponent: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(exponent - exponent.max())
    return weights / weights.sum()


def _shares(ids: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    expected = frequency @ ids
    return expected / expected.sum()


def _log_sum(exponent: NDArray[np.float64]) -> float:
    return float(exponent.max() + np.log(np.exp(exponent - exponent.max()).sum()))
