"""A training job as a file, run in this process or in every rank that torchrun starts.

    python -m model.rank_launcher job.json '{"processes": 8}' PARENT    starts the ranks
    torchrun ... -m model.train_worker job.json NODE                    one rank

The first rank reports through `<resume folder>/reports.jsonl`, one JSON object a line (progress, live, curve, note,
figures, result, interrupted); every rank that fails adds one (failure). All stop when a file named `stop` appears in
the resume folder. When a rank is lost the group starts again and continues from the newest state; not so when a rank
has refused the job (a ValueError): its message is then in the file `refused`.
"""

import json
import os
import signal
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.batches import RowBatches
from model.bits_per_byte import bits_per_byte
from model.checkpoint import load_weights
from model.float8 import check_float8
from model.gpt import GPT, GPTConfig
from model.prefetch import Prefetcher
from model.rank_launcher import die_with_parent
from model.rank_reports import FileReporter
from model.ranks import any_over_ranks, rank_and_world_size
from model.sharding import shard
from model.tokenizer import Tokenizer
from model.train_loop import train
from model.train_options import LoopOptions, Reporter, TrainingInterrupted, TrainResult
from model.train_samples import TrainingSamples, fixed_prompts

REPORTS, STOP, REFUSED = "reports.jsonl", "stop", "refused"
SAMPLES = "samples.jsonl"
_EVALUATION_ROWS = 16
"""Rows an evaluation computes at once where the micro-batch is left to the loop."""


@dataclass(frozen=True)
class TrainJob:
    """Everything a rank needs to know."""

    config: GPTConfig
    rows: Path
    """Row folder with splits train and val."""
    rows_per_step: int
    """Over all ranks."""
    init: Path | None
    """Checkpoint folder to start from; None draws new weights from the seed."""
    options: LoopOptions
    resume_folder: Path
    bytes_per_id: list[int]
    eval_rows: int
    """Rows of the val split an evaluation takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:N or mps; with several ranks "cuda" means one device per rank."""
    threads: int = 0
    """CPU threads of one rank; 0 leaves torch's own choice."""
    tokenizer_sha256: str | None = None
    """The tokenizer the rows must have been written with; None does not ask."""
    tokenizer: Path | None = None
    """Its file, for samples during training; None takes none."""
    shard_model: bool = False
    """Spread weights and gradients over the ranks (model/sharding.py); no samples then, and nothing is compiled."""
    recompute: bool = False
    """Compute each layer's activations again in the backward pass."""
    float8: bool = False
    """8-bit products in training."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "TrainJob":
        return _typed(cls, json.loads(path.read_text(encoding="utf-8")))


def run_job(job: TrainJob, report: Reporter, stop_requested: Callable[[], bool]) -> tuple[GPT, TrainResult]:
    """Build or load the model, train it as one of the ranks and evaluate it; -> the trained model and the result.

    ValueError when rows, checkpoint and config do not belong together.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    rank, world_size = rank_and_world_size()
    if job.rows_per_step % world_size:
        raise ValueError(
            f"{job.rows_per_step} rows per step cannot be shared by {world_size} processes; next: change one"
        )
    batches = RowBatches(
        job.rows,
        "train",
        job.rows_per_step // world_size,
        job.options.seed,
        rank,
        world_size,
        tokenizer_sha256=job.tokenizer_sha256,
    )
    if batches.tokens_per_row > job.config.sequence_length or batches.source.vocab_size > job.config.vocab_size:
        raise ValueError(
            f"{job.rows}: rows of {batches.tokens_per_row} tokens over {batches.source.vocab_size} ids do not fit the "
            f"model (sequence_length={job.config.sequence_length}, vocab_size={job.config.vocab_size})"
        )
    device, sharded = _device_of_rank(job.device, world_size), job.shard_model and world_size > 1
    if job.float8:
        check_float8(device)
    model = shard(_build(job), device) if sharded else _build(job).to(device)
    prefetched = Prefetcher(batches, device=device)
    micro_batch_rows = job.options.micro_batch_rows or _EVALUATION_ROWS

    def evaluate(trained: GPT) -> dict[str, float]:
        found = bits_per_byte(trained, job.rows, "val", job.bytes_per_id, job.eval_rows, micro_batch_rows)
        return {"val_bpb": found["bpb"], "val_nats": found["nats"]}

    try:
        result = train(
            model,
            prefetched,
            replace(job.options, compile="off") if sharded else job.options,
            resume_folder=job.resume_folder,
            report=report,
            stop_requested=stop_requested,
            evaluate=evaluate if job.eval_rows else None,
            sample=_samples(job, report) if rank == 0 and not sharded else None,
        )
    finally:
        prefetched.close()
    return model, result


