"""A plan as data, in two parts that change at different times, and as Markdown.

Decisions are what later stages build on; the forecast is what is expected of them and may change with every calibration
without making anything stale.
"""

import math
from typing import Any

from pipeline_math.checks import not_negative, positive, share
from pipeline_math.constants import prior_of
from pipeline_math.feasibility import tpot_seconds, ttft_seconds
from pipeline_math.forecast import Calibration
from pipeline_math.hardware_table import Hardware
from pipeline_math.interval import Z_90, Interval, lognormal_interval
from pipeline_math.model_flops_vram import FLOPS_CONVENTION
from pipeline_math.stage_seconds import Workload, all_seconds, forecasts, planned_amounts
from pipeline_math.target_budget import Solution, memory_fits

POWER_UTILISATION = {"cpu": 0.8, "gpu": 0.9}
"""ASSUMPTION: mean share of a device's rated power over the run, by kind. The host of a GPU is not counted."""
POWER_USAGE_EFFECTIVENESS = {"cpu": 1.0, "gpu": 1.1}
"""ASSUMPTION: power from the grid over that of the device: at a desk, in a small machine room; data centres: 1.2."""
POWER_LOG_SD = {"cpu": 0.30, "gpu": 0.10}
"""ASSUMPTION: how uncertain the product of the two is, as standard deviation of its logarithm."""
ROUNDING = 1.0e-6
"""Relative difference of two sums of the same seconds."""
PASSES_THAT_TEACH = 4.0
"""Passes over the same text beyond which little is learnt (arXiv 2305.16264)."""


def energy_kwh(seconds: float, devices: int, watts: float, utilisation: float, pue: float) -> float:
    """n W u PUE t / 3.6e6: energy at a share u of rated power W and a power usage effectiveness PUE."""
    not_negative(seconds=seconds, devices=devices, watts=watts, pue=pue)
    share(utilisation=utilisation)
    return devices * watts * utilisation * pue * seconds / 3.6e6


def cost_usd(seconds: float, devices: int, usd_per_device_hour: float) -> float:
    """t n price / 3600."""
    not_negative(seconds=seconds, devices=devices, usd_per_device_hour=usd_per_device_hour)
    return seconds * devices * usd_per_device_hour / 3600.0


def make_plan(
    found: Solution,
    work: Workload,
    calibration: Calibration | None = None,
    usd_per_hour: float | None = None,
    target_val_bpb: float | None = None,
) -> dict[str, Any]:
    """Both parts, JSON-ready."""
    forecast = plan_forecast(found, work, calibration, usd_per_hour, target_val_bpb)
    return {"decisions": plan_decisions(found), "forecast": forecast}


def plan_decisions(found: Solution) -> dict[str, Any]:
    """What later stages build on; equal for plans that differ in expectations only."""
    shape = found.shape
    return {
        "hardware": found.goal.hardware.name,
        "devices": found.goal.devices,
        "precision": found.goal.hardware.precision(),
        "depth": shape.n_layers,
        "d_model": shape.d_model,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "mlp_width": shape.mlp_width,
        "tokens_per_row": shape.tokens_per_row,
        "vocab_size": shape.vocab_size,
        "train_tokens": found.train_tokens,
        "train_steps": found.steps,
        "batch_tokens": found.batch_tokens,
        "micro_batch_rows": found.micro_batch_rows,
    }


