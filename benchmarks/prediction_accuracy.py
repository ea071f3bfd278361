"""How right are the forecasts? Whole pipelines of random shapes and amounts, forecast before, measured after.

`python -m benchmarks.prediction_accuracy run --runs 22 --seed 1 --out DIR` runs them in a copy of the
repository (about a minute each on two cores; nothing else may run) and `... report --out DIR` prints the
table: forecasts with the constants of the device class alone, after one calibrating run (the first), and after all
earlier runs. Forecasts are made again for the report, from the amounts that each plan expected; measured values enter
only through the runs a calibration is allowed to know.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline_math.calibrate import calibrate
from pipeline_math.constants import noise_of, prior_of
from pipeline_math.forecast import Calibration
from pipeline_math.hardware import Hardware
from pipeline_math.interval import Interval
from pipeline_math.ledger import Row
from pipeline_math.stage_seconds import STAGE_ORDER, all_seconds, forecasts
from tasks._ledger import observations, rows

ROOT = Path(__file__).resolve().parents[1]
INTRODUCTION = """# How right are the forecasts? Random pipelines, forecast before and measured after

Printed by `python -m benchmarks.prediction_accuracy report`. Error: measured over forecast or its inverse, less 1.

{different} different pipelines on {machine}, class {hardware}; the first one calibrates, {again} repeat it.
Shapes, text, vocabulary, batches, tokens and benchmark sizes were drawn at random; an optimizer step took
{fastest:.0f} ms to {slowest:.0f} ms. The priors of the constants were fitted to seven other pipelines of this kind on
the same machine.
"""
EVAL_ROWS = 192
"""Held-out rows of a bits-per-byte measurement: its own error is then about one per cent."""
REPEAT = 1000
"""Seeds that differ by this number draw the same pipeline."""
BYTES_PER_TOKEN = {512: 1.95, 1024: 2.35, 2048: 2.8, 4096: 3.25}
"""Compression expected of a vocabulary on Python's documentation."""


