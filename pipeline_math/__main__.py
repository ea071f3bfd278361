"""Command line: `python -m pipeline_math plan --hours 24 --hardware rtx4090`, `python -m pipeline_math hardware`."""

import argparse
import json
import sys

from pipeline_math.hardware import HARDWARE, find_hardware
from pipeline_math.loss_law import BEST_RATIO
from pipeline_math.plan import make_plan, plan_markdown
from pipeline_math.stage_seconds import Workload
from pipeline_math.target_budget import Goal, solve


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline_math", description="Predict a run before starting it.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="hours and hardware -> depth, tokens, batch, time, memory, cost, loss")
    plan.add_argument("--hours", type=float, required=True, help="wall clock of the whole pipeline")
    plan.add_argument("--hardware", required=True, help=", ".join(HARDWARE))
    plan.add_argument("--devices", type=int, default=1)
    plan.add_argument("--tokens-per-row", type=int, default=2048)
    plan.add_argument("--vocab-size", type=int, default=32768)
    plan.add_argument("--ratio", type=float, default=BEST_RATIO, help="training tokens per scaling parameter")
    plan.add_argument("--depth", type=int, help="layers; chosen when absent")
    plan.add_argument("--mfu", type=float, help="share of peak; the class's prior when absent")
    plan.add_argument("--unique-tokens", type=float, help="distinct training tokens there are")
    plan.add_argument("--pretrain-share", type=float, default=0.8, help="share of the hours for pretraining")
    plan.add_argument("--corpus-bytes", type=float, default=1.0e9, help="raw text read by the corpus stage")
    plan.add_argument("--usd-per-hour", type=float, help="price of one device")
    plan.add_argument("--json", action="store_true", help="print plan.json instead of Markdown")
    commands.add_parser("hardware", help="the device classes and their constants")
    return parser.parse_args(argv)


def _plan_text(arguments: argparse.Namespace) -> str:
    goal = Goal(
        hours=arguments.hours,
        hardware=find_hardware(arguments.hardware),
        devices=arguments.devices,
        tokens_per_row=arguments.tokens_per_row,
        vocab_size=arguments.vocab_size,
        ratio=arguments.ratio,
        depth=arguments.depth,
        pretrain_share=arguments.pretrain_share,
        mfu=arguments.mfu,
        unique_tokens=arguments.unique_tokens,
    )
    found = solve(goal)
    # Chat training is planned as a share of pretraining: 5 % and 8 % of its tokens.
    work = Workload(
        corpus_bytes=arguments.corpus_bytes,
        midtrain_tokens=found.train_tokens // 20,
        sft_tokens=found.train_tokens // 12,
        chat_batch_tokens=found.batch_tokens,
    )
    plan = make_plan(found, work, arguments.usd_per_hour)
    return json.dumps(plan, indent=2) + "\n" if arguments.json else plan_markdown(plan)


def _hardware_text() -> str:
    rows = ["name           peak bf16    memory  bandwidth   watts  USD/h   MFU"]
    for device in HARDWARE.values():
        rows.append(
            f"{device.name:14} {device.peak_flops() / 1e12:7.2f} TF {device.memory_bytes / 1024**3:5.0f} GiB "
            f"{device.bandwidth_bytes_per_second / 1e9:6.0f} GB/s {device.watts:6.0f} {device.usd_per_hour:6.2f} "
            f"{device.mfu:5.0%} +-{device.mfu_log_sd:.0%}"
        )
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2 and a message on stderr for values that make no plan."""
    arguments = _arguments(argv)
    try:
        sys.stdout.write(_hardware_text() if arguments.command == "hardware" else _plan_text(arguments))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