def plan_forecast(
    found: Solution,
    work: Workload,
    calibration: Calibration | None = None,
    usd_per_hour: float | None = None,
    target_val_bpb: float | None = None,
) -> dict[str, Any]:
    """What is expected of a plan. `usd_per_hour` is the price of one device; None takes the default of the class.

    `target_val_bpb` is the quality asked for in bits per byte; a warning says when it is not expected to be reached.
    """
    if target_val_bpb is not None:
        positive(target_val_bpb=target_val_bpb)
    goal, known = found.goal, calibration or prior_of(found.goal.hardware)
    amounts = planned_amounts(found.as_default_layout, work)
    predictions = forecasts(amounts, goal.hardware, known)
    loss = predictions["pretrain"].setdefault("bits_per_byte", found.bits_per_byte)  # small runs have their own law
    total = all_seconds(amounts, goal.hardware, known)
    return {
        "hours": goal.hours,
        "layout": found.layout.name,
        "total_parameters": found.total_parameters,
        "scaling_parameters": found.scaling_parameters,
        "tokens_per_scaling_parameter": found.ratio,
        "unique_tokens": goal.unique_tokens,
        "epochs": found.epochs,
        "train_flops_per_token": found.train_flops_per_token,
        "train_flops": found.train_flops,
        "mfu": found.mfu,
        "peak_flops_per_device": goal.hardware.peak_flops(),
        "step_seconds": found.step_seconds,
        "tokens_per_second": found.tokens_per_second,
        "micro_batch_rows_limit": found.micro_batch_rows_limit,
        "memory": memory_of(found),
        "latency": {
            "prompt_tokens": goal.prompt_tokens,
            "ttft_seconds": ttft_seconds(goal, found.layout, found.shape, known),
            "tpot_seconds": tpot_seconds(goal, found.layout, found.shape, known),
        },
        "predictions": {
            stage: {quantity: interval.as_dict() for quantity, interval in own.items()}
            for stage, own in predictions.items()
        },
        "amounts": amounts,
        "total": _totals(found, total, loss, usd_per_hour),
        "warnings": plan_warnings(found, total, loss, target_val_bpb),
    }


def memory_of(found: Solution) -> dict[str, Any]:
    """Bytes on one device by part, their sum, what a plan may use, and whether that is enough."""
    return {
        **vars(found.memory),
        "total_bytes": found.memory_bytes,
        "usable_bytes": found.goal.usable_memory_bytes,
        "device_bytes": found.goal.device_memory_bytes,
        "fits": memory_fits(found),
    }


def _totals(found: Solution, seconds: Interval, loss: Interval, usd_per_hour: float | None) -> dict[str, Any]:
    hardware, devices = found.goal.hardware, found.goal.devices
    price = hardware.usd_per_hour if usd_per_hour is None else usd_per_hour
    usd, kwh = seconds.scaled(cost_usd(1.0, devices, price)), kwh_interval(seconds, devices, hardware)
    return {
        "seconds": seconds.value,
        "seconds_interval": seconds.as_dict(),
        "usd_per_device_hour": price,
        "usd": usd.value,
        "usd_interval": usd.as_dict(),
        "kwh": kwh.value,
        "kwh_interval": kwh.as_dict(),
        "vram_bytes": found.memory_bytes,
        "vram_fits": memory_fits(found),
        "val_bpb": loss.as_dict(),
    }


def kwh_interval(seconds: Interval, devices: int, hardware: Hardware) -> Interval:
    """Energy of a run: its seconds and its mean power are both uncertain, and independent."""
    positive(seconds=seconds.value, low=seconds.low, high=seconds.high)
    utilisation, pue = POWER_UTILISATION[hardware.kind], POWER_USAGE_EFFECTIVENESS[hardware.kind]
    log_sd = math.log(seconds.high / seconds.low) / (2.0 * Z_90)
    value = energy_kwh(seconds.value, devices, hardware.watts, utilisation, pue)
    return lognormal_interval(value, math.hypot(log_sd, POWER_LOG_SD[hardware.kind]))


