"""Latency of a checkpoint in this project's engine, one sequence at a time."""

import math
import statistics
import time
from typing import TYPE_CHECKING

from tasks._latency import time_replies
from tasks.benchmarks.intervals import Score

if TYPE_CHECKING:
    from model.engine.engine import Engine

PROMPT_TOKENS = 128
NEW_TOKENS = 16
"""Of one timed reply."""
SECONDS = 0.5
"""Replies are timed for this long, but at least MIN_REPLIES of them."""
MIN_REPLIES = 3


def measure(engine: "Engine") -> dict[str, Score]:
    """Medians over repeated replies to one prompt at a time, in seconds; n = replies. The first one is not counted.

    The interval is that of the median over this process's repeats: another start of the machine may differ by more.
    """
    new_tokens = min(NEW_TOKENS, engine.context // 2)
    prompt_tokens = min(PROMPT_TOKENS, engine.context - new_tokens)
    started = time.perf_counter()
    time_replies(engine, 1, prompt_tokens, new_tokens)  # allocates memory and fills caches
    first_token: list[float] = []
    per_step: list[float] = []
    while len(first_token) < MIN_REPLIES or time.perf_counter() - started < SECONDS:
        ttft, step = time_replies(engine, 1, prompt_tokens, new_tokens)
        first_token.append(ttft)
        per_step.append(step)
    return {"ttft_seconds": median_score(first_token), "seconds_per_output_token": median_score(per_step)}


def median_score(values: list[float]) -> Score:
    """Median with an interval between two of the values that holds the true median with at least 95 %.

    The number X of values below the true median is binomial(n, 1/2): the interval leaves out the k smallest and the k
    largest values, k the largest with 2 P(X <= k) <= 5 %. Fewer than six values cannot reach that: then it is their
    range, and holds the median with 1 - 2^(1 - n).
    """
    ordered, n = sorted(values), len(values)
    left_out, tail = 0, 0.5**n
    while 2 * (tail + math.comb(n, left_out + 1) * 0.5**n) <= 0.05:
        left_out += 1
        tail += math.comb(n, left_out) * 0.5**n
    return Score(statistics.median(ordered), ordered[left_out], ordered[n - 1 - left_out], n)


def as_json(score: Score) -> dict[str, float | int]:
    """A score with four significant digits: the seconds of a token are too small for decimals."""
    digits = {"value": score.value, "low": score.low, "high": score.high}
    return {**{name: float(f"{value:.4g}") for name, value in digits.items()}, "n": score.n}
