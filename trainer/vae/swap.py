"""Put a folder in the place of another so that a kill leaves the old or the new, never neither."""

import ctypes
import os
import shutil
import sys
from pathlib import Path

from vae_core.files import fsync_folder, rename_folder

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS have the same number


def replace_folder(new: Path, target: Path) -> None:
    """Let the finished folder `new` take the name `target`; what stood there is removed.

    Linux and macOS exchange the two in one step. Elsewhere the old one is parked beside it as
    .old-NAME for the moment between two renames; `recover` brings it back after a crash.
    """
    if not target.exists():
        rename_folder(new, target)
        return
    fsync_folder(new)
    if _exchange(new, target):
        fsync_folder(target.parent)
        shutil.rmtree(new, ignore_errors=True)
        return
    _park_and_rename(new, target)


def recover(target: Path) -> None:
    """Bring back the old folder if a crash came between the two renames."""
    parked = _parked(target)
    if parked.exists() and not target.exists():
        rename_folder(parked, target)


def _parked(target: Path) -> Path:
    return target.with_name(f".old-{target.name}")


def _park_and_rename(new: Path, target: Path) -> None:
    parked = _parked(target)
    shutil.rmtree(parked, ignore_errors=True)
    rename_folder(target, parked)
    try:
        rename_folder(new, target)
    except BaseException:
        rename_folder(parked, target)
        raise
    shutil.rmtree(parked, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system can not."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return library.renamex_np(*names, _EXCHANGE) == 0
        at = ctypes.c_int(_AT_FDCWD)
        return library.renameat2(at, names[0], at, names[1], ctypes.c_uint(_EXCHANGE)) == 0
    except (AttributeError, OSError, TypeError):  # no such call in this system's library
        return False