def draw_parameters(seed: int) -> dict[str, Any]:
    """The pulse profile with random shape, text, batch, tokens and benchmark sizes; `workload` repeats them."""
    draw = random.Random(f"accuracy/{seed % REPEAT}")
    params = yaml.safe_load((ROOT / "profiles" / "pulse.yaml").read_text(encoding="utf-8"))
    tokens_per_row, vocab = draw.choice([192, 256, 384, 512]), draw.choice(sorted(BYTES_PER_TOKEN))
    d_model, depth = draw.choice([64, 128, 192, 256]), draw.choice([1, 2, 3, 4])
    heads = draw.choice([h for h in (1, 2, 3, 4) if d_model % h == 0 and d_model // h >= 32])
    rows_per_step = draw.choice([8, 16, 32])
    micro = draw.choice([m for m in (4, 8, 16) if m <= rows_per_step])
    package_bytes = int(10 ** draw.uniform(4.2, 5.6))
    corpus_bytes = 3.0e6 + 9.6e6 * (package_bytes / 3.0e5) ** 0.62  # documentation found below such a cap, roughly
    unique = corpus_bytes * 0.72 / BYTES_PER_TOKEN[vocab]
    train_tokens = int(min(10 ** draw.uniform(5.2, 6.3), unique, 3.0e6 / depth / (d_model / 64)))
    batch = rows_per_step * tokens_per_row
    chat_rows, chat_micro = draw.choice([(4, 4), (8, 4), (8, 8)])
    midtrain, sft = draw.randrange(12_000, 60_000), draw.randrange(12_000, 60_000)
    steps, prompts, samples, reply = draw.choice([0, 1, 2]), draw.choice([4, 8]), 4, draw.choice([16, 32])
    items = {"mc": draw.choice([8, 24]), "arithmetic": draw.choice([16, 64]), "form": draw.choice([4, 12])}
    eval_reply, bits_rows, new_tokens = draw.choice([16, 32]), draw.choice([16, 48]), draw.choice([16, 32])
    batches, repeats = [1, 4], draw.choice([1, 2])
    asked = items["arithmetic"] + items["form"]
    params["budget"] |= {
        "hours": 1.0,
        "mfu": None,
        "tokens_per_row": tokens_per_row,
        "vocab_size": vocab,
        "depth": depth,
        "d_model": d_model,
        "n_heads": heads,
        "n_kv_heads": draw.choice([k for k in range(1, heads + 1) if heads % k == 0]),
        "pretrain_share": None,
        "train_tokens": train_tokens,
        "batch_tokens": batch,
        "micro_batch_rows": micro,
    }
    params["budget"]["workload"] |= {
        "corpus_bytes": corpus_bytes,
        "kept_share": 0.80,
        "tokenizer_bytes": corpus_bytes * 0.64,
        "bytes_per_token": BYTES_PER_TOKEN[vocab],
        "evaluations": 1,
        "evaluation_tokens": EVAL_ROWS * tokens_per_row,
        "midtrain_tokens": int(midtrain / 0.8),
        "sft_tokens": sft,
        "chat_batch_tokens": chat_rows * tokens_per_row,
        "chat_micro_batch_rows": chat_micro,
        "rl_steps": steps,
        "rl_samples_per_step": prompts * samples,
        "rl_new_tokens": reply,
        "rl_micro_batch_rows": 32,
        "benchmark_tokens": bits_rows * tokens_per_row + items["mc"] * 4 * 45 + asked * 25,
        "benchmark_decode_steps": math.ceil(asked / 64) * eval_reply,
        "benchmark_rows": min(64, asked) / 2,
        "champion_comparisons": 0,
        "inference_prompt_tokens": 32,
        "inference_decode_steps": (repeats + 1) * len(batches) * (new_tokens - 1),
        "inference_rows": statistics.mean(batches),
        "chat_decode_steps": 36,
    }
    params["corpus"]["sources"] = [{"kind": "python_docs", "max_bytes": None, "max_package_bytes": package_bytes}]
    params["tokenizer"] |= {"vocab_size": vocab, "max_characters": int(corpus_bytes)}
    params["shards"] |= {"tokens_per_row": tokens_per_row, "val_fraction": 0.1}
    for name in ("d_model", "n_layers", "n_heads", "n_kv_heads"):
        params["architecture"][name] = None
    params["pretrain"] |= {"eval_rows": EVAL_ROWS}
    for stage, tokens in (("midtrain", midtrain), ("sft", sft)):
        params[stage]["mixture"]["conversation_tokens"] = tokens
        params[stage] |= {
            "batch_tokens": chat_rows * tokens_per_row,
            "micro_batch_rows": chat_micro,
            "eval_rows": EVAL_ROWS,
        }
    params["rl"] |= {
        "steps": steps,
        "prompts_per_step": prompts,
        "samples_per_prompt": samples,
        "max_reply_tokens": reply,
        "micro_batch_rows": 32,
    }
    params["evaluation"] |= {
        "bits_per_byte_rows": bits_rows,
        "multiple_choice_items": items["mc"],
        "arithmetic_items": items["arithmetic"],
        "form_items": items["form"],
        "max_reply_tokens": eval_reply,
    }
    params["inference"] |= {
        "prompt_tokens": 32,
        "new_tokens": new_tokens,
        "batches": batches,
        "repeats": repeats,
    }
    params["chat"]["max_tokens"] = 24
    return params


def run_all(runs: int, first_seed: int, out: Path) -> None:
    """Run every pipeline in one copy of the repository; keep each plan and, at the end, the ledger."""
    clone = out / "clone"
    if not clone.exists():
        _copy_repository(clone)
    for seed in [*range(first_seed, first_seed + runs), first_seed + REPEAT, first_seed + 2 * REPEAT]:
        if (out / f"run-{seed}.json").exists():
            continue
        (clone / "params.yaml").write_text(yaml.safe_dump(draw_parameters(seed), sort_keys=False), encoding="utf-8")
        known = len(rows(clone))
        started = time.monotonic()
        done = _python(clone, "-m", "dvc", "repro", "--force", "-q")
        seconds = time.monotonic() - started
        print(f"run {seed}: {seconds:.0f} s, exit {done.returncode}", flush=True)
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-3000:])
            continue
        budget = clone / "artifacts" / "budget"
        record = {
            "seed": seed,
            "seconds": seconds,
            "rows": [known, len(rows(clone))],
            "forecast": json.loads((budget / "forecast.json").read_text()),
            "hardware": json.loads((budget / "hardware.json").read_text())["device"],
        }
        (out / f"run-{seed}.json").write_text(json.dumps(record))


