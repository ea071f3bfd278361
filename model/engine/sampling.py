"""What a request asks of the sampler, and the sampler of one sequence.

Every sequence has a random generator of its own, seeded by (seed, number of the sample): what it draws does not depend
on the other sequences of the batch, nor on when it joined them.
"""

import math
from dataclasses import dataclass

import numpy as np

Logits = np.ndarray
"""float32, shape (vocabulary,)."""

_HEAD_FIRST = 1024  # candidates sorted before the whole vocabulary is: enough for nearly every top_p


@dataclass(frozen=True)
class Sampling:
    """How one request chooses its tokens. Greedy at temperature 0."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the most probable token, without any randomness."""
    top_k: int | None = None
    """Only the k most probable tokens can be chosen; None allows all."""
    top_p: float = 1.0
    """Only the most probable tokens that together reach this probability can be chosen."""
    seed: int = 0
    max_tokens: int = 256
    """Generated tokens at most, counting those the tool forced and the end token."""
    stop: tuple[str, ...] = ()
    """The visible text ends before the first occurrence of any of these."""

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 100):
            problems.append(f"temperature={self.temperature}; allowed: 0 to 100")
        if self.top_k is not None and self.top_k < 1:
            problems.append(f"top_k={self.top_k}; allowed: 1 or more, or None for all tokens")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p}; allowed: above 0, at most 1")
        if self.seed < 0:
            problems.append(f"seed={self.seed}; allowed: 0 or more")
        if self.max_tokens < 1:
            problems.append(f"max_tokens={self.max_tokens}; allowed: 1 or more")
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            problems.append(f"stop={self.stop!r}; allowed: a tuple of texts that are not empty")
        if problems:
            raise ValueError("sampling: " + "; ".join(problems))


class Sampler:
    """Chooses the tokens of one sequence."""

    def __init__(self, sampling: Sampling, sample: int = 0) -> None:
        self.sampling = sampling
        self.random = np.random.default_rng([sampling.seed, sample]) if sampling.temperature > 0 else None

    def choose(self, logits: Logits) -> int:
        """One token id. Draws exactly one random number unless greedy."""
        if self.random is None:
            return int(logits.argmax())
        scaled = (logits.astype(np.float64) - float(logits.max())) / self.sampling.temperature
        candidates, weights = keep_most_probable(np.exp(scaled), self.sampling.top_k, self.sampling.top_p)
        cumulative = weights.cumsum()
        drawn = int(cumulative.searchsorted(self.random.random() * cumulative[-1], side="right"))
        return int(candidates[min(drawn, len(candidates) - 1)])


def keep_most_probable(weights: np.ndarray, top_k: int | None, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """(ids, their weights) left after top-k and then top-p; weights are probabilities up to a common factor."""
    ids = np.arange(len(weights))
    if top_k is not None and top_k < len(weights):
        ids = _largest(weights, top_k)
        weights = weights[ids]
    if top_p >= 1:
        return ids, weights
    wanted = top_p * weights.sum()
    for size in (_HEAD_FIRST, len(weights)):
        head = _largest(weights, size) if size < len(weights) else np.arange(len(weights))
        order = head[np.argsort(-weights[head], kind="stable")]
        reached = int(weights[order].cumsum().searchsorted(wanted))
        if reached < len(order) or size >= len(weights):
            order = order[: reached + 1]
            return ids[order], weights[order]
    raise AssertionError("the second round always returns")


def _largest(weights: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest weights, in ascending order of index; among equals the lower index wins."""
    boundary = np.partition(weights, len(weights) - count)[len(weights) - count]
    above, equal = np.flatnonzero(weights > boundary), np.flatnonzero(weights == boundary)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))
