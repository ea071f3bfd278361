"""runtime.yaml: what does not change results (device, threads, cadence, ports) and is therefore never hashed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks._params import read_yaml, validate


class Runtime(BaseModel):
    """Knobs of this machine. Changing one makes no stage stale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")] = "auto"
    """Where tensors live: auto, cpu, cuda, cuda:N or mps."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Training processes on this machine; more than one starts them with torchrun."""
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
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between checkpoints of a training stage."""
    host: str = "127.0.0.1"
    """Address the chat server binds."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port the chat server binds; 0 takes a free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"
    """Verbosity of the pipeline's own log."""


def load_runtime(path: Path) -> Runtime:
    """The validated runtime.yaml; a missing file means every default."""
    return validate(Runtime, read_yaml(path) or {}, str(path)) if path.exists() else Runtime()
