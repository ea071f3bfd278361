"""The saved states of a training run on the disk, one folder each: `state.safetensors` and `state.json`.

Folders are named `step_<step>_<number>`; the number tells states of the same step apart, so a state never replaces the
one it supersedes. `state.json` holds the SHA-256 of the tensor file and of its own content, so a state that was damaged
after it had been written is found when it is read. States without checksums, from earlier versions, are read as they
are. `best.json` names the state that was the best when it was saved.
"""

import contextlib
import errno
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.atomic_folder import TEMPORARY, replace_json, write_folder, write_json

TENSOR_FILE, INFO_FILE = "state.safetensors", "state.json"
BEST_FILE = "best.json"
CHECKSUMS = "checksums"
"""Key of `state.json` that no info may have."""
_NAME = re.compile(r"step_(\d+)_(\d+)")


class DamagedState(ValueError):  # noqa: N818 - says what was found
    """A state whose files are missing, unreadable, or not those that were written."""


def state_folders(folder: Path) -> list[Path]:
    """The states below `folder`, oldest first; of the same step in the order in which they were written."""
    if not folder.exists():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2])))]


def step_of(state: Path) -> int:
    """The optimizer updates that had been made when this state was saved."""
    match = _NAME.fullmatch(state.name)
    if match is None:
        raise ValueError(f"{state}: not the folder of a state; allowed: names like step_000000012_0")
    return int(match[1])


def write_state(folder: Path, step: int, tensors: dict[str, Tensor], info: dict[str, Any]) -> Path:
    """Write state `step` below `folder`; -> its own folder, new and complete. Tensors: on the CPU and contiguous.

    OSError or SafetensorError if it cannot be written: nothing is left of it then, and all older states are as before.
    """
    if CHECKSUMS in info:
        raise ValueError(f"state.json: info must not have the key {CHECKSUMS!r}; found keys {sorted(info)}")

    plain = json.loads(json.dumps(info))  # as it will be read: the checksum is of that

    def write(target: Path) -> None:
        save_file(tensors, target / TENSOR_FILE)
        sums = {
            "tensors_sha256": _sha256(target / TENSOR_FILE),
            "tensors_bytes": (target / TENSOR_FILE).stat().st_size,
            "info_sha256": _sha256_of_info(plain),
        }
        write_json(target / INFO_FILE, plain | {CHECKSUMS: sums})

    prefix = f"step_{step:09d}_"

    def free_name() -> Path:
        taken = [int(path.name.removeprefix(prefix)) for path in state_folders(folder) if path.name.startswith(prefix)]
        return folder / f"{prefix}{max(taken, default=-1) + 1}"

    return write_folder(free_name, write)


def read_info(state: Path) -> dict[str, Any]:
    """The info of one state. Cheap: of the tensor file only the size is looked at. DamagedState if it is not whole."""
    return _read_info(state)[0]


