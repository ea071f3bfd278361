"""A plan, what holds it back and what more would buy, for a terminal of 80 columns."""

import textwrap
from typing import Any

from pipeline_math.hardware_table import GIB
from pipeline_math.plan import readable

COLUMNS = 80
LABEL_COLUMNS = 14


def plan_text(plan: dict[str, Any]) -> str:
    """All of a plan with its "limits", as `solve` prints it."""
    chosen, forecast = plan["decisions"], plan["forecast"]
    lines = [f"{forecast['hours']:g} h on {chosen['devices']} x {chosen['hardware']}, layout: {forecast['layout']}", ""]
    lines += [*_model_lines(chosen, forecast), "", *_cost_lines(forecast), "", *_stage_lines(forecast), ""]
    lines += _limit_lines(plan["limits"], forecast)
    for warning in forecast["warnings"]:
        lines += _labelled("warning", warning)
    return "\n".join(lines).rstrip() + "\n"


def _model_lines(chosen: dict[str, Any], forecast: dict[str, Any]) -> list[str]:
    memory = forecast["memory"]
    epochs = forecast["epochs"]
    passes = "" if epochs is None else f", {epochs:.2f} passes over {quantity(forecast['unique_tokens'])}"
    peak = forecast["peak_flops_per_device"] / 1e12
    used, usable = memory["total_bytes"] / GIB, memory["usable_bytes"] / GIB
    verdict = "fits" if memory["fits"] else f"{used - usable:.2f} GiB TOO MUCH"
    latency = forecast["latency"]
    facts = {
        "depth": f"{chosen['depth']} layers of {chosen['d_model']} channels, {chosen['n_heads']} query and "
        f"{chosen['n_kv_heads']} key/value heads",
        "parameters": f"{quantity(forecast['total_parameters'])}, {quantity(forecast['scaling_parameters'])} of them "
        "in blocks and head",
        "tokens": f"{quantity(chosen['train_tokens'])}{passes}",
        "ratio": f"{forecast['tokens_per_scaling_parameter']:.1f} tokens per parameter in blocks and head",
        "batch": f"{chosen['batch_tokens']:,} tokens x {chosen['train_steps']:,} steps",
        "micro-batch": f"{chosen['micro_batch_rows']} x {chosen['tokens_per_row']} tokens per device, "
        f"at most {forecast['micro_batch_rows_limit']} rows fit",
        "precision": chosen["precision"],
        "speed": f"{forecast['tokens_per_second']:,.0f} tokens/s, {forecast['mfu']:.1%} of "
        f"{chosen['devices']} x {peak:.4g} TFLOP/s",
        "memory": f"{used:.1f} of {usable:.1f} GiB usable per device: {verdict}",
        "latency": f"{latency['ttft_seconds'] * 1000:.3g} ms to the first token after {latency['prompt_tokens']:,}, "
        f"then {latency['tpot_seconds'] * 1000:.3g} ms each",
    }
    return [line for label, text in facts.items() for line in _labelled(label, text)]


def _cost_lines(forecast: dict[str, Any]) -> list[str]:
    total = forecast["total"]
    rows = [
        ("time", readable, total["seconds_interval"], ""),
        ("dollars", money, total["usd_interval"], f"{total['usd_per_device_hour']:g} USD/h per device"),
        ("energy", "{:.3g}".format, total["kwh_interval"], "kWh"),
        ("bits per byte", "{:.3f}".format, total["val_bpb"], "of held-out text"),
    ]
    lines = [f"{'':{LABEL_COLUMNS}}{'expected':>11}   {'90 % interval'}"]
    for label, form, interval, remark in rows:
        span = f"{form(interval['low'])} to {form(interval['high'])}"
        lines.append(f"{label:{LABEL_COLUMNS}}{form(interval['value']):>11}   {span:24} {remark}".rstrip())
    return lines


def _stage_lines(forecast: dict[str, Any]) -> list[str]:
    lines = [f"{'stage':{LABEL_COLUMNS}}{'expected':>11}   {'90 % interval':24}  share"]
    whole = forecast["total"]["seconds"]
    for stage, own in forecast["predictions"].items():
        seconds = own["seconds"]
        span = f"{readable(seconds['low'])} to {readable(seconds['high'])}"
        share = f"{seconds['value'] / whole:6.1%}"
        lines.append(f"{stage:{LABEL_COLUMNS}}{readable(seconds['value']):>11}   {span:24} {share}")
    return lines


def _limit_lines(limits: dict[str, Any], forecast: dict[str, Any]) -> list[str]:
    binding = [
        f"{gain['change']}; without this limit depth {gain['depth']}, {quantity(gain['train_tokens'])} tokens, "
        f"{gain['bits_per_byte']:.4f} bits/byte"
        for gain in limits["binding"]
    ]
    lines = []
    for text in binding or [f"hours: no other limit changes the plan of {forecast['hours']:g} h"]:
        lines += _labelled("binding", text)
    for gain in limits["more"]:
        lines.append(f"{gain['change']:26} {gain_words(gain)}")
    return lines


def gain_words(gain: dict[str, Any]) -> str:
    """What a change buys, in words."""
    if not gain["depth_change"] and not gain["train_tokens_change"]:
        return "buys nothing"
    depth = f"depth {gain['depth']} ({gain['depth_change']:+d})"
    tokens = f"{quantity(gain['train_tokens_change'], '+')} tokens"
    return f"{depth}, {tokens}, {gain['bits_per_byte_change']:+.4f} bits/byte"


def quantity(value: float, sign: str = "") -> str:
    """A count in thousands (k), millions (M), billions (B), trillions (T) or 1e15 (P)."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:{sign}.2f} {letter}"
    return f"{value:{sign}.0f}"


def money(usd: float) -> str:
    """Dollars and cents; large sums as `quantity`."""
    return f"{usd:,.2f}" if usd < 1.0e6 else quantity(usd)


def _labelled(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=f"{label:{LABEL_COLUMNS}}",
        subsequent_indent=" " * LABEL_COLUMNS,
        break_long_words=False,
    )