def _copy_repository(clone: Path) -> None:
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    (clone / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    _python(clone, "-m", "tasks.environment")
    _python(clone, "-m", "tasks._tracking", "init")


def _python(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "ZERO2CHAT_"))}
    kept["PATH"] = str(Path(sys.executable).parent) + os.pathsep + kept.get("PATH", "")
    return subprocess.run(
        [sys.executable, *arguments], cwd=clone, env=kept, capture_output=True, text=True, check=False
    )


@dataclass(frozen=True)
class Run:
    """One finished pipeline."""

    seed: int
    hardware: Hardware
    amounts: dict[str, dict[str, float]]
    """Stage -> amounts its plan expected."""
    rows: Sequence[Row]

    @classmethod
    def read(cls, path: Path, ledger: Sequence[Row]) -> "Run":
        content = json.loads(path.read_text())
        first, last = content["rows"]
        return cls(content["seed"], Hardware(**content["hardware"]), content["forecast"]["amounts"], ledger[first:last])

    @property
    def measured(self) -> dict[tuple[str, str], float]:
        return {(row.stage, row.quantity): row.measured for row in self.rows}

    def happened(self) -> dict[str, dict[str, float]]:
        """Stage -> amounts it really met; what a stage does not count is taken from the plan."""
        return self.amounts | {row.stage: {**self.amounts[row.stage], **row.amounts} for row in self.rows}


@dataclass(frozen=True)
class Result:
    """One forecast held against one measurement."""

    stage: str
    quantity: str
    forecast: Interval
    measured: float

    @property
    def log_error(self) -> float:
        return math.log(self.measured / self.forecast.value)

    @property
    def inside(self) -> bool:
        return self.forecast.low <= self.measured <= self.forecast.high


def learn(runs: Sequence[Run], hardware: Hardware) -> Calibration:
    """What these runs teach."""
    known = [o for run in runs for o in observations(run.rows, hardware)]
    if not known:
        return prior_of(hardware)
    return calibrate(prior_of(hardware), known, {o.quantity: noise_of(o.quantity) for o in known}, "here")


def judge(run: Run, calibration: Calibration, amounts_known: bool = False) -> list[Result]:
    """Every forecast of a run's plan beside its measurement, the seconds of all stages together included."""
    amounts = run.happened() if amounts_known else run.amounts
    results = []
    for stage, own in forecasts(amounts, run.hardware, calibration, amounts_known).items():
        for quantity, interval in own.items():
            if (stage, quantity) in run.measured and quantity != "tokens_per_second":  # its inverse is counted
                results.append(Result(stage, quantity, interval, run.measured[stage, quantity]))
    seconds = [value for (_, quantity), value in run.measured.items() if quantity == "seconds"]
    results.append(Result("all", "seconds", all_seconds(amounts, run.hardware, calibration), sum(seconds)))
    return results


