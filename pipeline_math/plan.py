"""A plan as data and as text: what artifacts/budget/plan.json and plan.md hold, and what the command line prints."""

from typing import Any

from pipeline_math.interval import Interval, add_independent
from pipeline_math.stage_seconds import Workload, stage_seconds
from pipeline_math.target_budget import Solution, memory_fits

POWER_UTILISATION = 0.9
"""ASSUMPTION: mean share of rated power while training."""
POWER_USAGE_EFFECTIVENESS = 1.1
"""ASSUMPTION: cooling and conversion of a small machine room; 1.2 is common in data centres, 1.0 at a desk."""


def energy_kwh(seconds: float, devices: int, watts: float, utilisation: float, pue: float) -> float:
    """n W u PUE t / 3.6e6: energy at a share u of rated power W and a power usage effectiveness PUE."""
    return devices * watts * utilisation * pue * seconds / 3.6e6


def cost_usd(seconds: float, devices: int, usd_per_device_hour: float) -> float:
    """t n price / 3600."""
    return seconds * devices * usd_per_device_hour / 3600.0


def make_plan(
    found: Solution, work: Workload, usd_per_hour: float | None = None, target_val_bpb: float | None = None
) -> dict[str, Any]:
    """The plan as a JSON-ready mapping. `usd_per_hour` is the price of one device; None takes the default.

    `target_val_bpb` is the quality asked for in bits per byte; the plan warns when it does not expect to reach it.
    """
    goal, shape, hardware = found.goal, found.shape, found.goal.hardware
    seconds = stage_seconds(found, work)
    total: Interval = add_independent(seconds.values())
    price = hardware.usd_per_hour if usd_per_hour is None else usd_per_hour
    return {
        "hardware": hardware.name,
        "devices": goal.devices,
        "hours": goal.hours,
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
        "precision": hardware.precision(),
        "total_parameters": found.total_parameters,
        "scaling_parameters": found.scaling_parameters,
        "tokens_per_scaling_parameter": found.ratio,
        "epochs": found.epochs,
        "train_flops_per_token": found.train_flops_per_token,
        "mfu": found.mfu,
        "tokens_per_second": found.tokens_per_second,
        "predictions": {stage: {"seconds": interval.as_dict()} for stage, interval in seconds.items()},
        "total": {
            "seconds": total.value,
            "seconds_interval": total.as_dict(),
            "usd": cost_usd(total.value, goal.devices, price),
            "kwh": energy_kwh(total.value, goal.devices, hardware.watts, POWER_UTILISATION, POWER_USAGE_EFFECTIVENESS),
            "vram_bytes": found.memory_bytes,
            "vram_fits": memory_fits(found),
            "val_bpb": found.bits_per_byte.as_dict(),
        },
        "warnings": plan_warnings(found, total, target_val_bpb),
    }


def plan_warnings(found: Solution, total: Interval, target_val_bpb: float | None = None) -> list[str]:
    """Everything about a plan that its user should know before starting."""
    warnings = []
    if total.value > found.goal.hours * 3600:
        warnings.append(
            f"all stages together are predicted to take {total.value / 3600:.2f} h, more than the "
            f"{found.goal.hours:g} h asked for: lower pretrain_share or the workload"
        )
    if not memory_fits(found):
        warnings.append(
            f"{found.memory_bytes / 1e9:.1f} GB are more than 92 % of {found.goal.hardware.memory_bytes / 1e9:.1f} GB"
        )
    if found.ratio < found.goal.ratio / 2:
        warnings.append(
            f"{found.ratio:.2f} tokens per scaling parameter, {found.goal.ratio:g} wanted: the model is "
            f"undertrained; more hours or a smaller depth would help"
        )
    if found.epochs is not None and found.epochs > 4:
        warnings.append(f"{found.epochs:.1f} passes over the text: beyond about 4, repeated text teaches little")
    if target_val_bpb is not None and found.bits_per_byte.value > target_val_bpb:
        warnings.append(
            f"{found.bits_per_byte.value:.3f} bits/byte expected, {target_val_bpb:g} wanted: "
            f"more hours or devices are needed"
        )
    return warnings


def plan_markdown(plan: dict[str, Any]) -> str:
    """A plan for people, in Markdown."""
    total, bpb = plan["total"], plan["total"]["val_bpb"]
    fits = "fits" if total["vram_fits"] else "DOES NOT FIT"
    lines = [
        f"# Plan: {plan['hours']:g} h on {plan['devices']} x {plan['hardware']}",
        "",
        "| what | value |",
        "|---|---|",
        f"| depth / width | {plan['depth']} layers, {plan['d_model']} channels |",
        f"| heads | {plan['n_heads']} query, {plan['n_kv_heads']} key/value |",
        f"| parameters | {plan['total_parameters']:,} in all, {plan['scaling_parameters']:,} scaling (blocks + head) |",
        f"| vocabulary, row | {plan['vocab_size']:,} tokens, rows of {plan['tokens_per_row']:,} |",
        f"| training | {plan['train_tokens']:,} tokens in {plan['train_steps']:,} steps of {plan['batch_tokens']:,} |",
        f"| ratio | {plan['tokens_per_scaling_parameter']:.2f} tokens per scaling parameter |",
        f"| micro-batch | {plan['micro_batch_rows']} rows per device and pass, {plan['precision']} |",
        f"| FLOPs per token | {plan['train_flops_per_token']:.4g} (6 N + 12 L d T, attention not halved) |",
        f"| throughput | {plan['tokens_per_second']:,.0f} tokens/s at {plan['mfu']:.1%} of peak |",
        f"| memory | {total['vram_bytes'] / 1e9:.2f} GB per device, {fits} |",
        f"| validation loss | {bpb['value']:.3f} bits/byte (90 %: {bpb['low']:.3f} to {bpb['high']:.3f}) |",
        f"| cost | {total['usd']:,.2f} USD, {total['kwh']:.3g} kWh |",
        "",
        "| stage | predicted | 90 % interval |",
        "|---|---|---|",
    ]
    for stage, prediction in plan["predictions"].items():
        lines.append(_seconds_row(stage, prediction["seconds"]))
    lines.append(_seconds_row("**all**", total["seconds_interval"]))
    lines += [""] + [f"Warning: {warning}." for warning in plan["warnings"]]
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
