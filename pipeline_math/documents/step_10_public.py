"""Queues with textbook numbers and a d20 on an H200, for 10_chat_serving_latency_budget.md."""

from pipeline_math.chat_latency import (
    answer_seconds,
    erlang_c,
    largest_rate_by_wait,
    md1_mean_seconds,
    mg1_mean_seconds,
    mm1_mean_seconds,
    mm1_quantile_seconds,
    mmc_mean_seconds,
    servers_needed,
    slots_needed,
)
from pipeline_math.documents.levers import D20, device, target
from pipeline_math.documents.number import Number, compute, constant
from pipeline_math.documents.step_09_public import decoder, machine
from pipeline_math.documents.table import Cell, Table
from pipeline_math.inference_prefill_decode import decode_point, prefill_flops, prefill_seconds_floor
from pipeline_math.model_flops_vram import scaling_parameters

SERVICE_RATE, ARRIVAL_RATE = 1.0, 0.5
"""Chosen: one request per second served, one every two seconds arriving."""
SLOTS, SLOT_SECONDS, SLOT_ARRIVALS = 8, 1.6, 2.5
"""Chosen: eight slots of 1.6 s each, two and a half requests per second."""
HEAVY = 0.8
"""Chosen: a load at which queues begin to show."""
LONG_TAIL = 3.0
"""Chosen: a few answers are very long: standard deviation three times the mean."""
PROMPT_TOKENS, ANSWER_TOKENS = 512, 256
"""Chosen: a turn of a conversation with what was said before, and its answer."""
SERVER_SLOTS = 64
"""Chosen: sequences one server decodes side by side."""
WAIT_BUDGET_SECONDS = 0.2
"""Chosen: nineteen of twenty requests may wait this long."""
PUBLIC_ARRIVALS = 300.0
"""Chosen: requests per second of a public service."""
MILLION_TOKENS = 1e6
"""What prices are quoted for."""


def usd_per_million(usd_per_hour: float, tokens_per_second: float) -> float:
    """Dollars of a million tokens at full use of a device."""
    return usd_per_hour / 3600.0 * MILLION_TOKENS / tokens_per_second


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_10_public.{name}", unit)


def _step(pick: str, unit: str) -> Number:
    context = PROMPT_TOKENS + ANSWER_TOKENS // 2
    return compute(decode_point, decoder(D20), machine("h200"), SERVER_SLOTS, context, unit=unit, pick=pick)


def public() -> dict[str, Number | Table]:
    """The numbers of the text."""
    flops = compute(prefill_flops, scaling_parameters(D20), D20.n_layers, D20.d_model, PROMPT_TOKENS, unit="FLOP")
    peak, reached = device("h200", "peak_flops_bf16", "FLOP/s"), device("h200", "mfu", "share")
    ttft = compute(prefill_seconds_floor, flops, peak, reached, unit="s")
    step, tokens = _step("seconds_per_step", "s"), _step("tokens_per_second", "tokens/s")
    service = compute(answer_seconds, 0.0, ttft, ANSWER_TOKENS, step, unit="s")
    slots = compute(slots_needed, PUBLIC_ARRIVALS, service, WAIT_BUDGET_SECONDS, unit="")
    waiting = (SLOTS, SLOT_ARRIVALS, SLOT_SECONDS)
    return {
        "mm1": compute(mm1_mean_seconds, SERVICE_RATE, ARRIVAL_RATE, unit="s"),
        "mm1_p95": compute(mm1_quantile_seconds, SERVICE_RATE, ARRIVAL_RATE, unit="s"),
        "md1": compute(md1_mean_seconds, SERVICE_RATE, ARRIVAL_RATE, unit="s"),
        "service_rate": _chosen("SERVICE_RATE", "requests/s"),
        "arrival_rate": _chosen("ARRIVAL_RATE", "requests/s"),
        "mmc_slots": _chosen("SLOTS", ""),
        "mmc_seconds": _chosen("SLOT_SECONDS", "s"),
        "mmc_arrivals": _chosen("SLOT_ARRIVALS", "requests/s"),
        "mmc_waits": compute(erlang_c, *waiting, unit="share", pick=0),
        "mmc_wait": compute(erlang_c, *waiting, unit="s", pick=1),
        "d20_prompt": _chosen("PROMPT_TOKENS", "tokens"),
        "d20_answer": _chosen("ANSWER_TOKENS", "tokens"),
        "d20_slots": _chosen("SERVER_SLOTS", ""),
        "d20_ttft": ttft,
        "d20_mfu": reached,
        "d20_step": step,
        "d20_service": service,
        "d20_wait": _chosen("WAIT_BUDGET_SECONDS", "s"),
        "d20_rate": compute(largest_rate_by_wait, SERVER_SLOTS, service, WAIT_BUDGET_SECONDS, unit="requests/s"),
        "d20_arrivals": _chosen("PUBLIC_ARRIVALS", "requests/s"),
        "d20_needed": slots,
        "d20_servers": compute(servers_needed, int(slots.value), SERVER_SLOTS, unit=""),
        "d20_usd": compute(usd_per_million, device("h200", "usd_per_hour", "USD/h"), tokens, unit="USD"),
        "d20_price": device("h200", "usd_per_hour", "USD/h"),
    }


def queue_targets() -> list[list[Cell]]:
    """Levers that no model changes."""
    apart = compute(mm1_mean_seconds, 1.0 / SLOT_SECONDS, HEAVY / SLOT_SECONDS, unit="s")
    together = compute(mmc_mean_seconds, SLOTS, HEAVY * SLOTS / SLOT_SECONDS, SLOT_SECONDS, unit="s")
    equal, usual, tailed = (
        compute(mg1_mean_seconds, SERVICE_RATE, HEAVY * SERVICE_RATE, variation, unit="s")
        for variation in (0.0, 1.0, LONG_TAIL)
    )
    return [
        target("one queue before eight slots, not eight queues (mean, heavy load)", "latency", apart, together),
        target(
            "lengths that vary like their mean, not three times as much (mean, heavy load)", "latency", tailed, usual
        ),
        target("answers of equal length (mean, heavy load)", "latency", usual, equal),
    ]
