"""Checkpoints that are complete or absent: written beside, hashed, renamed, and checked when read.

RUN/checkpoints/step_000500/
    weights.safetensors   the whole VAE as it would be exported: averaged weights, adapters merged
    training.safetensors  the float32 master weights (`weight.*`) and their average (`average.*`)
    optimizer.pt          optimizer, gradient scaler, random states
    discriminator.safetensors  the weights of --gan-weight's discriminator, where there is one
    state.json            step, position in the data order, time spent, best so far
    manifest.json         names, sizes and SHA-256 of the others; written last
RUN/checkpoints/best      the name of the best of them
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from vae_core.files import rename_folder, sha256_file, write_json, write_text

Writers = Mapping[str, Callable[[Path], None]]
FILES = ("weights.safetensors", "training.safetensors", "optimizer.pt", "state.json")
MANIFEST = "manifest.json"
BEST = "best"
_BEING_WRITTEN, _BEING_REMOVED = ".tmp-", ".old-"


def folder_name(step: int) -> str:
    """Name a checkpoint's folder after its step: step_000500."""
    return f"step_{step:06d}"


def step_of(folder: Path) -> int:
    """Read the step back from a checkpoint's name."""
    return int(folder.name.removeprefix("step_"))


def all_checkpoints(root: Path) -> list[Path]:
    """List the checkpoints below RUN/checkpoints, oldest step first; clocks play no part."""
    found = [path for path in root.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted(found, key=step_of)


def save_checkpoint(root: Path, step: int, writers: Writers) -> Path:
    """Write a checkpoint whole or not at all, and return its folder.

    Each writer makes one file in the folder that it is given. A failure removes what was begun
    and leaves older checkpoints as they were.
    """
    root.mkdir(exist_ok=True)
    target, begun = root / folder_name(step), root / (_BEING_WRITTEN + folder_name(step))
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir()
    try:
        for name, write in writers.items():
            write(begun / name)
        write_json(begun / MANIFEST, _manifest(begun, step, writers))
        remove_checkpoint(target)
        rename_folder(begun, target)
    except BaseException:
        shutil.rmtree(begun, ignore_errors=True)
        raise
    return target


def _manifest(folder: Path, step: int, names: Writers) -> dict[str, Any]:
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in names
    }
    return {"step": step, "files": files}


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; it stops counting as one before its first file goes."""
    if not folder.exists():
        return
    going = folder.with_name(_BEING_REMOVED + folder.name)
    shutil.rmtree(going, ignore_errors=True)
    rename_folder(folder, going)
    shutil.rmtree(going, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what a killed process left half-written or half-removed."""
    for leftover in [*root.glob(_BEING_WRITTEN + "*"), *root.glob(_BEING_REMOVED + "*")]:
        shutil.rmtree(leftover, ignore_errors=True)
        leftover.unlink(missing_ok=True)


def thin_out(root: Path, keep: int) -> None:
    """Keep the newest `keep` checkpoints and the best one; remove the others.

    One that cannot be removed (somebody reads it on Windows, say) stays until the next time.
    """
    best = best_checkpoint(root)
    for folder in all_checkpoints(root)[:-keep]:
        if folder != best:
            with suppress(OSError):
                remove_checkpoint(folder)


def mark_best(root: Path, step: int | None) -> None:
    """Write down which checkpoint is the best: a text file, as links do not exist everywhere.

    None takes the mark away.
    """
    if step is None:
        (root / BEST).unlink(missing_ok=True)
    else:
        write_text(root / BEST, folder_name(step) + "\n")


def best_checkpoint(root: Path) -> Path | None:
    """Return the checkpoint that `best` names, if it is there."""
    try:
        folder = root / Path((root / BEST).read_text(encoding="utf-8").strip()).name
    except (OSError, UnicodeDecodeError):
        return None
    return folder if folder in all_checkpoints(root) else None


def fault(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None if it is as it was written."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        names = dict.fromkeys((*FILES, *files))
        faults = (_file_fault(folder / name, files.get(name)) for name in names)
        return next(filter(None, faults), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} cannot be read ({type(error).__name__})"


def _file_fault(path: Path, entry: Mapping[str, Any] | None) -> str | None:
    if entry is None:
        return f"{path.name} is not in its manifest"
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"{path.name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
    return None if sha256_file(path) == entry["sha256"] else f"{path.name} was changed or damaged"


def newest_complete(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is whole, and a sentence on each newer one passed over.

    None with no sentence means that there is no checkpoint at all. Nothing is removed.
    """
    passed_over = []
    for folder in reversed(all_checkpoints(root)):
        wrong = fault(folder)
        if wrong is None:
            return folder, passed_over
        passed_over.append(f"{folder.name} is not used: {wrong}")
    return None, passed_over


def require_complete(root: Path) -> tuple[Path | None, list[str]]:
    """As `newest_complete`, but if all are damaged it is an error, not a fresh start."""
    folder, passed_over = newest_complete(root)
    if folder is None and passed_over:
        raise UserError(
            f"no checkpoint under {root} is whole ({'; '.join(passed_over)}); restore one from a "
            "copy, or begin anew with another --output"
        )
    return folder, passed_over
