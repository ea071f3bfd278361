"""Command line: `solve` for a plan, `what-if` for the difference of two, `hardware` for the device classes."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from pipeline_math.constants import knows_all
from pipeline_math.constraints import what_binds, what_more_buys
from pipeline_math.forecast import Calibration
from pipeline_math.hardware import AUTO, HARDWARE, find_hardware, hardware_from_probe
from pipeline_math.hardware_table import GIB, Hardware
from pipeline_math.layouts import DEFAULT, RESEARCH
from pipeline_math.loss_law import BEST_RATIO
from pipeline_math.plan import make_plan
from pipeline_math.plan_text import plan_text
from pipeline_math.scaled_work import MIDTRAIN_SHARE, SFT_SHARE, ScaledWork, tokens_of_raw_bytes
from pipeline_math.target_budget import Goal, solve
from pipeline_math.what_if import what_if_text

LAYOUTS = {"default": DEFAULT, "research": RESEARCH}
MOST_GIB = 10_000
"""Memory of one device above this is taken for a number of bytes."""
WHAT_IF_HELP = "options of `solve` in quotes, or a file written by `solve --json`"


class _Parser(argparse.ArgumentParser):
    """Raises ValueError instead of ending the program, so that plans inside quotes are refused like any other input."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.prog}: {message}; next: {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m pipeline_math", description="Predict a run before starting it.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_solve_options(commands.add_parser("solve", help="hours and hardware -> the best plan and what it costs"))
    difference = commands.add_parser("what-if", help="the difference of two plans")
    difference.add_argument("first", metavar="A", help=WHAT_IF_HELP)
    difference.add_argument("second", metavar="B", help="likewise")
    commands.add_parser("hardware", help="the device classes and their constants")
    return parser


def _add_solve_options(solving: argparse.ArgumentParser) -> None:
    add = solving.add_argument
    add("--hours", type=float, required=True, help="wall clock of all stages together")
    add("--hardware", required=True, help=f"{', '.join(HARDWARE)}, or {AUTO}: the machine in --probe")
    add("--probe", metavar="FILE", default="ledger/hardware.json", help="what this machine was measured to do")
    add("--calibration", metavar="FILE", help="constants learnt from runs, such as ledger/calibration.json")
    add("--devices", type=int, default=1, help="devices of that class in one machine")
    add("--vram", type=float, metavar="GIB", help="memory of one device; the class's when absent")
    add("--mfu", type=float, help="share of peak training reaches; the class's prior when absent")
    add("--depth", type=int, help="layers; chosen when absent")
    add("--layout", choices=LAYOUTS, default="default", help="research: value embeddings and windowed attention")
    add("--tokens-per-row", type=int, default=2048, help="context length")
    add("--vocab-size", type=int, default=32768)
    add("--batch-tokens", type=int, help="tokens per optimizer step; chosen when absent")
    add("--micro-batch-rows", type=int, help="rows per device and pass; chosen when absent")
    add("--ratio", type=float, default=BEST_RATIO, help="wanted tokens per parameter of blocks and head")
    add("--train-tokens", type=int, help="tokens of pretraining; as many as the hours allow when absent")
    add("--unique-tokens", type=float, help="distinct training tokens there are; repeats teach less")
    add("--corpus-bytes", type=float, help="raw text there is, in bytes; as much as needed when absent")
    add("--midtrain-share", type=float, default=MIDTRAIN_SHARE, help="tokens of midtraining over pretraining's")
    add("--sft-share", type=float, default=SFT_SHARE, help="tokens of fine-tuning over pretraining's")
    add("--ttft-ms", type=float, help="most milliseconds to the first token of a reply")
    add("--tpot-ms", type=float, help="most milliseconds per further token")
    add("--prompt-tokens", type=int, default=512, help="length of the prompt these two are about")
    add("--price", type=float, metavar="USD", help="of one device for an hour; the class's when absent")
    add("--target-bpb", type=float, help="bits per byte wanted; warns when they are not expected")
    time = solving.add_mutually_exclusive_group()
    time.add_argument("--pretrain-only", action="store_true", help="all hours are for pretraining")
    time.add_argument("--pretrain-share", type=float, help="share of the hours for pretraining")
    add("--json", action="store_true", help="print JSON, for `what-if` and for programs")


def _hardware(options: argparse.Namespace) -> Hardware:
    if options.hardware != AUTO:
        return find_hardware(options.hardware)
    return hardware_from_probe(_json_file("--probe", options.probe))


