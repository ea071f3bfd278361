"""A training job as a file, run in this process or in every rank that torchrun starts.

    python -m model.train_worker launch job.json PROCESSES PARENT    starts the ranks; dies with its parent
    torchrun ... -m model.train_worker job.json                one rank

The first rank reports through `<resume folder>/reports.jsonl`, one JSON object a line (progress, curve, note, figures,
result, interrupted, error). All stop when a file named `stop` appears in the resume folder.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.batches import RowBatches
from model.bits_per_byte import bits_per_byte
from model.checkpoint import load_weights
from model.gpt import GPT, GPTConfig
from model.prefetch import Prefetcher
from model.ranks import rank_and_world_size
from model.train_loop import train
from model.train_options import LoopOptions, Reporter, Schedule, TrainingInterrupted, TrainResult

REPORTS, STOP = "reports.jsonl", "stop"
_PR_SET_PDEATHSIG = 1


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

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "TrainJob":
        values = json.loads(path.read_text(encoding="utf-8"))
        options = values["options"] | {"schedule": Schedule(**values["options"]["schedule"])}
        return cls(
            **values
            | {
                "config": GPTConfig(**values["config"]),
                "rows": Path(values["rows"]),
                "init": Path(values["init"]) if values["init"] else None,
                "options": LoopOptions(**options),
                "resume_folder": Path(values["resume_folder"]),
            }
        )


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
    device = _device_of_rank(job.device, world_size)
    model = _build(job).to(device)
    prefetched = Prefetcher(batches, device=device)

    def evaluate(trained: GPT) -> dict[str, float]:
        found = bits_per_byte(trained, job.rows, "val", job.bytes_per_id, job.eval_rows, job.options.micro_batch_rows)
        return {"val_bpb": found["bpb"], "val_nats": found["nats"]}

    try:
        result = train(
            model,
            prefetched,
            job.options,
            resume_folder=job.resume_folder,
            report=report,
            stop_requested=stop_requested,
            evaluate=evaluate if job.eval_rows else None,
        )
    finally:
        prefetched.close()
    return model, result


def _build(job: TrainJob) -> GPT:
    model = GPT(job.config)
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


class FileReporter:
    """Appends reports as JSON lines; ranks other than the first stay silent."""

    def __init__(self, path: Path, active: bool) -> None:
        self._file = path.open("a", encoding="utf-8") if active else None

    def write(self, kind: str, **values: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"kind": kind, **values}) + "\n")
            self._file.flush()

    def progress(self, step: int, steps: int, tokens: int, loss: float, lr: float) -> None:
        self.write("progress", step=step, steps=steps, tokens=tokens, loss=loss, lr=lr)

    def curve(self, rows: list[dict[str, float]]) -> None:
        self.write("curve", rows=rows)

    def note(self, text: str) -> None:
        self.write("note", text=text)

    def figures(self, **values: float) -> None:
        self.write("figures", values=values)


def die_with_parent(expected_parent: int) -> None:
    """Linux: have the kernel kill this process when its parent dies; elsewhere torchrun's own clean-up has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != expected_parent:  # it died before the call
            os._exit(1)


def _run_rank(path: Path) -> None:
    die_with_parent(os.getppid())
    job = TrainJob.read(path)
    rank, stop_file = int(os.environ["RANK"]), job.resume_folder / STOP
    if job.device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if job.device.startswith("cuda") else "gloo")
    report = FileReporter(job.resume_folder / REPORTS, active=rank == 0)
    signalled: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signalled.append(number))
    try:
        _, result = run_job(job, report, lambda: bool(signalled) or stop_file.exists())
        report.write("result", **asdict(result))
    except TrainingInterrupted as interruption:
        report.write("interrupted", text=str(interruption))
    except ValueError as error:
        report.write("error", text=str(error))
        raise
    finally:
        torch.distributed.destroy_process_group()


def _launch(path: str, processes: str, expected_parent: str) -> None:
    """torchrun inside this process, so that one kernel signal reaches launcher and ranks when the stage dies."""
    die_with_parent(int(expected_parent))
    from torch.distributed.run import main as torchrun

    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    torchrun([*rendezvous, f"--nproc-per-node={processes}", "-m", "model.train_worker", path])


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        _launch(*sys.argv[2:5])
    else:
        _run_rank(Path(sys.argv[1]))
