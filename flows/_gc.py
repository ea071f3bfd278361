"""gc: scratch of other parameter sets, and cached outputs that neither the workspace nor a tag refers to."""

import subprocess
import sys

from flows import ROOT
from tasks import _keys, _units
from tasks._files import remove, size_bytes
from tasks.stages import Stage


def collect(remove_them: bool) -> None:
    """List (and with `remove_them` delete) resume folders no current stage would take up, then DVC's unused cache."""
    freed = 0
    for stage in Stage:
        keep = _keys.current(stage, status=False).resume_key[:16]
        scratch = ROOT / "work" / stage
        folders = [path for path in sorted(scratch.glob("*")) if path.is_dir() and path.name not in (keep, "cache")]
        for folder in [*folders, *_units.unused(scratch / "cache")]:
            if folder.is_dir():
                size = size_bytes(folder)
                freed += size
                print(
                    f"{'removed' if remove_them else 'would remove'} {folder.relative_to(ROOT)} ({size / 1e6:.1f} MB)"
                )
                if remove_them:
                    remove(folder)
    print(f"work/: {freed / 1e6:.1f} MB {'freed' if remove_them else 'can be freed'}")
    command = [sys.executable, "-m", "dvc", "gc", "--workspace", "--all-tags"] + (
        ["--force"] if remove_them else ["--dry"]
    )
    subprocess.run(command, cwd=ROOT, check=False)
    if not remove_them:
        print("nothing was removed; next: `python -m flows gc --yes`")
