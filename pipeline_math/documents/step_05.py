"""Numbers of 05_pretrain_step_math.md."""

from pipeline_math.documents import examples
from pipeline_math.documents.examples import published, recorded_hardware, recorded_shape
from pipeline_math.documents.number import Number, change, compute, constant, over, times
from pipeline_math.documents.recorded import amount, ledger_values, measured
from pipeline_math.documents.step_05_public import mfu_classes, public_run
from pipeline_math.documents.table import Cell, Shown, Table, levers
from pipeline_math.hardware import HARDWARE
from pipeline_math.hardware_table import Hardware
from pipeline_math.interval import log_posterior
from pipeline_math.model_flops_vram import (
    ModelShape,
    scaling_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
)
from pipeline_math.plan import cost_usd
from pipeline_math.pretrain_step import (
    accumulation_steps,
    bounded_learning_rate_factor,
    checkpoint_interval_seconds,
    critical_batch_tokens,
    expected_seconds_with_failures,
    learning_rate_factor,
    lost_share,
    mfu,
    muon_relative_cost,
    muon_weight_decay,
    power_lines_batch_tokens,
    steps_and_tokens,
    train_seconds,
)
from pipeline_math.step_time import step_terms, training_step_seconds

WRITE_SECONDS = 2.0
"""Chosen for the example: writing a checkpoint of a small model."""
SECONDS_BETWEEN_FAILURES = 86400.0
"""Chosen for the example: one failure a day."""
RESTART_SECONDS = 120.0
"""Chosen for the example: notice a failure, start again."""
EAGER_INTERVAL_SECONDS = 30.0
"""Chosen for the example: somebody saves far too often."""
TIMED_STEPS = 20
"""Chosen for the example: steps timed before the rest is forecast."""
TIMED_MFU = 0.42
"""Chosen for the example: what those steps reached."""
TIMED_LOG_SD = 0.005
"""Chosen for the example: spread of those steps, as standard deviation of the logarithm."""
SMALL_BATCH_TOKENS = 65536
"""Chosen for the example: a batch far below the critical one."""
EXAMPLE_LOSS = 3.28
"""Chosen for the example: nats per token, GPT-2 124M on web text."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    tables = {"parts": _parts(), "classes": mfu_classes(), "targets": _targets()}
    return _own() | public_run() | _batch() | _failures() | _learning() | tables | ledger_values("pretrain", "midtrain")


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_05.{name}", unit)


def _own() -> dict[str, Number | Table]:
    shape, hardware = recorded_shape("pretrain"), recorded_hardware("pretrain")
    flops = compute(shape_train_flops_per_token, shape, unit="FLOP/token")
    speed = measured("pretrain", "tokens_per_second")
    peak = compute(Hardware.peak_flops, hardware, unit="FLOP/s")
    batch, rows = (amount("pretrain", name, "step_seconds") for name in ("batch_tokens", "micro_batch_rows"))
    return {
        "own_flops": flops,
        "own_speed": speed,
        "own_peak": peak,
        "own_mfu": compute(mfu, speed, flops, _devices(), peak, unit="share"),
        "own_batch": batch,
        "own_passes": compute(accumulation_steps, batch, rows, shape.tokens_per_row, _devices(), unit=""),
        "own_step": compute(training_step_seconds, hardware, shape, batch, rows, _devices(), unit="s"),
        "own_measured": measured("pretrain", "step_seconds"),
    }


def _devices() -> Number:
    return amount("pretrain", "devices", "step_seconds")


def _parts() -> Table:
    """The terms of the example step with the constants of its class before any calibration."""
    shape, hardware = recorded_shape("pretrain"), recorded_hardware("pretrain")
    batch, rows = (amount("pretrain", name, "step_seconds") for name in ("batch_tokens", "micro_batch_rows"))
    given = (hardware, shape, batch, rows, _devices())
    names = step_terms(hardware, shape, batch.value, rows.value, int(_devices().value))
    step = compute(training_step_seconds, *given, unit="s")
    lines: list[list[Cell]] = []
    for name in names:
        path = f"constants.CONSTANTS.{hardware.kind}.{name}"
        unit = "" if name.endswith(("calls", "once")) else "s"
        term = compute(step_terms, *given, pick=name, unit=unit)
        factor = constant(path, "" if unit else "s")
        seconds = times(term, factor, "s")
        lines.append([f"`{name}`", term, factor, seconds, Shown(over(seconds, step, "share"), ".2g")])
    return Table(("term", "amount at full speed", "constant", "seconds", "share"), lines)


def _batch() -> dict[str, Number | Table]:
    d12, tokens = examples.D12, published("D12_TRAIN_TOKENS")
    d26 = shape_of_depth(26, examples.VOCABULARY, examples.ROW)
    ratio = constant("loss_law.BEST_RATIO", "")
    d26_tokens = times(ratio, compute(scaling_parameters, d26, unit="parameters"), "tokens")
    large = constant("pretrain_step.BATCH_AT_REFERENCE", "tokens")
    small = _chosen("SMALL_BATCH_TOKENS", "tokens")
    critical = compute(critical_batch_tokens, _chosen("EXAMPLE_LOSS", ""), unit="tokens")
    extra = [
        compute(steps_and_tokens, batch, critical, 1.0, pick=place, unit="")
        for batch in (small, large)
        for place in (0, 1)
    ]
    return {
        "batch_exponent": constant("pretrain_step.BATCH_EXPONENT", ""),
        "batch_reference": large,
        "batch_small": small,
        "batch_d26": compute(power_lines_batch_tokens, d26_tokens, unit="tokens"),
        "d26_tokens": d26_tokens,
        "loss": _chosen("EXAMPLE_LOSS", "nats/token"),
        "critical": critical,
        "muon_large": compute(muon_relative_cost, d12.d_model, d12.d_model, large, unit="share"),
        "muon_small": compute(muon_relative_cost, d12.d_model, d12.d_model, small, unit="share"),
        "lr_square_root": compute(learning_rate_factor, small, unit=""),
        "lr_small": compute(bounded_learning_rate_factor, small, unit=""),
        "lr_least": constant("pretrain_step.LEAST_LEARNING_RATE_FACTOR", ""),
        "weight_decay": compute(muon_weight_decay, large, tokens, unit=""),
        "steps_small": extra[0],
        "tokens_small": over(extra[1], critical, ""),
        "steps_large": extra[2],
        "tokens_large": over(extra[3], critical, ""),
    }


def _failures() -> dict[str, Number | Table]:
    write, between = _chosen("WRITE_SECONDS", "s"), _chosen("SECONDS_BETWEEN_FAILURES", "s")
    interval = compute(checkpoint_interval_seconds, write, between, unit="s")
    restart, run = _chosen("RESTART_SECONDS", "s"), published("D24_SECONDS")
    wall = compute(expected_seconds_with_failures, run, interval, write, restart, between, unit="s")
    return {
        "write": write,
        "between": between,
        "interval": interval,
        "lost": compute(lost_share, write, interval, between, unit="share"),
        "restart": restart,
        "delay": change(wall, run),
    }


def _learning() -> dict[str, Number | Table]:
    prior, spread = (constant(f"hardware.HARDWARE.h100.{name}", "") for name in ("mfu", "mfu_log_sd"))
    given = (prior, spread, _chosen("TIMED_MFU", ""), _chosen("TIMED_LOG_SD", ""), _chosen("TIMED_STEPS", ""))
    after = compute(log_posterior, *given, pick=0, unit="share")
    left = compute(log_posterior, *given, pick=1, unit="")
    return {
        "timed": _chosen("TIMED_STEPS", "steps"),
        "timed_mfu": _chosen("TIMED_MFU", "share"),
        "prior": constant("hardware.HARDWARE.h100.mfu", "share"),
        "prior_spread": spread,
        "posterior": after,
        "posterior_spread": left,
    }


def own_tokens_per_second(hardware: Hardware, shape: ModelShape, batch_tokens: int, micro_batch_rows: int) -> float:
    """Batch over `step_time.training_step_seconds`, tokens/s of one device."""
    return batch_tokens / training_step_seconds(hardware, shape, batch_tokens, micro_batch_rows)


def _targets() -> Table:
    hardware, shape = recorded_hardware("pretrain"), recorded_shape("pretrain")
    batch = int(amount("pretrain", "batch_tokens", "step_seconds").value)
    rows = int(amount("pretrain", "micro_batch_rows", "step_seconds").value)

    def speed(**changed: int) -> Number:
        other = ModelShape(**(vars(shape) | {name: n for name, n in changed.items() if hasattr(shape, name)}))
        given = (hardware, other, changed.get("batch_tokens", batch), changed.get("rows", rows))
        return compute(own_tokens_per_second, *given, unit="tokens/s")

    now = speed()
    h100 = HARDWARE["h100"].peak_flops()
    seconds = [
        compute(train_seconds, published("D24_TRAIN_FLOPS"), 8, h100, share, unit="s")
        for share in (constant("hardware.HARDWARE.h100.mfu", "share"), published("D24_MFU"))
    ]
    price = HARDWARE["h100"].usd_per_hour
    usd = [compute(cost_usd, spent, 8, price, unit="USD") for spent in seconds]
    muon = [
        compute(muon_relative_cost, examples.D12.d_model, examples.D12.d_model, size, unit="share")
        for size in (SMALL_BATCH_TOKENS, published("D12_BATCH_TOKENS"))
    ]
    write, between = _chosen("WRITE_SECONDS", "s"), _chosen("SECONDS_BETWEEN_FAILURES", "s")
    best = compute(checkpoint_interval_seconds, write, between, unit="s")
    lost = [
        compute(lost_share, write, interval, between, unit="share")
        for interval in (_chosen("EAGER_INTERVAL_SECONDS", "s"), best)
    ]
    return levers(
        (
            ("example run: double the batch", "compute", now, speed(batch_tokens=2 * batch)),
            ("example run: half the micro-batch", "latency", now, speed(rows=max(1, rows // 2))),
            ("example run: half the vocabulary", "bandwidth", now, speed(vocab_size=shape.vocab_size // 2)),
            (
                "example run: half the row",
                "compute",
                now,
                speed(tokens_per_row=shape.tokens_per_row // 2, rows=2 * rows),
            ),
            ("d24 on eight H100: MFU from the prior to the published run", "compute", seconds[0], seconds[1]),
            ("the same in rent", "compute", usd[0], usd[1]),
            ("d12: Muon's share, small to reference batch", "compute", muon[0], muon[1]),
            ("save at the Young-Daly interval (time lost)", "io", lost[0], lost[1]),
        )
    )
