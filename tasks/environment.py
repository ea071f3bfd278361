"""`python -m tasks.environment`: versions that stages depend on, one small file each below .environment/.

DVC can only depend on files. The interpreter decides which docstrings `corpus` finds; torch and tokenizers decide the
bytes of checkpoints and vocabularies. Written by `make install` and before each flow; rewritten only when different.
"""

import platform
from importlib.metadata import version
from pathlib import Path

from tasks._files import write_text

ROOT = Path(__file__).resolve().parent.parent


def versions() -> dict[str, str]:
    """File name -> content. The local part of torch's version (+cpu, +cu130) is left out: see runtime.yaml."""
    return {
        "python.txt": platform.python_version(),
        "torch.txt": version("torch").split("+")[0],
        "rustbpe.txt": version("rustbpe"),
    }


def refresh(root: Path = ROOT) -> None:
    """Write the files that are missing or differ."""
    for name, content in versions().items():
        path = root / ".environment" / name
        if not path.exists() or path.read_text() != content + "\n":
            write_text(path, content + "\n")


if __name__ == "__main__":
    refresh()
