"""Numbers of 10_chat_serving_latency_budget.md."""

from pipeline_math.chat_latency import (
    answer_seconds,
    erlang_c,
    largest_arrival_rate,
    largest_rate_by_response,
    largest_rate_by_wait,
    mm1_mean_seconds,
    mm1_quantile_seconds,
    mmc_response_quantile_seconds,
    requests_in_system,
    servers_needed,
    slots_needed,
)
from pipeline_math.documents.examples import recorded_hardware
from pipeline_math.documents.levers import TARGET_ALIGN, TARGET_HEADER, target
from pipeline_math.documents.number import Number, compute, constant, minus, over, times
from pipeline_math.documents.recorded import ledger_values, measured, newest
from pipeline_math.documents.step_09 import step_seconds
from pipeline_math.documents.step_10_public import public, queue_targets
from pipeline_math.documents.table import Cell, Quoted, Shown, Table

ANSWER_TOKENS = 64
"""Chosen: tokens of a reply."""
LOADS = {"idle": 0.05, "light": 0.3, "half": 0.5, "busy": 0.7, "heavy": 0.9, "at_the_edge": 0.97}
"""Chosen: share of the capacity that arrives."""
SLOTS = (1, 4, 16, 64)
"""Chosen: sequences decoded side by side; the last is the engine's default."""
WAIT_BUDGET_SECONDS = 0.2
"""Chosen: p95 of the wait for a slot."""
ANSWER_BUDGET_SECONDS = 1.0
"""Chosen: p95 of the whole answer."""
ARRIVALS = {"one_user_group": 1.0, "a_team": 10.0, "a_company": 50.0, "a_public_page": 200.0}
"""Chosen: requests per second."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    tables = {"budget": _budget(), "slots": _slots(), "arrivals": _arrivals()}
    targets = Table(TARGET_HEADER, [*_own_targets(), *queue_targets()], TARGET_ALIGN)
    return _own() | public() | tables | {"targets": targets} | ledger_values("inference", "chat")


def slowed_seconds(seconds: float, alone: float, together: float) -> float:
    """A measured time per token scaled by how much slower a forecast step is with more sequences."""
    return seconds * together / alone


def rate_of(service_seconds: float) -> float:
    """Requests/s of one slot, 1 / S."""
    return 1.0 / service_seconds


def capacity(slots: int, service_seconds: float) -> float:
    """Requests/s of all slots, c / S."""
    return slots / service_seconds


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_10.{name}", unit)


def _tpot(slots: int) -> Number:
    """Measured time per token of one sequence, slowed as the forecast says for so many."""
    row = newest("inference", "seconds_per_output_token")
    hardware = recorded_hardware(row.stage, row.quantity)
    alone, together = (compute(step_seconds, row.amounts, hardware, rows, unit="s") for rows in (1, slots))
    return compute(slowed_seconds, measured(row.stage, row.quantity), alone, together, unit="s")


def _service(slots: int, answer_tokens: int = ANSWER_TOKENS) -> Number:
    """Seconds a request occupies a slot: prefill and answer, nobody waiting."""
    ttft = measured("inference", "ttft_seconds")
    return compute(answer_seconds, 0.0, ttft, answer_tokens, _tpot(slots), unit="s")


def _own() -> dict[str, Number | Table]:
    service = _service(1)
    return {
        "own_tokens": _chosen("ANSWER_TOKENS", "tokens"),
        "own_ttft": measured("inference", "ttft_seconds"),
        "own_tpot": measured("inference", "seconds_per_output_token"),
        "own_service": service,
        "own_rate": compute(rate_of, service, unit="requests/s"),
        "wait_budget": _chosen("WAIT_BUDGET_SECONDS", "s"),
        "answer_budget": _chosen("ANSWER_BUDGET_SECONDS", "s"),
        "own_slo": compute(
            largest_arrival_rate, compute(rate_of, service, unit=""), ANSWER_BUDGET_SECONDS, unit="requests/s"
        ),
    }


def _budget() -> Table:
    """Where the time of an answer goes on one slot, by load."""
    service, ttft, tpot = _service(1), measured("inference", "ttft_seconds"), _tpot(1)
    mu = compute(rate_of, service, unit="requests/s")
    writing = times(_chosen("ANSWER_TOKENS", ""), tpot, "s")
    lines: list[list[Cell]] = []
    for name in LOADS:
        load = _chosen(f"LOADS.{name}", "share")
        arriving = times(mu, load, "requests/s")
        whole = compute(mm1_mean_seconds, mu, arriving, unit="s")
        lines.append(
            [
                name.replace("_", " "),
                Shown(load, ".0%"),
                minus(whole, service),
                ttft,
                writing,
                whole,
                compute(mm1_quantile_seconds, mu, arriving, unit="s"),
                compute(requests_in_system, arriving, whole, unit=""),
            ]
        )
    header = ("load", "of capacity", "queue", "TTFT", "tokens", "whole answer", "p95", "in system")
    return Table(header, lines)


def _slots() -> Table:
    """What more slots give when each slows the others."""
    lines: list[list[Cell]] = []
    for slots in SLOTS:
        service = _service(slots)
        full = compute(capacity, slots, service, unit="requests/s")
        lines.append(
            [
                Quoted(str(slots)),
                _tpot(slots),
                service,
                full,
                compute(largest_rate_by_wait, slots, service, WAIT_BUDGET_SECONDS, unit="requests/s"),
                compute(largest_rate_by_response, slots, service, ANSWER_BUDGET_SECONDS, unit="requests/s"),
            ]
        )
    header = ("slots", "per token", "service", "capacity", "within the wait", "within the answer")
    return Table(header, lines)


def _arrivals() -> Table:
    """Slots needed for a rate of requests, at the service time of the largest batch."""
    service = _service(SLOTS[-1])
    lines: list[list[Cell]] = []
    for name in ARRIVALS:
        arriving = _chosen(f"ARRIVALS.{name}", "requests/s")
        slots = compute(slots_needed, arriving, service, WAIT_BUDGET_SECONDS, unit="")
        offered = compute(requests_in_system, arriving, service, unit="")
        count = int(slots.value)
        lines.append(
            [
                name.replace("_", " "),
                arriving,
                offered,
                slots,
                Shown(over(offered, slots, "share"), ".0%"),
                compute(erlang_c, count, arriving, service, unit="share", pick=0),
                compute(erlang_c, count, arriving, service, unit="s", pick=1),
                compute(mmc_response_quantile_seconds, count, arriving, service, unit="s"),
                compute(servers_needed, count, SLOTS[-1], unit=""),
            ]
        )
    header = (
        "asked by",
        "arrivals",
        "busy",
        "slots",
        "load",
        "have to wait",
        "mean wait",
        "p95 of the answer",
        "servers",
    )
    return Table(header, lines)


def _own_targets() -> list[list[Cell]]:
    one, many, half = _service(1), _service(16), _service(1, ANSWER_TOKENS // 2)
    mu = compute(rate_of, one, unit="requests/s")
    heavy, busy = (compute(mm1_quantile_seconds, mu, mu.value * LOADS[name], unit="s") for name in ("heavy", "busy"))
    return [
        target(
            "stream: the first token instead of the whole answer", "latency", one, measured("inference", "ttft_seconds")
        ),
        target(
            "sixteen slots instead of one (capacity)",
            "bandwidth + latency",
            compute(capacity, 1, one, unit="requests/s"),
            compute(capacity, 16, many, unit="requests/s"),
        ),
        target("the same, service time of one answer (its price)", "latency", one, many),
        target("load down from heavy to busy (p95)", "latency", heavy, busy),
        target(
            "answers half as long (capacity of one slot)",
            "latency",
            compute(capacity, 1, one, unit="requests/s"),
            compute(capacity, 1, half, unit="requests/s"),
        ),
    ]
