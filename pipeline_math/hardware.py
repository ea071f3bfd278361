"""Which device a plan is made for: a class of the table, or this machine as a probe measured it ("auto").

The table and its conventions are in `hardware_table.py`. A probe is a flat mapping of plain numbers and words, made by
`model/machine_probe.py`; `hardware_from_probe` turns it into the same `Hardware` a class is.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from pipeline_math.hardware_table import CLASSES, Hardware

HARDWARE: dict[str, Hardware] = {hardware.name: hardware for hardware in CLASSES}
"""Device classes by the name a plan uses for them."""

AUTO = "auto"
"""Name of the device that a probe describes."""

MATMUL_CEILING_SHARE = 0.803
"""Best measured share of the bf16 peak of a plain matrix product on H100/H200 (stas00/ml-engineering): no MFU above."""

USABLE_MAIN_MEMORY_SHARE = 0.75
"""Part of a CPU's main memory for one training process. ASSUMPTION: the rest is for the system and other stages."""

UNKNOWN_GPU_MFU = 0.57
"""MFU in units of the *measured* product rate: h100's 0.46 of the vendor's peak over MATMUL_CEILING_SHARE."""
UNKNOWN_GPU_MFU_LOG_SD = 0.30
NOISY_LOG_SD = 0.20
"""ASSUMPTION: what other load during the probe adds to the uncertainty of its rates."""

_DEVICE_NAMES = (
    (r"(?:GeForce )?RTX (3090|4090|5090)", r"rtx\1"),
    (r"A100[- ](?:SXM\d?|PCIE?)-40GB", "a100-40gb"),
    (r"A100[- ](?:SXM\d?|PCIE?)-80GB|A100 80GB PCIe", "a100"),
    (r"H100(?: SXM\d?)? 80GB(?: HBM\d\w?)?", "h100"),
    (r"H100 PCIe", "h100-pcie"),
    (r"H200", "h200"),
    (r"B200", "b200"),
)
_PROBE = "the probe of this machine"
_NEXT = "next: delete ledger/hardware.json and run the budget stage again, or name a class in budget.hardware"
_RANGES = {  # anything outside is a damaged file, not a machine
    "fp32_flops_per_second": (1e8, 1e17),
    "tf32_flops_per_second": (1e8, 1e17),
    "bf16_flops_per_second": (1e8, 1e18),
    "fp16_flops_per_second": (1e8, 1e18),
    "fp8_flops_per_second": (1e8, 1e18),
    "copy_bytes_per_second": (1e7, 1e14),
    "disk_write_bytes_per_second": (1e3, 1e12),
    "disk_read_bytes_per_second": (1e3, 1e12),
    "memory_bytes": (2**27, 2**50),
}
_REQUIRED = ("fp32_flops_per_second", "copy_bytes_per_second", "memory_bytes")


def find_hardware(name: str) -> Hardware:
    """The device class of that name; ValueError that lists the known ones."""
    if name == AUTO:
        raise ValueError("hardware 'auto' is no class: it is made from a probe; next: `python -m tasks._machine`")
    if name not in HARDWARE:
        raise ValueError(f"hardware {name!r} is unknown; allowed: {', '.join(HARDWARE)}")
    return HARDWARE[name]


def class_of_device(device_name: str) -> Hardware | None:
    """The class of a GPU by the name its driver gives it; None for variants the table does not hold.

    "NVIDIA H100 80GB HBM3" is h100. Laptop, D, Ti and NVL variants and slices of a GPU (MIG) are no class: their peaks
    differ.
    """
    words = " ".join(device_name.split()).removeprefix("NVIDIA ")
    for pattern, name in _DEVICE_NAMES:
        match = re.fullmatch(pattern, words, re.IGNORECASE)
        if match:
            return HARDWARE[match.expand(name)]
    return None


def nearest_class(hardware: Hardware) -> Hardware:
    """The class of the same kind whose peak, at the precision training uses, is closest in ratio.

    A class without units for that precision is considered only if no other is left.
    """
    precision = hardware.precision()
    same_kind = [device for device in CLASSES if device.kind == hardware.kind]
    candidates = [device for device in same_kind if device.precision() == precision] or same_kind
    return min(candidates, key=lambda device: abs(math.log(device.peak_flops() / hardware.peak_flops())))


