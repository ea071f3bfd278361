"""Step 10, serving latency: what a user waits for, and queues in front of the model.

All queueing formulas assume Poisson arrivals and a steady state; rates are per second and must be below capacity.
"""

import math


def answer_seconds(queue_seconds: float, ttft_seconds: float, answer_tokens: int, seconds_per_token: float) -> float:
    """What a user waits for the whole answer, queue + TTFT + n TPOT."""
    return queue_seconds + ttft_seconds + answer_tokens * seconds_per_token


def seconds_per_output_token(total_seconds: float, ttft_seconds: float, answer_tokens: int) -> float:
    """TPOT from a measured answer, (E2E - TTFT) / (n - 1); ValueError for fewer than two tokens."""
    if answer_tokens < 2:
        raise ValueError(f"time per output token needs at least 2 tokens, found {answer_tokens}")
    return (total_seconds - ttft_seconds) / (answer_tokens - 1)


def mm1_mean_seconds(service_rate: float, arrival_rate: float) -> float:
    """Mean time in an M/M/1 system, 1 / (mu - lambda)."""
    _check_load(arrival_rate, service_rate)
    return 1.0 / (service_rate - arrival_rate)


def mm1_quantile_seconds(service_rate: float, arrival_rate: float, quantile: float = 0.95) -> float:
    """Time in an M/M/1 system that a share `quantile` of the requests stays below."""
    return -math.log(1.0 - quantile) * mm1_mean_seconds(service_rate, arrival_rate)


def md1_mean_seconds(service_rate: float, arrival_rate: float) -> float:
    """Mean time in an M/D/1 system, 1/mu + rho / (2 mu (1 - rho)): answers of equal length."""
    _check_load(arrival_rate, service_rate)
    load = arrival_rate / service_rate
    return 1.0 / service_rate + load / (2.0 * service_rate * (1.0 - load))


def erlang_c(slots: int, arrival_rate: float, service_seconds: float) -> tuple[float, float]:
    """(probability of waiting, mean wait in seconds) of M/M/c: continuous batching with c slots."""
    offered = arrival_rate * service_seconds
    _check_load(offered, slots)
    below = sum(offered**k / math.factorial(k) for k in range(slots))
    at_capacity = offered**slots / math.factorial(slots) * slots / (slots - offered)
    waiting = at_capacity / (below + at_capacity)
    return waiting, waiting * service_seconds / (slots - offered)


def largest_arrival_rate(service_rate: float, p95_budget_seconds: float) -> float:
    """Most requests/s with a 95th percentile within the budget, M/M/1: mu - ln 20 / budget, at least 0."""
    return max(0.0, service_rate - math.log(20.0) / p95_budget_seconds)


def _check_load(arrivals: float, capacity: float) -> None:
    if arrivals >= capacity:
        raise ValueError(f"arrivals {arrivals:g} reach capacity {capacity:g}: the queue grows for ever; add capacity")
