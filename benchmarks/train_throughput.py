"""Training speed, choice by choice: `python -m benchmarks.train_throughput [--depth 4 --variants fp32,bf16,...]`.

Random tokens; forward, backward and optimizer step of the real model. One row per variant, each with everything of the
one before it and one choice more, so that each choice is justified by a row. Every variant lives in a process of its
own (memory is its own), and they take their steps in turns, so that a busy moment does not hit one alone. FLOPs per
token: 6 per matmul weight plus attention, not halved for causality (pipeline_math.model_flops_vram). "Peak" is the
best product of two square matrices in the variant's number format, measured in the same rounds.
"""

import argparse
import dataclasses
import datetime
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.allocator import keep_freed_memory
from model.compilation import prepare_compute
from model.gpt import GPT
from model.loss import softcap_cross_entropy
from model.optim import Optimizer, OptimizerOptions
from model.shape_of_config import config_of_shape
from pipeline_math.model_flops_vram import shape_of_depth, shape_train_flops_per_token


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a process computes with; the defaults are what everybody starts from."""

    says: str
    compute_dtype: str = "float32"
    attention: str = "sdpa"
    chunked_loss: bool = False
    keep_memory: bool = False
    matrix_optimizer: str = "torch_muon"
    compile: str = "off"


def _variants() -> dict[str, Variant]:
    rows = {"fp32": Variant("float32, fused attention, whole logits, torch's Muon")}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("bf16", {"says": "+ bfloat16 products", "compute_dtype": "bfloat16"}),
        ("attention", {"says": "+ explicit attention", "attention": "explicit"}),
        ("loss", {"says": "+ chunked loss", "chunked_loss": True}),
        ("memory", {"says": "+ freed memory is kept", "keep_memory": True}),
        ("muon", {"says": "+ own Muon, stacked matrices", "matrix_optimizer": "muon"}),
        ("compile", {"says": "+ compiled layers", "compile": "on"}),
        (
            "final",
            {"says": "as a run chooses by itself", "attention": "auto", "compute_dtype": "auto", "compile": "auto"},
        ),
    ]
    last = rows["fp32"]
    for name, change in steps:
        last = rows[name] = dataclasses.replace(last, **change)
    rows["fp32-compile"] = dataclasses.replace(rows["fp32"], says="float32 as at first, compiled", compile="on")
    return rows


VARIANTS = _variants()
DEFAULT = [name for name in VARIANTS if name != "fp32-compile"]


class Trainer:
    """One variant's model and optimizer; runs in the child process."""

    def __init__(self, variant: Variant, options: argparse.Namespace) -> None:
        if variant.keep_memory:
            keep_freed_memory()
        if options.threads:
            torch.set_num_threads(options.threads)
        self.variant, self.options, self.device = variant, options, torch.device(options.device)
        shape = shape_of_depth(options.depth, options.vocab_size, options.tokens_per_row)
        config = config_of_shape(shape)
        model = GPT(config, attention=variant.attention, compute_dtype=variant.compute_dtype)
        model.init_weights(0)
        self.model = model.to(self.device)
        self.notes: list[str] = []
        micro_batches = max(1, options.batch_tokens // options.tokens_per_row // options.micro_batch_rows)
        started = time.perf_counter()
        self.choice = prepare_compute(
            self.model,
            self.device,
            rows=options.micro_batch_rows,
            steps_left=options.steps_of_run,
            request=variant.compile,  # type: ignore[arg-type]
            cache_folder=Path(options.cache_folder),
            note=self.notes.append,
            micro_batches=micro_batches,
        )
        self.prepare_seconds = time.perf_counter() - started
        self.optimizer = Optimizer(
            self.model,
            OptimizerOptions(0.02, 0.3, 0.008, 0.1, matrix_optimizer=variant.matrix_optimizer),  # type: ignore[arg-type]
        )
        rows = options.batch_tokens // options.tokens_per_row
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(config.vocab_size, (rows, options.tokens_per_row + 1), generator=generator)
        self.ids, self.targets = (part.contiguous().to(self.device) for part in (ids[:, :-1], ids[:, 1:]))

    def step(self) -> float:
        """Forward and backward in micro-batches, and one update; -> seconds."""
        synchronize(self.device)
        started = time.perf_counter()
        for start in range(0, self.ids.size(0), self.options.micro_batch_rows):
            part = slice(start, start + self.options.micro_batch_rows)
            self._loss(self.ids[part], self.targets[part]).backward()
        self.optimizer.step()
        synchronize(self.device)
        return time.perf_counter() - started

    def _loss(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        hidden, cap = self.model(ids_BT).flatten(0, 1), self.model.config.logit_softcap
        if not self.variant.chunked_loss:
            logits = cap * torch.tanh(self.model.lm_head(hidden).float() / cap)
            return F.cross_entropy(logits, targets_BT.flatten(), reduction="sum") / self.targets.numel()
        weights = torch.full((targets_BT.numel(),), 1 / self.targets.numel(), device=self.device)
        head, dtype = self.model.lm_head.weight, self.model.dtype_of_products
        return softcap_cross_entropy(hidden, head, targets_BT.flatten(), weights, cap, dtype)

    def round(self, steps: int) -> dict[str, Any]:
        """Some steps; with the page faults of each and the product rate just then."""
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds = [self.step() for _ in range(steps)]
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return {"seconds": seconds, "faults": faults / steps, "memory": peak_bytes(self.device)}


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Best FLOP/s of a square matrix product of five."""
    size, repeats, best = 8192 if device.type == "cuda" else 1024, 10, 0.0
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronize(device)
        best = max(best, repeats * 2 * size**3 / (time.perf_counter() - started))
    return best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(options: argparse.Namespace) -> None:
    """The child: answers every line of its input (a number of steps, or a number format) with a line of JSON."""
    trainer = Trainer(VARIANTS[options.child], options)
    ready = {"notes": trainer.notes, "choice": dataclasses.asdict(trainer.choice), "prepare": trainer.prepare_seconds}
    print(json.dumps(ready | {"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        if line.strip() == "peak":
            answer: Any = product_rate(trainer.device, trainer.model.dtype_of_products)
        else:
            answer = trainer.round(int(line))
        print(json.dumps(answer), flush=True)


class Child:
    """A process with one variant."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "benchmarks.train_throughput", *arguments, "--child", name]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._answer()
        self.rounds: list[dict[str, Any]] = []
        self.peaks: list[float] = []

    def ask(self, question: str) -> Any:
        assert self.process.stdin is not None
        print(question, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"variant {self.name} ended with code {self.process.wait()}; its own message is above")
        return json.loads(line)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def row(self, options: argparse.Namespace, flops_per_token: float) -> dict[str, Any]:
        seconds = [second for part in self.rounds for second in part["seconds"]]
        rate = options.batch_tokens / statistics.median(seconds)
        return {
            "variant": self.name,
            "what": VARIANTS[self.name].says,
            "tokens_per_second": round(rate),
            "slowest": round(options.batch_tokens / max(seconds)),
            "fastest": round(options.batch_tokens / min(seconds)),
            "tflops": rate * flops_per_token / 1e12,
            "share_of_peak": rate * flops_per_token / max(self.peaks),
            "peak_gb": self.rounds[-1]["memory"] / 1e9,
            "page_faults_per_step": round(statistics.median(part["faults"] for part in self.rounds)),
            "prepare_seconds": self.ready["prepare"],
            "choice": self.ready["choice"],
            "notes": self.ready["notes"],
            "threads": self.ready["threads"],
        }


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown: where and with what, then a line per variant, then what each decided."""
    lines = [
        f"{processor(options)}, {rows[0]['threads']} threads, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}. d{options.depth}, vocabulary "
        f"{options.vocab_size:,}, rows of {options.tokens_per_row} tokens, {options.batch_tokens:,} tokens a step in "
        f"micro-batches of {options.micro_batch_rows} rows; {options.rounds} rounds of {options.steps} steps in turns.",
        "",
        "| variant | what | tokens/s: median | min to max | TFLOP/s | of peak | memory, GB | page faults/step |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['variant']} | {row['what']} | {row['tokens_per_second']:,} | {row['slowest']:,} to "
            f"{row['fastest']:,} | {row['tflops']:.3f} | {row['share_of_peak']:.1%} | {row['peak_gb']:.2f} | "
            f"{row['page_faults_per_step']:,} |"
        )
    lines.append("")
    for row in rows:
        lines.append(
            f"- {row['variant']}: prepared in {row['prepare_seconds']:.1f} s; {'; '.join(row['choice']['reasons'])}"
        )
    return "\n".join(lines)


def processor(options: argparse.Namespace) -> str:
    if torch.device(options.device).type == "cuda":
        return torch.cuda.get_device_name(options.device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def compare(options: argparse.Namespace, arguments: list[str]) -> list[dict[str, Any]]:
    """All variants in turns; -> their rows in the order asked for."""
    shape = shape_of_depth(options.depth, options.vocab_size, options.tokens_per_row)
    children: list[Child] = []
    try:
        for name in options.variants.split(","):
            children.append(Child(name, arguments))
            children[-1].ask(str(options.warmup))
        for _ in range(options.rounds):
            for child in children:
                child.peaks.append(child.ask("peak"))
                child.rounds.append(child.ask(str(options.steps)))
    finally:
        for child in children:
            child.close()
    return [child.row(options, shape_train_flops_per_token(shape)) for child in children]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--tokens-per-row", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--micro-batch-rows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--steps-of-run", type=int, default=5000, help="what the final variant plans for")
    parser.add_argument("--variants", default=",".join(DEFAULT), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of a variant per round")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--cache-folder", default=str(Path(tempfile.gettempdir()) / "train_throughput"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options)
        return
    unknown = sorted(set(options.variants.split(",")) - set(VARIANTS))
    if unknown:
        parser.error(f"unknown variants {', '.join(unknown)}; allowed: {', '.join(VARIANTS)}")
    rows = compare(options, sys.argv[1:])
    print(json.dumps(rows, indent=1) if options.json else table(rows, options))


if __name__ == "__main__":
    main()
