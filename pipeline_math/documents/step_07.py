"""Numbers of 07_eval_math.md: evaluation and gate."""

import math

from pipeline_math.acceptance import METRICS, share_above
from pipeline_math.documents.examples import recorded_hardware, recorded_shape
from pipeline_math.documents.levers import TARGET_ALIGN, TARGET_HEADER, case, peak_of, target
from pipeline_math.documents.number import Number, compute, constant, over
from pipeline_math.documents.recorded import amount, ledger_values, measured, newest
from pipeline_math.documents.step_07_cost import benchmark_cost, cost_targets
from pipeline_math.documents.table import Cell, Quoted, Shown, Table
from pipeline_math.evaluation_cost import bits_per_byte, centred_accuracy, core_noise_drop, forward_flops
from pipeline_math.interval import Z_90, Interval
from pipeline_math.model_flops_vram import scaling_parameters
from pipeline_math.statistics import (
    items_needed,
    minimum_detectable_difference,
    standard_error,
    wilson_interval,
    zero_successes_upper_bound,
)

BENCHMARK_RATES = {"HumanEval": 0.1, "GSM8K": 0.05, "ARC-C": 0.3, "ARC-E": 0.4, "MMLU": 0.3}
"""Chosen: scores that models of this size reach."""
OWN_ITEMS = {"arithmetic": 250, "ends_properly": 310, "multiple_choice": 120}
"""Items of the laptop profile; `ends_properly` counts the arithmetic replies too."""
OWN_RATES = {"arithmetic": 0.95, "ends_properly": 0.98, "multiple_choice": 0.3}
"""Chosen: what its chat model reaches, about."""
THRESHOLD = 0.9
"""Chosen for the gate's example."""
TRUE_RATES = {"clearly_below": 0.86, "just_below": 0.89, "at_it": 0.9, "above": 0.92, "well_above": 0.95}
"""Chosen: what the model would score on infinitely many items."""
MANY_ITEMS = 1000
"""Chosen: four times the arithmetic items of the laptop profile."""
CORRELATION = 0.7
"""Chosen: how alike two checkpoints of one run answer the same items."""
WANTED_DIFFERENCE = 0.02
"""Chosen: two points of accuracy."""
MARGIN = 0.05
"""Chosen: how far above the forecast a threshold is set."""
GUESSING, CHOICE_SCORE = 0.25, 0.4
"""Chosen: four options, and a score above guessing."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    tables = {"metrics": _metrics(), "public": _public_table(), "own": _own_table(), "passing": _passing()}
    return _own_cost() | _examples() | benchmark_cost() | tables | {"targets": _targets()} | _ledger()


def pass_probability(rate: float, items: int, threshold: float) -> float:
    """P(score >= threshold) of a model that solves each of `items` independent items with `rate` (binomial)."""
    least = math.ceil(threshold * items - 1e-9)
    return math.fsum(math.comb(items, k) * rate**k * (1 - rate) ** (items - k) for k in range(least, items + 1))


def chance_difference(rate: float, items: int, correlation: float = 0.0) -> float:
    """sqrt(2 (1 - rho)) half-widths of the 95 % interval: a drop between two like scores that chance explains."""
    low, high = wilson_interval(rate * items, items)
    return math.sqrt(2.0 * (1.0 - correlation)) * (high - low) / 2.0


def miss_at_margin(value: float, low: float, high: float, margin: float) -> float:
    """Probability that a lognormal forecast ends up above value (1 + margin) (`acceptance.share_above`)."""
    return share_above(Interval(value, low, high), value * (1.0 + margin))


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_07.{name}", unit)


def _ledger() -> dict[str, Number | Table]:
    return ledger_values("evaluation", "gate")


def _metrics() -> Table:
    lines: list[list[Cell]] = [
        [
            f"`{metric.name}`",
            metric.unit,
            metric.better,
            metric.kind,
            Quoted(metric.meaning),
            Quoted(" ".join(metric.forecast) if metric.forecast else "-"),
        ]
        for metric in METRICS.values()
    ]
    return Table(("metric", "unit", "better", "kind", "what it is", "forecast by"), lines, "llllll")


def _own_cost() -> dict[str, Number | Table]:
    shape, row = recorded_shape("evaluation", "seconds"), newest("evaluation", "seconds")
    weights = compute(scaling_parameters, shape, unit="parameters")
    tokens = amount("evaluation", "forward_tokens")
    flops = compute(forward_flops, weights, tokens, unit="FLOP")
    floor = over(flops, peak_of(recorded_hardware(row.stage, row.quantity)), "s")
    seconds = measured("evaluation", "seconds")
    return {
        "own_checkpoints": amount("evaluation", "checkpoints"),
        "own_tokens": tokens,
        "own_steps": amount("evaluation", "decode_steps"),
        "own_flops": flops,
        "own_floor": floor,
        "own_seconds": seconds,
        "own_floor_share": over(floor, seconds, "share"),
    }


def _examples() -> dict[str, Number | Table]:
    rate, items = _chosen("OWN_RATES.arithmetic", "share"), _chosen("OWN_ITEMS.arithmetic", "")
    row = newest("pretrain", "bits_per_byte")
    if row.predicted is None or row.low is None or row.high is None:
        raise ValueError(
            "the ledger has no forecast of pretrain bits_per_byte; next: `python -m flows ledger --record`"
        )
    missed = compute(miss_at_margin, row.predicted, row.low, row.high, MARGIN, unit="share")
    passes = int(items.value), THRESHOLD
    return {
        "gpt2_nats": case("GPT2_NATS_PER_TOKEN"),
        "gpt2_bytes": case("GPT2_BYTES_PER_TOKEN"),
        "gpt2_bits": compute(
            bits_per_byte, case("GPT2_NATS_PER_TOKEN"), case("GPT2_BYTES_PER_TOKEN"), unit="bits/byte"
        ),
        "core_sd": constant("evaluation_cost.CORE_RUN_SD", ""),
        "core_drop": compute(core_noise_drop, unit=""),
        "guessing": _chosen("GUESSING", "share"),
        "choice": _chosen("CHOICE_SCORE", "share"),
        "centred": compute(centred_accuracy, CHOICE_SCORE, GUESSING, unit=""),
        "none_items": items,
        "none_bound": compute(zero_successes_upper_bound, int(items.value), unit="share"),
        "wanted": _chosen("WANTED_DIFFERENCE", "share"),
        "correlation": _chosen("CORRELATION", ""),
        "threshold": _chosen("THRESHOLD", "share"),
        "safe_rate": compute(wilson_interval, THRESHOLD * items.value, int(items.value), Z_90, unit="share", pick=1),
        "safe_rate_many": compute(wilson_interval, THRESHOLD * MANY_ITEMS, MANY_ITEMS, Z_90, unit="share", pick=1),
        "coin": compute(pass_probability, THRESHOLD, *passes, unit="share"),
        "champion_rate": rate,
        "champion_chance": compute(chance_difference, rate, int(items.value), unit="share"),
        "margin": _chosen("MARGIN", "share"),
        "missed": missed,
    }


def _public_table() -> Table:
    lines: list[list[Cell]] = []
    for name, rate in BENCHMARK_RATES.items():
        items = constant(f"evaluation_cost.BENCHMARK_ITEMS.{name}", "")
        n = int(items.value)
        lines.append(
            [
                name,
                Shown(items, ","),
                _chosen(f"BENCHMARK_RATES.{name}", "share"),
                *_error_cells(rate, n),
                Shown(compute(items_needed, rate, WANTED_DIFFERENCE, unit=""), ","),
                Shown(compute(items_needed, rate, WANTED_DIFFERENCE, CORRELATION, unit=""), ","),
            ]
        )
    header = ("benchmark", "items", "score", "error", "MDD", "MDD paired", "items needed", "paired")
    return Table(header, lines)


def _error_cells(rate: float, items: int) -> list[Cell]:
    return [
        Shown(compute(standard_error, rate, items, unit="share"), ".2%"),
        Shown(compute(minimum_detectable_difference, rate, items, unit="share"), ".1%"),
        Shown(compute(minimum_detectable_difference, rate, items, CORRELATION, unit="share"), ".1%"),
    ]


def _own_table() -> Table:
    lines: list[list[Cell]] = []
    for name, rate in OWN_RATES.items():
        items = OWN_ITEMS[name]
        low, high = (Shown(compute(wilson_interval, rate * items, items, unit="share", pick=i), ".1%") for i in (0, 1))
        lines.append(
            [
                f"`{name}`",
                _chosen(f"OWN_ITEMS.{name}", ""),
                Shown(_chosen(f"OWN_RATES.{name}", "share"), ".0%"),
                low,
                high,
                *_error_cells(rate, items),
            ]
        )
    return Table(("benchmark", "items", "score", "low", "high", "error", "MDD", "MDD paired"), lines)


def _passing() -> Table:
    few = OWN_ITEMS["arithmetic"]
    lines: list[list[Cell]] = []
    for name, rate in TRUE_RATES.items():
        passes = [Shown(compute(pass_probability, rate, n, THRESHOLD, unit="share"), ".1%") for n in (few, MANY_ITEMS)]
        lines.append([name.replace("_", " "), Shown(_chosen(f"TRUE_RATES.{name}", "share"), ".0%"), *passes])
    return Table(("true score", "score", f"passes with {few} items", f"passes with {MANY_ITEMS} items"), lines)


def _targets() -> Table:
    rate, items, hard = OWN_RATES["arithmetic"], OWN_ITEMS["arithmetic"], BENCHMARK_RATES["ARC-C"]
    alone = compute(minimum_detectable_difference, rate, items, unit="share")
    paired = compute(minimum_detectable_difference, rate, items, CORRELATION, unit="share")
    many = compute(minimum_detectable_difference, rate, MANY_ITEMS, unit="share")
    wanted = compute(items_needed, hard, WANTED_DIFFERENCE, unit="")
    fewer = compute(items_needed, hard, WANTED_DIFFERENCE, CORRELATION, unit="")
    chance = compute(chance_difference, rate, items, unit="share")
    in_pairs = compute(chance_difference, rate, items, CORRELATION, unit="share")
    lines = [
        target("champion compared item by item (drop the gate has to tolerate)", "statistics", chance, in_pairs),
        target("compare the same items in pairs (detectable difference)", "statistics", alone, paired),
        target("four times the items instead (detectable difference)", "statistics", alone, many),
        target("items that show such a difference on ARC-C, in pairs", "statistics", wanted, fewer),
        *cost_targets(),
    ]
    return Table(TARGET_HEADER, lines, TARGET_ALIGN)
