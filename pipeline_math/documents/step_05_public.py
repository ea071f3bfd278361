"""Public runs in 05_pretrain_step_math.md: what others measured, by the functions of this package."""

import math

from pipeline_math.documents import examples
from pipeline_math.documents.examples import published
from pipeline_math.documents.number import Number, compute, constant, over
from pipeline_math.documents.table import Cell, Shown, Table
from pipeline_math.hardware_table import PUBLISHED_MFU
from pipeline_math.interval import lognormal_interval
from pipeline_math.layouts import sssl_windows, useful_keys
from pipeline_math.model_flops_vram import windowed_flops_per_token
from pipeline_math.pretrain_step import mfu, train_seconds

CLASSES = ("rtx4090", "a100", "h100")
"""Device classes with published shares of peak."""


def public_run() -> dict[str, Number | Table]:
    """A published d24 timed by formula, and one published d12 under three conventions."""
    d12 = examples.D12
    windows = sssl_windows(d12.n_layers, d12.tokens_per_row)
    speed = over(published("D12_BATCH_TOKENS"), published("D12_STEP_SECONDS"), "tokens/s")
    peak = constant("hardware.HARDWARE.h100.peak_flops_bf16", "FLOP/s")
    lines: list[list[Cell]] = []
    for name, keys in (
        ("windows in full", [float(window) for window in windows]),
        ("windows, causal half", useful_keys(windows, d12.tokens_per_row)),
        ("full attention, not what ran", [float(d12.tokens_per_row)] * d12.n_layers),
    ):
        flops = compute(windowed_flops_per_token, d12, keys, unit="FLOP/token")
        lines.append([name, Shown(flops, ".4g"), compute(mfu, speed, flops, 1, peak, unit="share")])
    return {
        "d24_flops": published("D24_TRAIN_FLOPS"),
        "d24_devices": published("D24_DEVICES"),
        "d24_mfu": published("D24_MFU"),
        "d24_seconds": compute(
            train_seconds, published("D24_TRAIN_FLOPS"), published("D24_DEVICES"), peak, published("D24_MFU"), unit="s"
        ),
        "d24_published": published("D24_SECONDS"),
        "d12_speed": speed,
        "h100_peak": peak,
        "conventions": Table(("F counts", "F", "MFU of the same run"), lines),
    }


def mfu_classes() -> Table:
    """Published shares of peak by device class, and the priors made of them."""
    lines: list[list[Cell]] = []
    for name in CLASSES:
        prior = constant(f"hardware.HARDWARE.{name}.mfu", "share")
        spread = constant(f"hardware.HARDWARE.{name}.mfu_log_sd", "")
        bounds = [compute(lognormal_interval, prior, spread, pick=end, unit="share") for end in ("low", "high")]
        least, most = (compute(published_mfu, name, index, unit="share") for index in (0, -1))
        mean = compute(geometric_mean_mfu, name, unit="share")
        lines.append(
            [f"`{name}`", Shown(compute(published_runs, name, unit=""), ","), least, most, mean, prior, *bounds]
        )
    header = ("class", "published runs", "least", "most", "geometric mean", "prior", "90 % from", "to")
    return Table(header, lines)


def published_mfu(name: str, place: int) -> float:
    """A published share of peak of a device class, by place in ascending order."""
    return sorted(value for value, _ in PUBLISHED_MFU[name])[place]


def published_runs(name: str) -> int:
    """Published shares of peak of a device class."""
    return len(PUBLISHED_MFU[name])


def geometric_mean_mfu(name: str) -> float:
    """Geometric mean of the published shares of peak of a device class."""
    return math.exp(math.fsum(math.log(value) for value, _ in PUBLISHED_MFU[name]) / published_runs(name))
