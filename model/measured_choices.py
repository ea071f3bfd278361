"""What was measured on this machine about how to compute fastest, kept in a folder so that it is measured once."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch


class MeasuredChoices:
    """A small JSON file of results by question. A file that cannot be read or written costs a new measurement, no more.

    Every key holds the machine, torch's version and the number of threads, so a folder may be shared by machines.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else Path(folder) / "measured_choices.json"

    @staticmethod
    def key(question: str, device: torch.device) -> str:
        """The question together with everything about this process that the answer depends on."""
        if device.type == "cuda":
            machine = torch.cuda.get_device_name(device)
        else:
            machine = f"{_processor()}, {torch.get_num_threads()} threads"
        return f"{question}; {machine}; torch {torch.__version__}"

    def get(self, key: str) -> dict[str, Any] | None:
        found = self._read().get(key)
        return found if isinstance(found, dict) else None

    def put(self, key: str, values: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(self._read() | {key: values}, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.path)
        except OSError:
            return  # a read-only folder: it is measured again next time

    def _read(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


def _processor() -> str:
    """The CPU's name and its instruction sets as torch sees them: two machines may share the name."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"
