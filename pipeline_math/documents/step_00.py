"""Numbers of 00_target_budget.md."""

import functools
from typing import Any

from pipeline_math.candidate import ratio_penalty
from pipeline_math.constraints import Gain, what_more_buys
from pipeline_math.data_filtering import effective_tokens
from pipeline_math.documents.examples import published
from pipeline_math.documents.number import Number, compute, constant
from pipeline_math.documents.public_cases import LOSS_CASES
from pipeline_math.documents.recorded import ledger_values, newest, relative_error
from pipeline_math.documents.table import Cell, Quoted, Shown, Table, levers
from pipeline_math.hardware import HARDWARE
from pipeline_math.layouts import DEFAULT, RESEARCH
from pipeline_math.loss_law import chinchilla_optimum, expected_bits_per_byte, isoflop_bits_per_byte
from pipeline_math.plan import cost_usd, energy_kwh
from pipeline_math.scaled_work import ScaledWork
from pipeline_math.stage_terms import STAGE_ORDER
from pipeline_math.target_budget import Goal, Solution, solve

GOALS: dict[str, dict[str, Any]] = {
    "a day, rtx4090": {"hours": 24.0, "hardware": "rtx4090", "mfu": 0.65},
    "a day, rtx3090": {"hours": 24.0, "hardware": "rtx3090", "mfu": 0.50},
    "half an hour, h200": {"hours": 0.5, "hardware": "h200", "mfu": 0.42},
    "an hour, h200": {"hours": 1.0, "hardware": "h200", "mfu": 0.42},
    "eight hours, h100": {"hours": 8.0, "hardware": "h100", "mfu": 0.45},
    "three hours, eight h100": {"hours": 3.0, "hardware": "h100", "devices": 8, "mfu": 0.50},
}
"""Budgets whose plans are compared; each MFU is that of published runs of the class."""
SMALL = "an hour, h200"
LARGE = "three hours, eight h100"
SCARCE_TOKENS = 1.0e9
"""Chosen for the example: distinct tokens there are."""
POWER_USE_AT_HOME = 1.0
"""Chosen for the example: utilisation of the rated power, and a desk without cooling."""
LOW_RATIO, HIGH_RATIO = 3.0, 60.0
"""Chosen for the example: far from the best ratio of tokens to parameters."""
MORE = 1.1
"""Chosen for the example: ten per cent more of something."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    wanted = [f"{stage}.seconds" for stage in STAGE_ORDER]
    tables = {
        "plans": _plans(),
        "whole_plans": _whole_plans(),
        "losses": _losses(),
        "ratios": _ratios(),
        "targets": _targets(),
    }
    return _law() | _cost() | _own() | tables | ledger_values(*wanted, "pretrain.bits_per_byte")


def example_plan(name: str, **changed: Any) -> Solution:
    """The plan of one of GOALS, some of it changed: all hours for pretraining, layout of karpathy/nanochat."""
    given = {"pretrain_share": 1.0, **GOALS[name], **changed}
    return solve(Goal(hardware=HARDWARE[given.pop("hardware")], **given), RESEARCH)


@functools.cache
def whole_plan(name: str) -> Solution:
    """The plan of one of GOALS for all stages, layout of this project, MFU of the device class."""
    given = {**GOALS[name], "mfu": None}
    return solve(Goal(hardware=HARDWARE[given.pop("hardware")], **given), DEFAULT, work=ScaledWork().of)


def pretrain_share(name: str) -> float:
    """Share of the hours that pretraining gets in `whole_plan`."""
    found = whole_plan(name)
    return found.steps * found.step_seconds / (3600.0 * found.goal.hours)


@functools.cache
def gains(name: str) -> list[Gain]:
    """What one more hour and one more GiB would buy in `whole_plan`."""
    return what_more_buys(whole_plan(name), ScaledWork().of)


def all_stage_seconds(column: str) -> float:
    """Sum of the seconds of the example runs, predicted or measured, over all stages that had a prediction."""
    rows = [newest(stage, "seconds") for stage in STAGE_ORDER]
    return float(sum(getattr(row, column) for row in rows if row.predicted is not None))


def _of(name: str, pick: str, unit: str, **changed: Any) -> Number:
    return compute(example_plan, name, pick=pick, unit=unit, **changed)


def _law() -> dict[str, Number | Table]:
    flops = published("CHINCHILLA_FLOPS")
    return {
        "bpb_at_1e18": constant("loss_law.BPB_AT_1E18", "bits/byte"),
        "bpb_exponent": constant("loss_law.BPB_EXPONENT", ""),
        "d24_tokens": published("D24_TRAIN_TOKENS"),
        "d24_bpb": constant("documents.public_cases.LOSS_CASES.4.bits_per_byte", "bits/byte"),
        "best_ratio": constant("loss_law.BEST_RATIO", ""),
        "chinchilla_flops": flops,
        "chinchilla_parameters": published("CHINCHILLA_PARAMETERS"),
        "chinchilla_tokens": published("CHINCHILLA_TOKENS"),
        "optimum_parameters": compute(chinchilla_optimum, flops, pick=0, unit="parameters"),
        "optimum_tokens": compute(chinchilla_optimum, flops, pick=1, unit="tokens"),
    }


def _cost() -> dict[str, Number | Table]:
    seconds, watts = published("D12_RUN_SECONDS"), constant("hardware.HARDWARE.h100.watts", "W")
    full = constant("documents.step_00.POWER_USE_AT_HOME", "")
    price = constant("hardware.HARDWARE.h100.usd_per_hour", "USD")
    return {
        "d12_seconds": seconds,
        "h100_watts": watts,
        "h100_price": price,
        "d12_usd": compute(cost_usd, seconds, 1, price, unit="USD"),
        "d12_kwh": compute(energy_kwh, seconds, 1, watts, full, full, unit="kWh"),
    }


def _losses() -> Table:
    lines: list[list[Cell]] = []
    for index, case in enumerate(LOSS_CASES):
        path = f"documents.public_cases.LOSS_CASES.{index}"
        flops = constant(f"{path}.train_flops", "FLOP")
        law = compute(isoflop_bits_per_byte, flops, unit="bits/byte")
        bounds = [compute(expected_bits_per_byte, flops, pick=end, unit="bits/byte") for end in ("low", "high")]
        said = constant(f"{path}.bits_per_byte", "bits/byte")
        off = compute(relative_error, said, law, unit="share")
        kind = "fitted" if case.fitted else "checked"
        lines.append([flops, *[Shown(n, ".4g bare") for n in (law, *bounds, said)], Shown(off, "signed .1%"), kind])
    header = ("compute", "law", "90 % from", "to", "published", "off by", "used")
    return Table(header, lines, "rrrrrrl")


def _plans() -> Table:
    lines: list[list[Cell]] = []
    for name in GOALS:
        lines.append(
            [
                Quoted(name),
                _of(name, "train_flops", "FLOP"),
                Shown(_of(name, "shape.n_layers", ""), ","),
                _of(name, "train_tokens", "tokens"),
                Shown(_of(name, "ratio", ""), ".3g"),
                Shown(_of(name, "batch_tokens", "tokens"), ", bare"),
                Shown(_of(name, "micro_batch_rows", "rows"), "bare"),
                _of(name, "memory_bytes", "B"),
                *[Shown(_of(name, f"bits_per_byte.{end}", ""), ".3g") for end in ("value", "low", "high")],
            ]
        )
    header = (
        "budget", "C", "depth", "tokens", "ratio", "batch, tokens", "rows", "memory", "bits/byte", "90 % from", "to",
    )  # fmt: skip
    return Table(header, lines)


def _whole_plans() -> Table:
    lines: list[list[Cell]] = []
    for name, goal in GOALS.items():
        hardware = HARDWARE[goal["hardware"]]
        seconds, devices = goal["hours"] * 3600.0, goal.get("devices", 1)
        hour, memory = (
            compute(gains, name, pick=f"{place}.bits_per_byte_change", unit="bits/byte") for place in (0, 1)
        )
        lines.append(
            [
                Quoted(name),
                Shown(compute(whole_plan, name, pick="shape.n_layers", unit=""), ","),
                compute(whole_plan, name, pick="train_tokens", unit="tokens"),
                Shown(compute(pretrain_share, name, unit="share"), ".0%"),
                Shown(compute(whole_plan, name, pick="bits_per_byte.value", unit=""), ".3g"),
                compute(cost_usd, seconds, devices, hardware.usd_per_hour, unit="USD"),
                Shown(hour, "signed .2g bare"),
                Shown(memory, "signed .2g bare"),
            ]
        )
    header = ("budget", "depth", "tokens", "pretraining gets", "bits/byte", "rent", "one more hour", "one more GiB")
    return Table(header, lines)


def _ratios() -> Table:
    lines: list[list[Cell]] = []
    parameters = _of(LARGE, "scaling_parameters", "parameters")
    for path in ("documents.step_00.LOW_RATIO", "loss_law.BEST_RATIO", "documents.step_00.HIGH_RATIO"):
        ratio = constant(path, "")
        tokens = ratio.value * parameters.value
        lines.append([Shown(ratio, ".3g"), Shown(compute(ratio_penalty, parameters, tokens, unit=""), ".4g")])
    return Table(("tokens per scaling parameter", "factor on the loss at equal compute"), lines, "rr")


def _own() -> dict[str, Number | Table]:
    return {
        "own_predicted": compute(all_stage_seconds, "predicted", unit="s"),
        "own_measured": compute(all_stage_seconds, "measured", unit="s"),
        "own_bpb": compute(example_bits_per_byte, "measured", unit="bits/byte"),
        "small_e": constant("constants.CONSTANTS.cpu.irreducible", "bits/byte"),
        "small_n": constant("constants.CONSTANTS.cpu.too_few_parameters", "bits/byte"),
        "small_d": constant("constants.CONSTANTS.cpu.too_few_bytes", "bits/byte"),
        "small_v": constant("constants.CONSTANTS.cpu.small_vocabulary", "bits/byte"),
        "reference_vocabulary": constant("stage_terms.REFERENCE_VOCABULARY", "tokens"),
        "small_scale": constant("stage_terms.SMALL_SCALE_FLOPS", "FLOP"),
        "reference_parameters": constant("stage_terms.REFERENCE_PARAMETERS", "parameters"),
        "reference_bytes": constant("stage_terms.REFERENCE_BYTES", "B"),
    }


def example_bits_per_byte(column: str) -> float:
    """Bits per byte of the example run, predicted or measured."""
    return float(getattr(newest("pretrain", "bits_per_byte"), column))


def _targets() -> Table:
    more = constant("documents.step_00.MORE", "")

    def bpb(name: str, **changed: Any) -> Number:
        return _of(name, "bits_per_byte.value", "bits/byte", **changed)

    large, small = bpb(LARGE), bpb(SMALL)
    hours, share = GOALS[LARGE]["hours"], GOALS[LARGE]["mfu"]
    tokens = _of(LARGE, "train_tokens", "tokens")
    scarce = constant("documents.step_00.SCARCE_TOKENS", "tokens")
    useful = compute(effective_tokens, scarce, tokens, unit="tokens")
    memory = [_of(LARGE, "memory_bytes", "B", **changed) for changed in ({}, {"depth": 12})]
    return levers(
        (
            (f"{SMALL}: one more hour", "compute", small, bpb(SMALL, hours=GOALS[SMALL]["hours"] + 1)),
            (f"{SMALL}: the same hour on eight devices", "compute", small, bpb(SMALL, devices=8)),
            (f"{LARGE}: one more hour", "compute", large, bpb(LARGE, hours=hours + 1)),
            (f"{LARGE}: a tenth more MFU", "compute", large, bpb(LARGE, mfu=share * more.value)),
            (f"{LARGE}: a d12 instead", "compute", large, bpb(LARGE, depth=12)),
            (f"{LARGE}: a d12 instead (memory)", "memory", memory[0], memory[1]),
            (f"{LARGE}: scarce text (worth of the tokens)", "statistics", tokens, useful),
        )
    )