def table(title: str, results: Sequence[Result]) -> list[str]:
    """Markdown: per quantity the median and mean absolute error, and how many forecasts held."""
    lines = [f"### {title}", "", "| quantity | n | median error | mean error | within 10 % | in its 90 % interval |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    groups = {
        "seconds of a stage": lambda r: r.quantity == "seconds" and r.stage != "all",
        "seconds of training stages": lambda r: r.quantity == "seconds" and r.stage in ("pretrain", "midtrain", "sft"),
        "seconds of all stages together": lambda r: r.stage == "all",
        "step seconds": lambda r: r.quantity == "step_seconds",
        "peak memory": lambda r: r.quantity == "peak_memory_bytes",
        "bits per byte": lambda r: r.quantity == "bits_per_byte",
        "latency (first token, token)": lambda r: r.quantity in ("ttft_seconds", "seconds_per_output_token"),
        "**all of them**": lambda r: True,
    }
    for name, member in groups.items():
        own = [r for r in results if member(r)]
        if own:
            errors = [abs(math.expm1(abs(r.log_error))) for r in own]
            lines.append(
                f"| {name} | {len(own)} | {statistics.median(errors):.1%} | {statistics.mean(errors):.1%} | "
                f"{sum(e <= 0.10 for e in errors) / len(own):.0%} | {sum(r.inside for r in own) / len(own):.0%} |"
            )
    return [*lines, ""]


def report(out: Path, per_stage: bool, note: str = "") -> None:
    """Print the tables."""
    ledger = rows(out / "clone")
    runs = [Run.read(path, ledger) for path in sorted(out.glob("run-*.json"), key=lambda p: int(p.stem.split("-")[1]))]
    first = runs[0]
    repeats = [run for run in runs[1:] if run.seed % REPEAT == first.seed]
    # The first repeat takes up finished training states that the first run left: nothing of it was trained again.
    again = [run for run in repeats if all((stage, "seconds") in run.measured for stage in STAGE_ORDER)]
    rest = [run for run in runs[1:] if run not in repeats]
    hardware = first.hardware
    one = learn([first], hardware)
    scenarios = {
        "Constants of the device class, nothing measured": [r for run in rest for r in judge(run, prior_of(hardware))],
        "After one calibrating run": [r for run in rest for r in judge(run, one)],
        "After one calibrating run, amounts known (what was processed, not what the plan expected)": [
            r for run in rest for r in judge(run, one, amounts_known=True)
        ],
        "After all earlier runs": [
            r for i, run in enumerate(rest) for r in judge(run, learn([first, *rest[:i]], hardware))
        ],
        "The calibrating pipeline again": [r for run in again for r in judge(run, one)],
    }
    print(
        INTRODUCTION.format(
            different=1 + len(rest),
            again=len(again),
            machine=ledger[0].machine,
            hardware=hardware.name,
            fastest=min(run.measured["pretrain", "step_seconds"] for run in rest) * 1000,
            slowest=max(run.measured["pretrain", "step_seconds"] for run in rest) * 1000,
        )
    )
    print(f"{note}\n\n" if note else "", end="")
    for title, results in scenarios.items():
        print("\n".join(table(title, results)))
        if per_stage:
            _per_stage(results)


def _per_stage(results: Sequence[Result]) -> None:
    for key in dict.fromkeys((r.stage, r.quantity) for r in results):
        own = [r for r in results if (r.stage, r.quantity) == key]
        errors = " ".join(f"{r.log_error:+.2f}{'' if r.inside else '!'}" for r in own)
        print(f"{key[0]:<12} {key[1]:<24} {sum(r.inside for r in own) / len(own):4.0%}  {errors}")
    print()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", choices=["run", "report"])
    parser.add_argument("--runs", type=int, default=22)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next ones count up")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-stage", action="store_true")
    parser.add_argument("--note", default="", help="what a reader should know about the machine during these runs")
    options = parser.parse_args()
    if options.action == "run":
        run_all(options.runs, options.seed, options.out)
    report(options.out, options.per_stage, options.note)


if __name__ == "__main__":
    main()