def plan_warnings(found: Solution, total: Interval, loss: Interval, target_val_bpb: float | None = None) -> list[str]:
    """Everything about a plan that its user should know before starting."""
    warnings, goal = [], found.goal
    if total.value > goal.hours * 3600 * (1.0 + ROUNDING):
        remedy = (
            "the hours are for pretraining only" if goal.pretrain_share == 1.0 else "lower pretrain_share or the work"
        )
        warnings.append(
            f"all stages together are predicted to take {total.value / 3600:.2f} h, more than the "
            f"{goal.hours:g} h asked for: {remedy}"
        )
    if not memory_fits(found):
        warnings.append(
            f"{found.memory_bytes / 1e9:.1f} GB are more than the {goal.usable_memory_bytes / 1e9:.1f} GB a plan may "
            f"fill of {goal.device_memory_bytes / 1e9:.1f} GB"
        )
    if found.ratio < goal.ratio / 2:
        warnings.append(
            f"{found.ratio:.2f} tokens per scaling parameter, {goal.ratio:g} wanted: the model is "
            f"undertrained; more hours or a smaller depth would help"
        )
    if found.epochs is not None and found.epochs > PASSES_THAT_TEACH:
        warnings.append(
            f"{found.epochs:.1f} passes over the text: beyond about {PASSES_THAT_TEACH:g}, repeated text teaches little"
        )
    if target_val_bpb is not None and loss.value > target_val_bpb:
        warnings.append(
            f"{loss.value:.3f} bits/byte expected, {target_val_bpb:g} wanted: more hours or devices are needed"
        )
    return warnings


def plan_markdown(plan: dict[str, Any]) -> str:
    """A plan for people, in Markdown."""
    chosen, forecast = plan["decisions"], plan["forecast"]
    total, memory = forecast["total"], forecast["memory"]
    bpb, usd, kwh = (total[name] for name in ("val_bpb", "usd_interval", "kwh_interval"))
    fits = "fits" if memory["fits"] else "DOES NOT FIT"
    lines = [
        f"# Plan: {forecast['hours']:g} h on {chosen['devices']} x {chosen['hardware']}",
        "",
        "| what | value |",
        "|---|---|",
        f"| depth / width | {chosen['depth']} layers, {chosen['d_model']} channels |",
        f"| heads | {chosen['n_heads']} query, {chosen['n_kv_heads']} key/value |",
        f"| parameters | {forecast['total_parameters']:,} ({forecast['scaling_parameters']:,} in blocks and head) |",
        f"| training tokens | {chosen['train_tokens']:,}; {forecast['tokens_per_scaling_parameter']:.2f} per parameter "
        "of blocks and head |",
        f"| batch | {chosen['batch_tokens']:,} tokens, {chosen['train_steps']:,} steps, micro-batches of "
        f"{chosen['micro_batch_rows']} rows of {chosen['tokens_per_row']} |",
        f"| precision, speed | {chosen['precision']}, {forecast['tokens_per_second']:,.0f} tokens/s, "
        f"MFU {forecast['mfu']:.1%} ({FLOPS_CONVENTION}) |",
        f"| memory | {memory['total_bytes'] / 1e9:.2f} GB per device, {fits} |",
        f"| validation loss | {bpb['value']:.3f} bits/byte (90 %: {bpb['low']:.3f} to {bpb['high']:.3f}) |",
        f"| cost | {usd['value']:,.2f} USD (90 %: {usd['low']:,.2f} to {usd['high']:,.2f}) |",
        f"| energy | {kwh['value']:.3g} kWh (90 %: {kwh['low']:.3g} to {kwh['high']:.3g}) |",
        "",
        "| stage | predicted | 90 % interval |",
        "|---|---|---|",
    ]
    for stage, prediction in forecast["predictions"].items():
        lines.append(_seconds_row(stage, prediction["seconds"]))
    lines.append(_seconds_row("**all**", total["seconds_interval"]))
    lines += [""] + [f"Warning: {warning}." for warning in forecast["warnings"]]
    return "\n".join(lines).rstrip() + "\n"


def _seconds_row(name: str, seconds: dict[str, float]) -> str:
    return f"| {name} | {readable(seconds['value'])} | {readable(seconds['low'])} to {readable(seconds['high'])} |"


def readable(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