def _samples(job: TrainJob, report: Reporter) -> TrainingSamples | None:
    if job.tokenizer is None:
        return None
    tokenizer = Tokenizer.from_file(job.tokenizer)
    prompts = fixed_prompts(job.rows, tokenizer, "val" if job.eval_rows else "train")
    return TrainingSamples(tokenizer, prompts, job.resume_folder / SAMPLES, report.note, seed=job.options.seed)


def _build(job: TrainJob) -> GPT:
    model = GPT(job.config, recompute=job.recompute, float8=job.float8)
    if job.init is None:
        model.init_weights(job.options.seed)
        return model
    source, _ = load_weights(job.init)
    if source.config != job.config:
        raise ValueError(
            f"{job.init} was trained as {source.config}, this run wants {job.config}; next: use one of them"
        )
    model.load_state_dict(source.state_dict())
    return model


def _device_of_rank(device: str, world_size: int) -> torch.device:
    if device == "cuda" and world_size > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(device)


def _typed(kind: Any, value: Any) -> Any:
    """A value read from JSON as the type a field is declared with: dataclasses inside each other, paths, options."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return None if value is None else _typed(kinds[0], value) if len(kinds) == 1 else value
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _typed(hints[name], entry) for name, entry in value.items()})
    if typing.get_origin(kind) is tuple:
        return tuple(value)
    return Path(value) if kind is Path else value


def _join_group(job: TrainJob, rank: int) -> torch.device:
    """Meet the other ranks where torchrun says; -> this rank's device."""
    world_size = int(os.environ["WORLD_SIZE"])
    device = _device_of_rank(job.device, world_size)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # A store of this attempt's own: addresses left by ranks of an earlier one must not be found.
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=os.environ["RANK"] == "0",
    )
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    return device


def _run_rank(path: Path, node: int) -> None:
    die_with_parent(os.getppid())
    job = TrainJob.read(path)
    # torchrun numbers machines by address; saving and reporting belong to the one called 0.
    rank = node * int(os.environ["LOCAL_WORLD_SIZE"]) + int(os.environ["LOCAL_RANK"])
    again = (path.parent / REPORTS).exists()  # not torchrun's count: it leaves out failures of other machines
    report = FileReporter(path.parent / REPORTS, active=rank == 0)
    signalled: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signalled.append(number))
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    try:
        device = _join_group(job, rank)
        if any_over_ranks((path.parent / REFUSED).exists(), device=device)[0]:
            return  # successfully, so that torchrun does not start again
        if again:
            report.note("a training process was lost; all started again from the newest state")
        stop_file = path.parent / STOP
        _, result = run_job(job, report, lambda: bool(signalled) or stop_file.exists())
        report.write("result", **asdict(result))
    except TrainingInterrupted as interruption:
        report.write("interrupted", text=str(interruption))
    except ValueError as error:
        (path.parent / REFUSED).write_text(str(error), encoding="utf-8")
        raise
    except Exception as error:
        report.write("failure", rank=rank, attempt=restarts, text=f"{type(error).__name__}: {error}")
        raise
    torch.distributed.destroy_process_group()  # not after an error: it might wait for a process that is gone


if __name__ == "__main__":
    _run_rank(Path(sys.argv[1]), int(sys.argv[2]))