def read_state(state: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and info of one state, with all checksums verified; DamagedState if they do not hold."""
    info, sums = _read_info(state)
    path = state / TENSOR_FILE
    try:
        if sums is not None and (found := _sha256(path)) != sums["tensors_sha256"]:
            raise DamagedState(f"{path}: sha256 is {found[:12]}..., written was {sums['tensors_sha256'][:12]}...")
        return load_file(path), info
    except SafetensorError as error:
        raise DamagedState(f"{path}: not a readable safetensors file ({error})") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def load_newest(
    folder: Path, note: Callable[[str], None], *, first_choice: str | None = None, before: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole state below `folder`; None if there is none.

    first_choice: name of one that is preferred. before: go back to the newest of fewer steps than this (else to the
    oldest there is) and set later ones aside as `abandoned_...`, for the run shall not go on from them when it is
    resumed. Damaged ones on the way are set aside as `damaged_...`, each with a note. ValueError, and nothing moved,
    if none is whole.
    """
    states = state_folders(folder)[::-1]
    if before is not None:
        states = [state for state in states if step_of(state) < before] or states[::-1]
    states.sort(key=lambda state: state.name != first_choice)  # stable: the others keep their order
    damaged: list[tuple[Path, DamagedState]] = []
    for state in states:
        try:
            found = read_state(state)
        except DamagedState as error:
            damaged.append((state, error))
            continue
        for other, reason in damaged:
            note(f"damaged state: {reason}; moved to {_move_aside(other, 'damaged')}, going on from {state.name}")
        if before is not None:
            for earlier in folder.glob("abandoned_*"):  # of a rollback before this one
                shutil.rmtree(earlier, ignore_errors=True)
            for later in state_folders(folder):
                if step_of(later) > step_of(state):
                    _move_aside(later, "abandoned")
        return found
    if damaged:
        raise _none_is_whole(folder, [reason for _, reason in damaged])
    return None


def newest_info(folder: Path) -> dict[str, Any] | None:
    """The info alone of the newest state that looks whole, without reading tensors; ValueError if none does."""
    damaged = []
    for state in state_folders(folder)[::-1]:
        try:
            return read_info(state)
        except DamagedState as error:
            damaged.append(error)
    if damaged:
        raise _none_is_whole(folder, damaged)
    return None


def mark_best(state: Path) -> None:
    """Have `best.json` beside this state name it."""
    replace_json(state.parent / BEST_FILE, {"state": state.name, "step": step_of(state)})


def best_name(folder: Path) -> str | None:
    """Name of the state marked as the best, if one was and is still there."""
    try:
        name = json.loads((folder / BEST_FILE).read_text(encoding="utf-8"))["state"]
    except (OSError, ValueError, KeyError, TypeError):  # none was marked, or the mark is damaged, which costs no run
        return None
    return name if isinstance(name, str) and _NAME.fullmatch(name) and (folder / name).is_dir() else None


def remove_old(folder: Path, keep: int) -> None:
    """Remove all states but the newest `keep` and the best."""
    best = best_name(folder)
    for old in state_folders(folder)[:-keep]:
        if old.name != best:
            # Renamed first: a state must not be seen with half of its files when the remover is killed.
            doomed = old.with_name(f"{old.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
            with contextlib.suppress(FileNotFoundError):  # another writer was faster
                old.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _move_aside(state: Path, word: str) -> Path:
    number = 0
    while (aside := state.with_name(f"{word}_{state.name}{f'.{number}' if number else ''}")).exists():
        number += 1
    with contextlib.suppress(FileNotFoundError):  # every rank loads; another one was faster
        state.rename(aside)
    return aside


def _none_is_whole(folder: Path, reasons: list[DamagedState]) -> ValueError:
    shown = "; ".join(str(reason) for reason in reasons)
    return ValueError(
        f"{folder}: none of {len(reasons)} saved states can be used: {shown}; next: put a whole one back, "
        f"or remove the folder to train from the start"
    )


def _read_info(state: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    path, tensors = state / INFO_FILE, state / TENSOR_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        size = tensors.stat().st_size
    except OSError as error:
        raise _unreadable(Path(error.filename or path), error) from None
    except ValueError as error:
        raise DamagedState(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(info, dict):
        raise DamagedState(f"{path}: holds a {type(info).__name__}, not an object")
    sums = info.pop(CHECKSUMS, None)
    if sums is None:
        return info, None
    if not isinstance(sums, dict) or sums.keys() != {"tensors_sha256", "tensors_bytes", "info_sha256"}:
        raise DamagedState(f"{path}: its {CHECKSUMS!r} are {sums!r:.80}")
    if sums["info_sha256"] != _sha256_of_info(info):
        raise DamagedState(f"{path}: its content is not what was written (sha256)")
    if sums["tensors_bytes"] != size:
        raise DamagedState(f"{tensors}: has {size} bytes, written were {sums['tensors_bytes']}")
    return info, sums


def _unreadable(path: Path, error: OSError) -> ValueError:
    """Missing files and failing disks are damage; a missing right to read or a lost network drive is not."""
    if error.errno in (errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.EISDIR):
        return DamagedState(f"{path}: {error.strerror}")
    return ValueError(f"{path}: cannot be read ({error.strerror}); next: make it readable, then run again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_info(info: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()
