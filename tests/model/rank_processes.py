"""Runs a function in several processes that form a gloo group: ranks without the cost of torchrun."""

import multiprocessing
import queue
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")  # imports torch once for all ranks of all tests
_SECONDS = 120
"""Ranks that wait for each other for ever must not stop the suite."""


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` on every rank; -> what each returned (no tensors). AssertionError if a rank fails."""
    _CONTEXT.set_forkserver_preload(["model.train_worker", "torch._dynamo"])
    results = _CONTEXT.Queue()
    answers: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        ranks = [
            _CONTEXT.Process(target=_rank, args=(rank, world_size, meeting, results, function, arguments), daemon=True)
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        try:
            for _ in ranks:
                rank, failure, value = results.get(timeout=_SECONDS)
                assert failure is None, f"rank {rank}: {failure}"
                answers[rank] = value
        except queue.Empty:
            raise AssertionError(f"{_SECONDS} s, and only ranks {sorted(answers)} of {world_size} ended") from None
        finally:
            for process in ranks:
                process.join(timeout=5 if len(answers) == world_size else 0)
                process.kill()
    return [answers[rank] for rank in range(world_size)]


def _rank(rank: int, world_size: int, meeting: str, results: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
        results.put((rank, None, function(*arguments)))
        torch.distributed.destroy_process_group()
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
        raise
