"""Mixing: how often every kept document is trained on, so that domains get the shares that were asked for.

A domain's target is its weight's share of all bytes. A domain that cannot reach it within `max_epochs` gives the rest
to the others, by weight (water-filling). A target of 2.3 epochs is two copies of every document and a third copy of
those whose key, a hash of seed and id, is smallest. Bytes, not tokens: the tokenizer is trained on the result.

Promise  the result depends on ids, sizes, domains and parameters only: permuting documents permutes it; a domain
         misses its target by at most half of one document; no domain exceeds max_epochs
Limits   documents are never cut, so a domain of few large documents is met coarsely; the report says how well
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline_math.data_filtering import effective_tokens
from tasks._errors import StageError
from tasks._params import StageParams

REST = "*"
"""In `weights`: all domains that are not named, together."""
Weight = Annotated[float, Field(ge=0, le=1e9)]


class Mixing(StageParams):
    """Target shares of the training text, in bytes."""

    weights: Annotated[dict[str, Weight], Field(min_length=1)] = Field(default_factory=lambda: {REST: 1.0})
    """{domain: weight}; only ratios matter, 0 leaves a domain out. "*" stands for all domains not named, which divide
    its weight in proportion to their bytes. The default changes nothing: every document once."""
    max_epochs: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    """Most copies of a domain's text, on average; up to about four, repeating is nearly as good as new text
    (arXiv 2305.16264)."""
    bytes: Annotated[int, Field(gt=0)] | None = None
    """UTF-8 bytes of training text asked for, copies counted; None: as many as the weighted domains hold once."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses which documents get the fractional epoch."""

    @model_validator(mode="after")
    def _something_is_wanted(self) -> "Mixing":
        if not any(self.weights.values()):
            raise ValueError("mixing.weights are all 0, which leaves no text; allowed: at least one above 0")
        return self


