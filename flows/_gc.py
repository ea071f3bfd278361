"""gc: scratch of other parameter sets, cached units no run will miss, and outputs neither workspace nor tag refers to.

Never removed: units that a run has used since the last finished one. They are the work of a run that was interrupted,
or is still going on; whoever gives that run up removes work/<stage>/cache by hand.
"""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from flows import ROOT
from tasks import _keys, _units
from tasks._files import remove, size_bytes
from tasks.stages import Stage


def collect(remove_them: bool) -> None:
    """List (and with `remove_them` delete) resume folders no current stage would take up, then DVC's unused cache."""
    freed = 0
    done = "removed" if remove_them else "would remove"
    for stage in Stage:
        keep = _keys.current(stage, status=False).resume_key[:16]
        scratch = ROOT / "work" / stage
        for folder in sorted(scratch.glob("*")):
            if folder.is_dir() and folder.name not in (keep, "cache"):
                freed += _let_go(f"{done} {folder.relative_to(ROOT)}", [folder], remove_them)
        by_pass: dict[Path, list[Path]] = defaultdict(list)
        for unit in _units.unused(scratch / "cache"):
            by_pass[unit.parent].append(unit)
        for folder, units in by_pass.items():
            freed += _let_go(f"{done} {len(units)} unit(s) of {folder.relative_to(ROOT)}", units, remove_them)
        kept = _units.unfinished(scratch / "cache")
        if kept:
            size = sum(size_bytes(unit) for unit in kept)
            print(
                f"kept {len(kept)} unit(s) of a run of {stage} that has not finished ({size / 1e6:.1f} MB); to give it "
                f"up, remove work/{stage}/cache"
            )
    print(f"work/: {freed / 1e6:.1f} MB {'freed' if remove_them else 'can be freed'}")
    command = [sys.executable, "-m", "dvc", "gc", "--workspace", "--all-tags"] + (
        ["--force"] if remove_them else ["--dry"]
    )
    subprocess.run(command, cwd=ROOT, check=False)
    if not remove_them:
        print("nothing was removed; next: `python -m flows gc --yes`")


def _let_go(what: str, folders: list[Path], remove_them: bool) -> int:
    """Tell, and with `remove_them` delete; returns the bytes."""
    size = sum(size_bytes(folder) for folder in folders)
    print(f"{what} ({size / 1e6:.1f} MB)")
    if remove_them:
        for folder in folders:
            remove(folder)
    return size
