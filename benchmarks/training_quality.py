"""How well a small model learns real text under different optimizers: variants x seeds, resumable.

    python -m benchmarks.training_quality prepare --text ../shared/data/corpus --rows DIR
    python -m benchmarks.training_quality run --rows DIR --results FILE --variants torch_muon,plain,all --seeds 0,1,2
    python -m benchmarks.training_quality table --results FILE --control torch_muon

A variant is a name of VARIANTS, changed by +option or -option, then @x for x times the learning rate and ~x for x times
the weight decay of the matrices: `plain+adaptive`, `all-cautious@0.5`, `all~0`. One seed gives all variants the same
initial weights and the same rows in the same order. Embedding and head are updated by the same AdamW everywhere. Every
finished run is one line of the results file; what is there is not computed again. Differences are paired by seed; with
few seeds their intervals are wide.
"""

import argparse
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.allocator import keep_freed_memory
from model.batches import RowBatches, RowFolder
from model.bits_per_byte import bits_per_byte
from model.compilation import ComputeChoice, apply
from model.gpt import GPT, GPTConfig
from model.optim import Optimizer, OptimizerOptions
from model.precision import compute_dtype
from model.tokenizer import Tokenizer
from model.train_options import Schedule
from model.train_step import batch_gradients
from pipeline_math.model_flops_vram import shape_of_depth
from pipeline_math.pretrain_step import bounded_learning_rate_factor, muon_weight_decay, width_learning_rate_factor

MATRIX_LR, EMBEDDING_LR, HEAD_LR, WEIGHT_DECAY = 0.02, 0.3, 0.008, 0.28
"""As in params.yaml, before the factors for batch and width."""
ADAMW_MATRIX_LR, ADAMW_DECAY = 0.003, 0.1
"""Of AdamW for matrices, used as they are: the best rate is to be found with @."""
OPTIONS: dict[str, dict[str, Any]] = {
    "polar_express": {"orthogonalisation": "polar_express"},
    "nesterov": {"nesterov": True},
    "rows": {"normalise_rows": True},
    "rescale": {"rescale": True},
    "adaptive": {"adaptive": True},
    "cautious": {"cautious": True},
}
OFF: dict[str, dict[str, Any]] = {name: dict.fromkeys(option, False) for name, option in OPTIONS.items()}
OFF["polar_express"] = {"orthogonalisation": "newton_schulz"}


