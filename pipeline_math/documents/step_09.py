"""Numbers of 09_inference_prefill_decode_math.md: floors, forecasts and what was measured."""

from pipeline_math.documents.examples import recorded_hardware, recorded_shape
from pipeline_math.documents.levers import (
    TARGET_ALIGN,
    TARGET_HEADER,
    constant_of,
    peak_of,
    target,
    term_share,
    what_if_stage_seconds,
)
from pipeline_math.documents.number import Number, compute, constant, over
from pipeline_math.documents.recorded import amount, ledger_values, measured, newest
from pipeline_math.documents.step_09_public import gpu_targets, public, public_batches, public_groups
from pipeline_math.documents.table import Cell, Quoted, Shown, Table
from pipeline_math.hardware_table import Hardware
from pipeline_math.inference_prefill_decode import (
    decode_seconds_per_token_floor,
    model_bandwidth_utilisation,
    prefill_flops,
    prefill_seconds_floor,
)
from pipeline_math.model_flops_vram import scaling_parameters
from pipeline_math.stage_terms import Amounts, terms_of

BATCHES = (1, 4, 16, 64)
"""Chosen: sequences decoded side by side."""
NEW_TOKENS = 64
"""New tokens of the laptop profile's measurement; half of them are cached on average."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    tables = {
        "parts": _parts(),
        "batches": _batches(),
        "public_batches": public_batches(),
        "public_groups": public_groups(),
        "targets": Table(TARGET_HEADER, [*gpu_targets(), *_own_targets()], TARGET_ALIGN),
    }
    return _own() | public() | tables | ledger_values("inference")


def step_seconds(amounts: Amounts, hardware: Hardware, rows: float) -> float:
    """Forecast of one decode step of `rows` sequences: what one more step adds to the inference stage."""
    two, one = (
        what_if_stage_seconds("inference", amounts, {"decode_steps": steps, "rows_per_decode_step": rows}, hardware)
        for steps in (2.0, 1.0)
    )
    return two - one


def rate(rows: float, seconds: float) -> float:
    """Tokens/s of all sequences together."""
    return rows / seconds


def read_bytes(weight_bytes: float, kv_bytes_per_token: float, cached_tokens: float, rows: float) -> float:
    """Bytes a decode step reads: weights once, every sequence's cache."""
    return weight_bytes + rows * kv_bytes_per_token * cached_tokens


def _device() -> Hardware:
    return recorded_hardware("inference", "seconds_per_output_token")


def _bandwidth() -> Number:
    return constant(f"hardware.HARDWARE.{_device().name}.bandwidth_bytes_per_second", "B/s")


def _floor(rows: int) -> Number:
    """Least seconds of a decode step at the bandwidth of the class."""
    weights, token = amount("inference", "weight_bytes"), measured("inference", "kv_bytes_per_token")
    cached = amount("inference", "prompt_tokens").value + NEW_TOKENS / 2
    return compute(decode_seconds_per_token_floor, weights, rows * token.value * cached, _bandwidth(), unit="s")


def _own() -> dict[str, Number | Table]:
    shape, hardware = recorded_shape("inference", "seconds_per_output_token"), _device()
    prompt, weights = amount("inference", "prompt_tokens"), amount("inference", "weight_bytes")
    token, tpot, ttft = (
        measured("inference", name) for name in ("kv_bytes_per_token", "seconds_per_output_token", "ttft_seconds")
    )
    flops = compute(
        prefill_flops, scaling_parameters(shape), shape.n_layers, shape.d_model, int(prompt.value), unit="FLOP"
    )
    prefill = compute(prefill_seconds_floor, flops, peak_of(hardware), 1.0, unit="s")
    floor = _floor(1)
    moved = compute(read_bytes, weights, token, prompt.value + NEW_TOKENS / 2, 1, unit="B")
    return {
        "own_prompt": prompt,
        "own_weights": weights,
        "own_kv": token,
        "own_flops": flops,
        "own_prefill_floor": prefill,
        "own_ttft": ttft,
        "own_prefill_share": over(prefill, ttft, "share"),
        "own_bandwidth": _bandwidth(),
        "own_floor": floor,
        "own_tpot": tpot,
        "own_rate": compute(rate, 1, tpot, unit="tokens/s"),
        "own_mbu": compute(model_bandwidth_utilisation, moved, tpot, _bandwidth(), unit="share"),
        "own_times": over(tpot, floor, ""),
    }


def _parts() -> Table:
    """What one forecast decode step is made of."""
    row, hardware = newest("inference", "seconds_per_output_token"), _device()
    terms = terms_of(row.stage, row.quantity, row.amounts, hardware) or {}
    lines: list[list[Cell]] = []
    for name, value in terms.items():
        if value:
            part = compute(term_share, row.stage, row.quantity, row.amounts, hardware, name, unit="share")
            lines.append([f"`{name}`", Quoted(constant_of(hardware, name).meaning), Shown(part, ".1%")])
    return Table(("constant", "what it pays for", "share of a forecast decode step"), lines, "llr")


def _batches() -> Table:
    row, hardware = newest("inference", "seconds_per_output_token"), _device()
    lines: list[list[Cell]] = []
    for rows in BATCHES:
        floor = _floor(rows)
        step = compute(step_seconds, row.amounts, hardware, rows, unit="s")
        lines.append(
            [
                Quoted(str(rows)),
                floor,
                compute(rate, rows, floor, unit="tokens/s"),
                step,
                compute(rate, rows, step, unit="tokens/s"),
                Shown(over(floor, step, "share"), ".0%"),
            ]
        )
    header = ("sequences", "bandwidth floor", "at the floor", "forecast", "at the forecast", "floor / forecast")
    return Table(header, lines)


def _own_targets() -> list[list[Cell]]:
    row, hardware = newest("inference", "seconds_per_output_token"), _device()
    shape = recorded_shape("inference", "seconds_per_output_token")

    def tokens(rows: int) -> Number:
        return compute(rate, rows, compute(step_seconds, row.amounts, hardware, rows, unit="s"), unit="tokens/s")

    def step(layers: int) -> Number:
        return compute(step_seconds, {**row.amounts, "n_layers": layers}, hardware, 1, unit="s")

    return [
        target("sixteen sequences instead of one (this engine, forecast)", "latency", tokens(1), tokens(16)),
        target(
            "half the layers at the same width (this engine, forecast; another model)",
            "latency",
            step(shape.n_layers),
            step(max(1, shape.n_layers // 2)),
        ),
    ]