def hardware_from_probe(values: Mapping[str, float | str]) -> Hardware:
    """The probed machine as `Hardware` named "auto"; ValueError for values that no machine has.

    A GPU the table knows is its class with the memory found: the MFU prior is a share of the vendor's peak, so the peak
    stays the vendor's, and the measured product rate only bounds the share from above. Every other device has the
    measured peaks and bandwidth; price, power and, on a CPU, the MFU prior are those of the nearest class.
    Needs kind, memory_bytes, fp32_flops_per_second and copy_bytes_per_second; other precisions, disk, device_name and
    noisy where they are known. Left out: devices of one machine that differ from each other.
    """
    kind = values.get("kind")
    if kind not in ("cpu", "gpu"):
        raise ValueError(f"{_PROBE}: kind={kind!r}: allowed are cpu and gpu; {_NEXT}")
    rates = {name: _number(values, name) for name in _RANGES if name in values or name in _REQUIRED}
    found = _as_measured(str(kind), rates)
    known = class_of_device(str(values.get("device_name", ""))) if kind == "gpu" else None
    nearest = known or nearest_class(found)
    if known is not None:
        share = found.peak_flops("bf16") / known.peak_flops() if found.peak_flops_bf16 else 1.0
        found = replace(
            known,
            name=AUTO,
            memory_bytes=found.memory_bytes,
            disk_write_bytes_per_second=found.disk_write_bytes_per_second,
            disk_read_bytes_per_second=found.disk_read_bytes_per_second,
            mfu=min(known.mfu, share),
            source=f"class {known.name}" + f"; a plain product reached {share:.0%} of its peak" * (share != 1.0),
        )
    else:
        found = replace(
            found,
            watts=nearest.watts,
            usd_per_hour=nearest.usd_per_hour,
            mfu=nearest.mfu if kind == "cpu" else UNKNOWN_GPU_MFU,
            mfu_log_sd=nearest.mfu_log_sd if kind == "cpu" else UNKNOWN_GPU_MFU_LOG_SD,
            source=f"peaks and bandwidth measured; power, price{' and MFU' * (kind == 'cpu')} of {nearest.name}",
        )
    if values.get("noisy"):
        wider = math.hypot(found.mfu_log_sd, NOISY_LOG_SD)
        found = replace(found, mfu_log_sd=wider, source=found.source + "; probed while other work ran")
    return found


def _as_measured(kind: str, rates: Mapping[str, float]) -> Hardware:
    """The probe's own numbers; power, price and MFU are still to be filled in."""
    bf16 = rates.get("bf16_flops_per_second")
    fp32 = rates["fp32_flops_per_second"]
    return Hardware(
        name=AUTO,
        kind=kind,
        peak_flops_fp32=fp32,
        peak_flops_tf32=rates.get("tf32_flops_per_second"),
        peak_flops_bf16=bf16 if bf16 and bf16 > fp32 else None,
        peak_flops_fp16=rates.get("fp16_flops_per_second"),
        peak_flops_fp8=rates.get("fp8_flops_per_second"),
        memory_bytes=rates["memory_bytes"] * (USABLE_MAIN_MEMORY_SHARE if kind == "cpu" else 1.0),
        bandwidth_bytes_per_second=rates["copy_bytes_per_second"],
        disk_write_bytes_per_second=rates.get("disk_write_bytes_per_second"),
        disk_read_bytes_per_second=rates.get("disk_read_bytes_per_second"),
        watts=0.0,
        usd_per_hour=0.0,
        mfu=1.0,
        mfu_log_sd=0.0,
        source="",
    )


def _number(values: Mapping[str, float | str], name: str) -> float:
    low, high = _RANGES[name]
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{_PROBE}: {name}={value!r}: allowed are numbers from {low:g} to {high:g}; {_NEXT}")
    return float(value)