def mix(
    domain_codes: NDArray[np.integer],
    names: Sequence[str],
    bytes_per_document: NDArray[np.integer],
    order_key: NDArray[np.uint64],
    params: Mixing,
) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Copies of every document (0 = left out) and one report row per domain, sorted by name.

    `names[code]` is a document's domain; `order_key` is any 64-bit hash of its id. StageError for a weight of a domain
    that does not exist, a domain without a weight, and a mixture that holds no document.
    """
    codes, sizes = np.asarray(domain_codes, np.int64), np.asarray(bytes_per_document, np.int64)
    by_domain = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_domain], np.arange(len(names) + 1))
    members = {name: by_domain[starts[code] : starts[code + 1]] for code, name in enumerate(names)}
    available = {name: int(sizes[members[name]].sum()) for name in sorted(members)}
    weights = _weights(params, available)
    asked = params.bytes if params.bytes is not None else sum(available[name] for name, w in weights.items() if w > 0)
    targets = fill(weights, {name: params.max_epochs * available[name] for name in available}, asked)
    keys = _shuffled(np.asarray(order_key, np.uint64), params.seed)
    repeats = np.zeros(len(codes), np.int32)
    for name, own in members.items():
        if targets[name] > 0:
            repeats[own] = _copies(sizes[own], keys[own], targets[name], params.max_epochs)
    if not repeats.any():
        raise StageError(
            f"corpus.mixing: none of {len(codes)} documents ({sum(available.values()):,} bytes) is in the mixture; "
            f"asked: {asked:,} bytes; allowed: at least half a document; next: raise corpus.mixing.bytes or the "
            f"weights of domains that hold text"
        )
    obtained = {name: int((sizes[own] * repeats[own]).sum()) for name, own in members.items()}
    used = {name: int((repeats[own] > 0).sum()) for name, own in members.items()}
    return repeats, _report(weights, asked, available, targets, obtained, used)


def fill(weights: Mapping[str, float], capacities: Mapping[str, float], total: float) -> dict[str, float]:
    """`total` divided by weight, none above its capacity; what a full one cannot take goes to the others by weight.

    The sum is min(total, the capacities of all with a weight above 0).
    """
    given = dict.fromkeys(weights, 0.0)
    open_names = [name for name in sorted(weights) if weights[name] > 0]
    left = float(total)
    while open_names:
        weight = math.fsum(weights[name] for name in open_names)
        full = [name for name in open_names if left * (weights[name] / weight) >= capacities[name]]
        for name in full or open_names:
            given[name] = capacities[name] if full else left * (weights[name] / weight)
        if not full:
            break
        left = max(0.0, left - math.fsum(capacities[name] for name in full))
        open_names = [name for name in open_names if name not in full]
    return given


def _weights(params: Mixing, available: Mapping[str, int]) -> dict[str, float]:
    """One weight per existing domain, with "*" divided among those not named."""
    named = {name: weight for name, weight in params.weights.items() if name != REST}
    existing = ", ".join(available)
    if unknown := sorted(set(named) - set(available)):
        raise StageError(
            f"corpus.mixing.weights: no document is of domain {', '.join(map(repr, unknown))}; allowed: the domains "
            f"that exist: {existing}; next: correct or remove it"
        )
    rest = [name for name in available if name not in named]
    if rest and REST not in params.weights:
        raise StageError(
            f"corpus.mixing.weights: no weight for domain {', '.join(map(repr, rest))}; allowed: a weight for each of "
            f"{existing}, or '{REST}' for all others; next: add '{REST}': 0 to leave them out, or another weight"
        )
    rest_bytes = sum(available[name] for name in rest)
    shared = {name: params.weights[REST] * available[name] / rest_bytes if rest_bytes else 0.0 for name in rest}
    return {name: named[name] if name in named else shared[name] for name in available}


def _copies(sizes: NDArray[np.int64], keys: NDArray[np.uint64], target: float, max_epochs: float) -> NDArray[np.int32]:
    """Copies of one domain's documents: bytes as near to `target` as the order allows, never above max_epochs."""
    total = int(sizes.sum())
    whole = int(target // total)
    copies = np.full(len(sizes), whole, np.int32)
    order = np.lexsort((sizes, keys))  # equal keys: by size, as the position must not matter
    bytes_after = np.cumsum(sizes[order])
    wanted, allowed = target - whole * total, max_epochs * total - whole * total
    count = int(np.searchsorted(bytes_after, wanted, side="right"))
    if count < len(sizes):
        before = int(bytes_after[count - 1]) if count else 0
        after = int(bytes_after[count])
        count += after - wanted < wanted - before and after <= allowed
    copies[order[:count]] += 1
    return copies


def _shuffled(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Another hash of every key for every seed: the finaliser of splitmix64, a bijection, so no new ties."""
    mixed = np.array(keys, np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _report(
    weights: Mapping[str, float],
    asked: int,
    available: Mapping[str, int],
    targets: Mapping[str, float],
    obtained: Mapping[str, int],
    used: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Asked against obtained; `repeated_worth` is the worth of one byte with its repetitions, 1 for new text.

    effective_tokens was measured on whole training sets; here it is applied to every domain by itself (ASSUMPTION).
    """
    weight, total = math.fsum(weights.values()), sum(obtained.values())
    rows = []
    for name in sorted(available):
        worth = effective_tokens(available[name], obtained[name]) if obtained[name] else 0.0
        rows.append(
            {
                "domain": name,
                "asked_share": weights[name] / weight if weight else 0.0,
                "obtained_share": obtained[name] / total,
                "available_bytes": available[name],
                "asked_bytes": round(asked * weights[name] / weight) if weight else 0,
                "target_bytes": round(targets[name]),
                "obtained_bytes": obtained[name],
                "documents": used[name],
                "epochs": obtained[name] / available[name] if available[name] else 0.0,
                "repeated_worth": worth / obtained[name] if obtained[name] else 0.0,
            }
        )
    return rows
