"""Step 10, serving latency: what a user waits for, and queues in front of the model.

All queueing formulas assume Poisson arrivals and a steady state; rates are requests per second, below capacity.
`service_seconds` S is the time a request occupies a slot, a row of a continuous batch. M/M/c (Erlang 1917) assumes
exponential S and slots that do not slow each other down: measure S at a full batch. Left out: priorities, timeouts.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline_math.checks import checked, not_negative, positive, share, whole


@dataclass(frozen=True)
class ServedRequest:
    """What one user saw."""

    ttft_seconds: float
    """Arrival to first token, queue included."""
    seconds_per_output_token: float
    """TPOT, mean over the tokens after the first."""

    def __post_init__(self) -> None:
        not_negative(ttft_seconds=self.ttft_seconds, seconds_per_output_token=self.seconds_per_output_token)


@checked
def answer_seconds(queue_seconds: float, ttft_seconds: float, answer_tokens: int, seconds_per_token: float) -> float:
    """What a user waits for the whole answer, queue + TTFT + n TPOT.

    Convention: n counts the first token too, which already came with the TTFT (of an idle server): an upper bound by
    one TPOT; `seconds_per_output_token` divides by n - 1.
    """
    return queue_seconds + ttft_seconds + answer_tokens * seconds_per_token


@checked
def seconds_per_output_token(total_seconds: float, ttft_seconds: float, answer_tokens: int) -> float:
    """TPOT from a measured answer, (E2E - TTFT) / (n - 1); ValueError for fewer than two tokens."""
    if answer_tokens < 2:
        raise ValueError(f"answer_tokens={answer_tokens}: time per output token needs at least 2 tokens")
    if ttft_seconds > total_seconds:
        raise ValueError(f"ttft_seconds={ttft_seconds}: allowed are at most total_seconds={total_seconds}")
    return (total_seconds - ttft_seconds) / (answer_tokens - 1)


@checked
def goodput(
    requests: Iterable[ServedRequest], measured_seconds: float, ttft_budget: float, tpot_budget: float
) -> float:
    """Requests/s that met both budgets (seconds), over `measured_seconds` (DistServe, arXiv 2401.09670)."""
    positive(measured_seconds=measured_seconds)
    met = sum(r.ttft_seconds <= ttft_budget and r.seconds_per_output_token <= tpot_budget for r in requests)
    return met / measured_seconds


@checked
def requests_in_system(arrival_rate: float, mean_seconds: float) -> float:
    """Mean number of requests waiting or being served, lambda W (Little 1961); true of any steady queue."""
    return arrival_rate * mean_seconds


@checked
def mm1_mean_seconds(service_rate: float, arrival_rate: float) -> float:
    """Mean time in an M/M/1 system, 1 / (mu - lambda)."""
    _check_load(arrival_rate, service_rate)
    return 1.0 / (service_rate - arrival_rate)


@checked
def mm1_quantile_seconds(service_rate: float, arrival_rate: float, quantile: float = 0.95) -> float:
    """Time in an M/M/1 system that a share `quantile` of the requests stays below, -ln(1 - q) / (mu - lambda)."""
    return _exceedances(quantile) * mm1_mean_seconds(service_rate, arrival_rate)


@checked
def mg1_mean_seconds(service_rate: float, arrival_rate: float, service_variation: float) -> float:
    """Mean time in an M/G/1 system, 1/mu + rho (1 + cv^2) / (2 mu (1 - rho)) (Pollaczek and Khinchine).

    `service_variation` cv is the standard deviation of the service time over its mean: 0 for answers of equal length,
    1 for exponential ones (M/M/1), more where a few answers are very long.
    """
    _check_load(arrival_rate, service_rate)
    load = arrival_rate / service_rate
    return 1.0 / service_rate + load * (1.0 + service_variation**2) / (2.0 * service_rate * (1.0 - load))


@checked
def md1_mean_seconds(service_rate: float, arrival_rate: float) -> float:
    """Mean time in an M/D/1 system, 1/mu + rho / (2 mu (1 - rho)): answers of equal length."""
    return mg1_mean_seconds(service_rate, arrival_rate, 0.0)


@checked
def erlang_c(slots: int, arrival_rate: float, service_seconds: float) -> tuple[float, float]:
    """(probability of waiting, mean wait in seconds) of M/M/c: continuous batching with c slots.

    a = lambda S, P(wait) = t / (s + t), s = sum_{k<c} a^k / k!, t = a^c / c! * c / (c - a), wait P(wait) S / (c - a).
    Computed from Erlang's recursion B_k = a B_{k-1} / (k + a B_{k-1}), which does not overflow for many slots.
    """
    whole(1, slots=slots)
    positive(service_seconds=service_seconds)
    offered = arrival_rate * service_seconds
    _check_load(offered, slots)
    blocked = 1.0
    for k in range(1, int(slots) + 1):
        blocked = offered * blocked / (k + offered * blocked)
    waiting = blocked / (1.0 - offered / slots * (1.0 - blocked))
    return waiting, waiting * service_seconds / (slots - offered)


@checked
def mmc_mean_seconds(slots: int, arrival_rate: float, service_seconds: float) -> float:
    """Mean time in an M/M/c system, wait + S."""
    return erlang_c(slots, arrival_rate, service_seconds)[1] + service_seconds


@checked
def mmc_wait_exceeds(slots: int, arrival_rate: float, service_seconds: float, seconds: float) -> float:
    """P(wait > t) = P(wait) exp(-(c mu - lambda) t) in an M/M/c queue, mu = 1 / S."""
    waiting = erlang_c(slots, arrival_rate, service_seconds)[0]
    return waiting * math.exp(-_spare_rate(slots, arrival_rate, service_seconds) * seconds)


@checked
def mmc_wait_quantile_seconds(slots: int, arrival_rate: float, service_seconds: float, quantile: float = 0.95) -> float:
    """Wait that a share `quantile` of the requests stays below: ln(P(wait) / (1 - q)) / (c mu - lambda), at least 0."""
    waiting = erlang_c(slots, arrival_rate, service_seconds)[0]
    allowed = math.exp(-_exceedances(quantile))
    return math.log(max(waiting, allowed) / allowed) / _spare_rate(slots, arrival_rate, service_seconds)


@checked
def mmc_response_exceeds(slots: int, arrival_rate: float, service_seconds: float, seconds: float) -> float:
    """P(wait + service > t) in an M/M/c system, first come first served.

    (1 - C) e^{-mu t} + C (theta e^{-mu t} - mu e^{-theta t}) / (theta - mu), C = P(wait), theta = c mu - lambda.
    """
    waiting = erlang_c(slots, arrival_rate, service_seconds)[0]
    mu = 1.0 / service_seconds
    theta = _spare_rate(slots, arrival_rate, service_seconds)
    # The fraction is e^{-mu t} + mu (e^{-mu t} - e^{-theta t}) / (theta - mu); its difference neither cancels nor
    # overflows when the slower of the two decays is taken out.
    gap = abs(theta - mu)
    delay = seconds if gap == 0 else -math.expm1(-gap * seconds) / gap
    return math.exp(-mu * seconds) + waiting * mu * math.exp(-min(mu, theta) * seconds) * delay


@checked
def mmc_response_quantile_seconds(
    slots: int, arrival_rate: float, service_seconds: float, quantile: float = 0.95
) -> float:
    """Time in an M/M/c system that a share `quantile` of the requests stays below, by bisection."""
    allowed = math.exp(-_exceedances(quantile))
    return _smallest(
        lambda t: mmc_response_exceeds(slots, arrival_rate, service_seconds, t) <= allowed, service_seconds
    )


@checked
def largest_arrival_rate(service_rate: float, p95_budget_seconds: float) -> float:
    """Most requests/s with a 95th percentile within the budget, M/M/1: mu - ln 20 / budget, at least 0."""
    positive(p95_budget_seconds=p95_budget_seconds)
    return max(0.0, service_rate - _exceedances(0.95) / p95_budget_seconds)


@checked
def largest_rate_by_wait(
    slots: int, service_seconds: float, wait_budget_seconds: float, quantile: float = 0.95
) -> float:
    """Most requests/s with that share of them waiting at most the budget, M/M/c by bisection: an SLO of the TTFT."""
    return _largest_load(mmc_wait_exceeds, slots, service_seconds, wait_budget_seconds, quantile)


@checked
def largest_rate_by_response(
    slots: int, service_seconds: float, response_budget_seconds: float, quantile: float = 0.95
) -> float:
    """Most requests/s with that share of the whole answers within the budget, M/M/c by bisection.

    0.0 where an idle server already misses it: an exponential service takes more than -ln(1 - q) S that often.
    """
    return _largest_load(mmc_response_exceeds, slots, service_seconds, response_budget_seconds, quantile)


@checked
def slots_needed(
    arrival_rate: float, service_seconds: float, wait_budget_seconds: float, quantile: float = 0.95
) -> int:
    """Fewest slots with that share of the requests waiting at most the budget; above lambda S by definition."""
    slots = math.floor(arrival_rate * service_seconds) + 1
    while mmc_wait_quantile_seconds(slots, arrival_rate, service_seconds, quantile) > wait_budget_seconds:
        slots += 1
    return slots


@checked
def servers_needed(slots: int, slots_per_server: int) -> int:
    """Servers that together have so many slots. ASSUMPTION: one queue in front of all; separate queues need more."""
    whole(1, slots_per_server=slots_per_server)
    return math.ceil(slots / slots_per_server)


@checked
def expected_goodput(slots: int, arrival_rate: float, service_seconds: float, wait_budget_seconds: float) -> float:
    """Requests/s whose wait stays within the budget, lambda (1 - P(wait > t))."""
    return arrival_rate * (1.0 - mmc_wait_exceeds(slots, arrival_rate, service_seconds, wait_budget_seconds))


def _exceedances(quantile: float) -> float:
    """-ln(1 - q): means of an exponential below which a share q lies, ln 20 at 95 %."""
    share(quantile=quantile)
    if quantile == 1:
        raise ValueError("quantile=1: allowed are shares below 1; no time is never exceeded")
    return -math.log1p(-quantile)


def _spare_rate(slots: int, arrival_rate: float, service_seconds: float) -> float:
    """c mu - lambda, never 0 by rounding below capacity."""
    return (slots - arrival_rate * service_seconds) / service_seconds


def _largest_load(
    exceeds: Callable[[int, float, float, float], float], slots: int, service: float, budget: float, quantile: float
) -> float:
    positive(service_seconds=service)
    allowed = math.exp(-_exceedances(quantile))
    return _largest(lambda r: r * service < slots and exceeds(slots, r, service, budget) <= allowed, slots / service)


def _largest(meets: Callable[[float], bool], capacity: float) -> float:
    """Largest value in [0, capacity) that meets a condition which only gets harder to meet; 0.0 if none does."""
    low, high = 0.0, capacity
    while low < (middle := (low + high) / 2.0) < high:  # until no float is left between them
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


def _smallest(meets: Callable[[float], bool], guess: float) -> float:
    """Smallest value above 0 that meets a condition which only gets easier to meet; `guess` sets the scale."""
    high = guess
    while not meets(high):
        high *= 2.0
    return _largest(lambda value: not meets(value), high)


def _check_load(arrivals: float, capacity: float) -> None:
    if arrivals >= capacity:
        raise ValueError(f"arrivals {arrivals:g} reach capacity {capacity:g}: the queue grows for ever; add capacity")