def merged(options: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One mapping of several; later ones win."""
    return {name: value for option in options for name, value in option.items()}


PLAIN = merged([*OFF.values(), OPTIONS["nesterov"]])
VARIANTS: dict[str, dict[str, Any]] = {
    "torch_muon": {"matrix_optimizer": "torch_muon"},
    "adamw": {"matrix_optimizer": "adamw"},
    "plain": PLAIN,
    "all": merged(OPTIONS.values()),
    "default": {},
}
"""Fields of OptimizerOptions that differ from their defaults."""


@dataclass(frozen=True)
class Variant:
    """What updates the matrices: fields of OptimizerOptions, factors on rate and decay."""

    fields: dict[str, Any]
    lr_scale: float = 1.0
    decay_scale: float = 1.0


@dataclass(frozen=True)
class Setting:
    """What all variants of a comparison share."""

    rows_sha256: str
    """Which rows, wherever they lie."""
    tokens: int
    batch_tokens: int
    depth: int
    vocab_size: int
    tokens_per_row: int
    lr_scale: float
    val_rows: int
    compiled: bool
    dtype: str


def variant_of(text: str) -> Variant:
    """The variant a name describes; ValueError names what is allowed."""
    match = re.fullmatch(r"(\w+)((?:[+-]\w+)*)(?:@([\d.]+))?(?:~([\d.]+))?", text)
    if match is None or match[1] not in VARIANTS:
        raise ValueError(
            f"variant {text!r}; allowed: {', '.join(VARIANTS)}, then +option, -option, @factor and ~factor"
        )
    fields = VARIANTS[match[1]]
    for sign, option in re.findall(r"([+-])(\w+)", match[2]):
        if option not in OPTIONS or "matrix_optimizer" in fields:
            raise ValueError(f"variant {text!r}: option {option!r}; allowed with {match[1]}: {', '.join(OPTIONS)}")
        fields = fields | (OPTIONS if sign == "+" else OFF)[option]
    return Variant(fields, float(match[3] or 1), float(match[4] or 1))


def optimizer_options(variant: Variant, setting: Setting, d_model: int) -> OptimizerOptions:
    """Rates as the pretraining stage computes them, times the variant's factors."""
    factor = setting.lr_scale * bounded_learning_rate_factor(setting.batch_tokens)
    width_factor = factor * width_learning_rate_factor(d_model)
    lr, decay = MATRIX_LR * factor, muon_weight_decay(setting.batch_tokens, setting.tokens, ceiling=WEIGHT_DECAY)
    if variant.fields.get("matrix_optimizer") == "adamw":
        lr, decay = ADAMW_MATRIX_LR, ADAMW_DECAY
    return OptimizerOptions(
        lr * variant.lr_scale,
        EMBEDDING_LR * width_factor,
        HEAD_LR * width_factor,
        decay * variant.decay_scale,
        **variant.fields,
    )


def train(variant: Variant, setting: Setting, seed: int, folder: Path, micro_batch_rows: int) -> dict[str, Any]:
    """One run: {val_bpb, val_nats, final_train_loss (mean of the last tenth), losses, seconds, threads, ...}."""
    schedule = Schedule(setting.tokens // setting.batch_tokens)
    shape = shape_of_depth(setting.depth, setting.vocab_size, setting.tokens_per_row)
    sizes = (shape.vocab_size, shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.mlp_width)
    model = GPT(GPTConfig(*sizes, setting.tokens_per_row))
    model.init_weights(seed)
    if setting.compiled:
        precision = torch.get_float32_matmul_precision()
        choice = ComputeChoice(True, "auto", precision, micro_batch_rows, setting.tokens_per_row)
        apply(choice, model, note=partial(print, flush=True))
    options = optimizer_options(variant, setting, shape.d_model)
    optimizer = Optimizer(model, options)
    batches = RowBatches(folder, "train", setting.batch_tokens // setting.tokens_per_row, seed=seed)
    losses: list[float] = []
    started, cpu_started = time.monotonic(), time.process_time()
    for step in range(schedule.steps):
        optimizer.schedule(schedule.lr_factor(step), schedule.decay_factor(step), schedule.momentum(step, options))
        batch = batches.next()
        count = max(1.0, float(batch.weights_BT.sum()))
        losses.append(float(batch_gradients(model, batch, micro_batch_rows, count)))
        if not math.isfinite(losses[-1]):
            break
        optimizer.reduce_gradients()
        optimizer.step()
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    last = losses[-max(1, len(losses) // 10) :]
    found = {"bpb": None, "nats": None}
    if math.isfinite(losses[-1]):
        bytes_per_id = Tokenizer.from_file(folder / "tokenizer.json").bytes_per_id()
        found = bits_per_byte(model, folder, "val", bytes_per_id, setting.val_rows, micro_batch_rows)
    every = max(1, len(losses) // 20)
    return {
        "val_bpb": found["bpb"],
        "val_nats": found["nats"],
        "final_train_loss": statistics.fmean(last),
        "losses": [round(loss, 4) for loss in losses[::every]],
        "steps": len(losses),
        "tokens_per_second": round(len(losses) * setting.batch_tokens / seconds),
        "tokens_per_cpu_second": round(len(losses) * setting.batch_tokens / cpu_seconds),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    """Finished runs; a last line that a killed process left half-written is not one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def run_all(
    variants: list[str], seeds: list[int], setting: Setting, rows: Path, results: Path, micro_batch_rows: int
) -> None:
    """Every combination that `results` does not hold yet; seeds last, so that comparisons are complete early."""
    for seed in seeds:
        for name in variants:
            shared = {"variant": name, "seed": seed, "setting": asdict(setting)}
            if any(shared.items() <= run.items() for run in read_results(results)):
                continue
            found = train(variant_of(name), setting, seed, rows, micro_batch_rows)
            line = json.dumps({**shared, **found, "torch": torch.__version__, "python": sys.version.split()[0]})
            append_line(results, line)
            print(f"{name} seed {seed}: {found['val_bpb']} bits per byte, {found['seconds']} s", flush=True)


def append_line(path: Path, line: str) -> None:
    """On disk when this returns; what a killed process left half-written before it is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def table(runs: list[dict[str, Any]], control: str) -> str:
    """Markdown: mean and standard deviation per variant, and its difference from the control, paired by seed.

    The interval holds 95 % by Student's t over the seeds, the runs' only source of chance; one seed has none.
    ValueError if the runs are of several settings or the control is missing.
    """
    from scipy.special import stdtrit  # quantile of Student's t

    settings = {json.dumps(run["setting"], sort_keys=True) for run in runs}
    if len(settings) != 1:
        raise ValueError(f"results hold {len(settings)} settings; allowed: one; next: give each a file of its own")
    by_variant: dict[str, dict[int, float]] = {}
    for run in runs:
        bpb = run["val_bpb"]
        by_variant.setdefault(run["variant"], {})[run["seed"]] = math.nan if bpb is None else bpb
    if control not in by_variant:
        raise ValueError(f"control {control!r} has no run; allowed: {', '.join(by_variant)}")
    lines = [
        "| variant | seeds | val bpb, mean | sd | minus control, per seed | mean [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in sorted(by_variant.items(), key=lambda item: statistics.fmean(item[1].values())):
        deviation = f"{statistics.stdev(own.values()):.4f}" if len(own) > 1 else "-"
        pairs = [own[seed] - by_variant[control][seed] for seed in sorted(own) if seed in by_variant[control]]
        each, interval = ", ".join(f"{d:+.4f}" for d in pairs), "-"
        if len(pairs) > 1:
            mean = statistics.fmean(pairs)
            half = float(stdtrit(len(pairs) - 1, 0.975)) * statistics.stdev(pairs) / len(pairs) ** 0.5
            interval = f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"
        if name == control:
            each, interval = "control", "-"
        lines.append(
            f"| {name} | {len(own)} | {statistics.fmean(own.values()):.4f} | {deviation} | {each} | {interval} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "run", "table"])
    parser.add_argument("--text", type=Path, help="prepare: folder of Parquet files")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--variants", default="torch_muon,plain,all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--control", default="torch_muon")
    parser.add_argument("--tokens", type=int, default=1 << 20)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--tokens-per-row", type=int, default=512)
    parser.add_argument(
        "--lr-scale", type=float, default=1.0, help="on all rates, beside the rules for batch and width"
    )
    parser.add_argument("--val-rows", type=int, default=256)
    parser.add_argument("--micro-batch-rows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="changes only rounding, so runs may differ in it")
    parser.add_argument("--compile", action="store_true", help="compile the layers: faster, other rounding")
    given = parser.parse_args()
    needed = {"prepare": ("text", "rows"), "run": ("rows", "results"), "table": ("results",)}[given.what]
    if missing := [f"--{name}" for name in needed if getattr(given, name) is None]:
        parser.error(f"{given.what} needs {', '.join(missing)}")
    if given.what == "prepare":
        from benchmarks.training_rows import prepare_rows

        prepare_rows(given.text, given.rows, given.vocab_size, given.tokens_per_row)
    elif given.what == "table":
        print(table(read_results(given.results), given.control))
    else:
        keep_freed_memory()
        torch.set_num_threads(given.threads)
        shared = (given.tokens, given.batch_tokens, given.depth, given.vocab_size, given.tokens_per_row)
        dtype = str(compute_dtype("cpu"))
        identity = RowFolder(given.rows, "train").sha256[:16]
        setting = Setting(identity, *shared, given.lr_scale, given.val_rows, given.compile, dtype)
        seeds = [int(seed) for seed in given.seeds.split(",")]
        run_all(given.variants.split(","), seeds, setting, given.rows, given.results, given.micro_batch_rows)


if __name__ == "__main__":
    main()
