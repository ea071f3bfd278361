"""Starts the ranks of a training job with torchrun, on this machine, alone or as one of several machines.

    python -m model.rank_launcher job.json '{"processes": 8}' PARENT    dies with the process PARENT

When a rank is lost torchrun ends the others and starts all again; they continue from the newest state.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Launch:
    """How the ranks are started."""

    processes: int
    """On each machine."""
    nodes: int = 1
    node_rank: int = 0
    """Number of this machine; the first rank of number 0 reports and saves."""
    rendezvous: str | None = None
    """host:port at which machines meet; the host is number 0."""
    max_restarts: int = 3
    """How often the ranks start again after one was lost."""

    def torchrun_arguments(self) -> list[str]:
        """ValueError if machines have no place to meet."""
        if self.nodes == 1:
            meeting = ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
        elif self.rendezvous is None or not 0 <= self.node_rank < self.nodes:
            raise ValueError(
                f"{self}: {self.nodes} machines need a rendezvous and numbers 0 to {self.nodes - 1}; "
                f"next: set rendezvous to host:port of machine 0 and node_rank"
            )
        else:
            # Who hosts the meeting is said, not guessed from the machine's name.
            meeting = [
                f"--rdzv-endpoint={self.rendezvous}",
                f"--rdzv-conf=is_host={int(self.node_rank == 0)}",
                "--rdzv-id=zero2chat",
                f"--nnodes={self.nodes}",
            ]
        counts = [f"--nproc-per-node={self.processes}", f"--max-restarts={self.max_restarts}"]
        return ["--rdzv-backend=c10d", *meeting, *counts]


def die_with_parent(expected_parent: int) -> None:
    """Linux: have the kernel kill this process when its parent dies; elsewhere torchrun's own clean-up has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != expected_parent:  # it died before the call
            os._exit(1)


def _launch(path: str, launch: str, expected_parent: str) -> None:
    """torchrun inside this process, so that one kernel signal reaches launcher and ranks when the stage dies."""
    die_with_parent(int(expected_parent))
    from torch.distributed.run import main as torchrun

    how = Launch(**json.loads(launch))
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # a new store, at a new port, for every attempt
    torchrun([*how.torchrun_arguments(), "-m", "model.train_worker", path, str(how.node_rank)])


if __name__ == "__main__":
    _launch(*sys.argv[1:4])
