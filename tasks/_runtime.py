"""runtime.yaml: what does not change results (device, threads, cadence, ports) and is therefore never hashed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks._params import read_yaml, validate


class Runtime(BaseModel):
    """Knobs of this machine. Changing one makes no stage stale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")] = "auto"
    """Where tensors live: auto, cpu, cuda, cuda:N or mps."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Training processes on this machine; more than one starts them with torchrun."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines that train together; each runs the stage with the same files and its own `node_rank`."""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """Number of this machine among `nodes`; only number 0 writes results."""
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:/]+:\d+$")] | None = None
    """host:port of node 0 at which the machines find each other; needed for more than one."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often a group of training processes is started again after one of them was killed."""
    shard_model: bool = False
    """Spread weights and gradients over the training processes (FSDP2), for models that exceed one device."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one training process; 0 takes every core this process may use."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Worker processes of the data stages; 0 takes every core this process may use."""
    cluster: str | None = None
    """Address of a Dask scheduler, such as tcp://node1:8786, whose workers do the work of the corpus stage; None: the
    processes of this machine. Workers need this environment and this folder under the same path."""
    concurrent_stages: Annotated[int, Field(ge=1)] = 2
    """Independent stages a flow runs at once; stages that compute on the device still take turns."""
    progress_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between progress lines when the output is not a terminal."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] | None = None
    """Seconds between saved states of a training stage; null balances what saving costs against what a failure would
    repeat (Young-Daly, from the measured cost of the states written so far)."""
    hours_between_failures: Annotated[float, Field(gt=0)] = 24.0
    """Mean time between failures that `checkpoint_seconds: null` assumes."""
    keep_states: Annotated[int, Field(ge=1)] = 2
    """Newest training states to keep, besides the best one."""
    wall_clock_limit_hours: Annotated[float, Field(gt=0)] | None = None
    """A training stage saves its state and stops as interrupted this long after it began (a queue's time limit)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile in training: auto compiles where it is expected to save more time than it takes."""
    recompute_activations: bool = False
    """Compute each layer's activations again in the backward pass: less memory, a third more work."""
    float8: bool = False
    """8-bit products in training, on GPUs that have them; wide models only gain."""
    host: str = "127.0.0.1"
    """Address the chat server binds."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port the chat server binds; 0 takes a free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"
    """Verbosity of the pipeline's own log."""

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> "Runtime":
        if self.node_rank >= self.nodes:
            raise ValueError(f"node_rank={self.node_rank}; allowed with nodes={self.nodes}: 0 to {self.nodes - 1}")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"nodes={self.nodes} without rendezvous; next: rendezvous: NODE-0:29500 on every node")
        return self


def load_runtime(path: Path) -> Runtime:
    """The validated runtime.yaml; a missing file means every default."""
    return validate(Runtime, read_yaml(path) or {}, str(path)) if path.exists() else Runtime()