def _calibration(options: argparse.Namespace) -> Calibration | None:
    """The only calibration of the device class in the file; None when no file is named."""
    if options.calibration is None:
        return None
    hardware = _hardware(options)
    name = hardware.name
    content = _json_file("--calibration", options.calibration)
    fitting = [own[name] for own in content.values() if isinstance(own, dict) and name in own]
    if len(fitting) != 1:
        raise ValueError(
            f"--calibration {options.calibration}: {len(fitting)} machines of class {name}; allowed is one"
        )
    calibration = Calibration.from_json(fitting[0])
    if not knows_all(calibration, hardware):
        raise ValueError(
            f"--calibration {options.calibration}: learnt by another version, with other constants for {name}; "
            f"next: make calibrate"
        )
    return calibration


def _json_file(option: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{option} {name}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{option} {name}: a {type(content).__name__}; allowed is an object of named values")
    return content


def _memory_bytes(options: argparse.Namespace) -> float | None:
    if options.vram is None:
        return None
    if options.vram > MOST_GIB:
        raise ValueError(f"--vram={options.vram:g}: allowed are GiB up to {MOST_GIB:,}; is this a number of bytes?")
    return float(options.vram * GIB)


def _goal(options: argparse.Namespace) -> Goal:
    hardware = _hardware(options)
    unique = options.unique_tokens
    if options.corpus_bytes is not None:
        there_are = tokens_of_raw_bytes(options.corpus_bytes, hardware.kind)
        unique = there_are if unique is None else min(unique, there_are)
    return Goal(
        hours=options.hours,
        hardware=hardware,
        devices=options.devices,
        tokens_per_row=options.tokens_per_row,
        vocab_size=options.vocab_size,
        ratio=options.ratio,
        depth=options.depth,
        train_tokens=options.train_tokens,
        pretrain_share=1.0 if options.pretrain_only else options.pretrain_share,
        mfu=options.mfu,
        unique_tokens=unique,
        batch_tokens=options.batch_tokens,
        micro_batch_rows=options.micro_batch_rows,
        memory_bytes=_memory_bytes(options),
        ttft_seconds=None if options.ttft_ms is None else options.ttft_ms / 1000.0,
        tpot_seconds=None if options.tpot_ms is None else options.tpot_ms / 1000.0,
        prompt_tokens=options.prompt_tokens,
    )


def _solved(options: argparse.Namespace) -> dict[str, Any]:
    """Decisions, forecast and limits of the plan for these options."""
    work = ScaledWork(options.corpus_bytes, options.midtrain_share, options.sft_share)
    known = _calibration(options)
    found = solve(_goal(options), LAYOUTS[options.layout], work=work.of, calibration=known)
    plan = make_plan(found, work.of(found), known, options.price, options.target_bpb)
    limits = {"binding": what_binds(found, work.of, known), "more": what_more_buys(found, work.of, known)}
    return plan | {"limits": {name: [gain.as_dict() for gain in gains] for name, gains in limits.items()}}


def _plan_of(text: str) -> dict[str, Any]:
    """A plan out of a JSON file or of quoted options."""
    if not text.lstrip().startswith("-"):
        if not Path(text).is_file():
            raise ValueError(f"what-if: {text!r} is no file; allowed: {WHAT_IF_HELP}")
        plan = _json_file("what-if", text)
        if not {"decisions", "forecast"} <= set(plan):
            raise ValueError(f"what-if: {text} has no decisions and forecast; next: write it with `solve --json`")
        return plan
    return _solved(_parser().parse_args(["solve", *shlex.split(text)]))


def _hardware_text() -> str:
    rows = ["name           peak bf16     memory  bandwidth   watts  USD/h   MFU"]
    for device in HARDWARE.values():
        rows.append(
            f"{device.name:14} {device.peak_flops() / 1e12:8.2f} TF {device.memory_bytes / GIB:5.0f} GiB "
            f"{device.bandwidth_bytes_per_second / 1e9:6.0f} GB/s {device.watts:6.0f} {device.usd_per_hour:6.2f} "
            f"{device.mfu:5.0%} +-{device.mfu_log_sd:.0%}"
        )
    return "\n".join(rows) + "\n"


def _output(options: argparse.Namespace) -> str:
    if options.command == "hardware":
        return _hardware_text()
    if options.command == "what-if":
        return what_if_text(_plan_of(options.first), _plan_of(options.second))
    plan = _solved(options)
    return json.dumps(plan, indent=2) + "\n" if options.json else plan_text(plan)


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2 and a message on stderr for values that make no plan."""
    try:
        sys.stdout.write(_output(_parser().parse_args(argv)))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
