"""What the ranks of a training job report: JSON lines in a file that another process reads while they run."""

import json
from pathlib import Path
from typing import Any


class FileReporter:
    """Appends reports as JSON lines; ranks other than the first report only their failure."""

    def __init__(self, path: Path, active: bool) -> None:
        self._path, self._active = path, active
        if active and path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            self._append("\n")  # a killed rank left half a line

    def _append(self, text: str) -> None:
        with self._path.open("ab", buffering=0) as file:  # one write, so that lines of several ranks do not mix
            file.write(text.encode())

    def write(self, kind: str, **values: Any) -> None:
        if self._active or kind == "failure":
            self._append(json.dumps({"kind": kind, **values}) + "\n")

    def progress(self, step: int, steps: int, tokens: int, loss: float, lr: float) -> None:
        self.write("progress", step=step, steps=steps, tokens=tokens, loss=loss, lr=lr)

    def live(self, values: dict[str, float]) -> None:
        self.write("live", values=values)

    def curve(self, rows: list[dict[str, float]]) -> None:
        self.write("curve", rows=rows)

    def note(self, text: str) -> None:
        self.write("note", text=text)

    def figures(self, **values: float) -> None:
        self.write("figures", values=values)
