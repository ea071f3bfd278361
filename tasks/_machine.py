"""Which machine this is, in words, and what it does per second: `hardware: auto` of the budget.

The fingerprint is read from the system, without torch, in milliseconds. The probe (model/machine_probe.py, under three
seconds with the import of torch) is stored and used again while fingerprint and torch stay the same: a repeated plan on
one machine is the same plan, byte for byte.
`python -m tasks._machine` prints the stored probe, and makes it first where there is none.
Limits: two virtual machines of one type look alike; with several GPUs the first is measured.
"""

import argparse
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline_math.hardware import class_of_device, hardware_from_probe, nearest_class
from tasks._devices import gpu_names, memory_bytes, processor, usable_cores, widest_features
from tasks._errors import StageError
from tasks._files import write_json

STORE = Path("ledger/hardware.json")
SECONDS_LIMIT = 2.4
"""For the import of torch and the probe together: less than three, so that the process around it fits as well."""
_LEAST_PROBE_SECONDS = 0.8
_AGAIN = "python -m tasks._machine --again"
_SHOWN = [f"{precision}_flops_per_second" for precision in ("fp32", "tf32", "bf16", "fp16", "fp8")]
_SHOWN += [f"{what}_bytes_per_second" for what in ("copy", "disk_write", "disk_read")]
Values = dict[str, float | str]


def fingerprint() -> str:
    """The machine in words: "2 x Intel Xeon Processor (avx512_bf16, amx)", GPUs first where there are any."""
    gpus = [f"{count} x {name}" for name, count in Counter(gpu_names()).items()]
    name, flags = processor()
    features = widest_features(flags)
    return " + ".join([*gpus, f"{usable_cores()} x {name}" + (f" ({', '.join(features)})" if features else "")])


def probed(store: Path, note: Callable[[str], None] | None = None, again: bool = False) -> Values:
    """The probe of this machine: the stored one if it is of this machine and this torch, else a new one, stored.

    The values are those `pipeline_math.hardware.hardware_from_probe` reads, with "machine" and "torch". A stored probe
    that is damaged or of another machine is replaced, and `note` (default: stderr) says so. `again` measures anyway.
    """
    note = note or _to_stderr
    machine, torch_version = fingerprint(), _torch_version()
    stored = None if again else _stored(store, note)
    if stored is not None:
        if (stored.get("machine"), stored.get("torch")) == (machine, torch_version):
            if stored.get("noisy"):
                note(f"{store} was measured while other work ran; next, on a quiet machine: `{_AGAIN}`")
            return stored
        note(f"{store} is of {stored.get('machine')}, torch {stored.get('torch')}; this machine is probed anew")
    values = {"machine": machine, "torch": torch_version, **_probe(store.parent)}
    hardware_from_probe(values)  # never store what the budget would refuse
    write_json(store, values)
    return values


def _probe(folder: Path) -> Values:
    started = time.perf_counter()
    from model.machine_probe import probe  # torch: only where it is needed

    folder.mkdir(parents=True, exist_ok=True)
    import_seconds = time.perf_counter() - started
    found = probe(folder, max(_LEAST_PROBE_SECONDS, SECONDS_LIMIT - import_seconds), threads=usable_cores())
    values: Values = {**found.values(), "import_seconds": round(import_seconds, 2)}
    if found.kind == "cpu":
        memory = memory_bytes()
        if memory is None:
            raise StageError(
                f"the main memory of this machine ({platform.system()}) is unknown; allowed for `auto`: Linux, macOS; "
                f"next: name a class in budget.hardware"
            )
        values["memory_bytes"] = memory
    return values


def _stored(store: Path, note: Callable[[str], None]) -> Values | None:
    if not store.exists():
        return None
    try:
        values = json.loads(store.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__} instead of an object")
        hardware_from_probe(values)
    except ValueError as error:
        note(f"{store} is damaged ({error}); this machine is probed anew")
        return None
    return values


def _torch_version() -> str:
    """As installed, with its build ("2.13.0+cpu"): another build may have other kernels."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def describe(values: Mapping[str, float | str]) -> str:
    """The probe as a table, with the class it is closest to."""
    found = hardware_from_probe(values)
    nearest = class_of_device(str(values.get("device_name", ""))) or nearest_class(found)
    peers: dict[str, float | None] = {f"{p}_flops_per_second": peak for p, peak in nearest.peaks().items()}
    peers["copy_bytes_per_second"] = nearest.bandwidth_bytes_per_second
    lines = [f"{values.get('machine')}, torch {values.get('torch')}, {values.get('threads')} threads", ""]
    lines.append(f"{'measured':12} {'rate':>14}  {'spread':>6}  {'class ' + nearest.name:>20}")
    for name in (name for name in _SHOWN if name in values):
        what, _, unit = name.removesuffix("_per_second").rpartition("_")
        scale, symbol = (1e12, "TFLOP/s") if unit == "flops" else (1e9, "GB/s")
        peer, spread = peers.get(name), float(values.get(f"{name}_spread", 1.0))
        rate, shown = f"{float(values[name]) / scale:,.2f} {symbol}", f"{peer / scale:,.2f} {symbol}" if peer else "-"
        lines.append(f"{what.replace('_', ' '):12} {rate:>14}  {spread:6.2f}  {shown:>20}")
    seconds = float(values.get("probe_seconds", 0.0)), float(values.get("import_seconds", 0.0))
    lines += [
        "",
        f"memory for a plan  {found.memory_bytes / 1024**3:.1f} GiB",
        f"nearest class      {nearest.name}",
        f"a plan takes       MFU {found.mfu:.1%}, {found.watts:g} W, {found.usd_per_hour:g} USD/h: {found.source}",
        f"seconds taken      {sum(seconds):.2f}, {seconds[1]:.2f} of them to import torch",
        f"other work ran     {f'yes; next, on a quiet machine: `{_AGAIN}`' if values.get('noisy') else 'no'}",
    ]
    if "left_out" in values:
        lines.append(f"left out           {values['left_out']}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the stored probe of this machine; 2 and a message for a machine that cannot be probed."""
    parser = argparse.ArgumentParser(prog="python -m tasks._machine", description=main.__doc__)
    parser.add_argument("--store", type=Path, default=STORE, help=f"where the probe is kept (default: {STORE})")
    parser.add_argument("--again", action="store_true", help="measure, whatever is stored; changes the plan of `auto`")
    arguments = parser.parse_args(argv)
    try:
        print(describe(probed(arguments.store, again=arguments.again)))
    except (StageError, ValueError, OSError) as error:
        _to_stderr(str(error))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
