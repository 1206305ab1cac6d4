"""Writing that leaves a file or folder old or new, never half: beside it, synced, then renamed.

The recipe (write, fsync, rename, fsync the folder) is the one that LWN's "That massive filesystem
thread" and SQLite's documentation give for surviving a crash: https://lwn.net/Articles/326471/
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_TRIES = 6
_FIRST_WAIT = 0.02  # seconds; doubled at every try, 0.62 s in all
_BLOCK = 1 << 20


def replace_file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place in one step.

    The mode follows the umask. If anything fails, the unfinished file is removed, `path` is as
    it was, and the error goes on to the caller.
    """
    beside = path.parent / f".tmp-{path.name[:60]}-{os.getpid()}"  # names end at 255 bytes
    try:
        with open(beside, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        _persist(os.replace, beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 text with "\n" ends, whole or not at all; lone surrogates become `\udcXX`."""
    data = text.encode("utf-8", "backslashreplace")
    replace_file(path, lambda handle: _write_all(handle, data))


def write_json(path: Path, value: Any) -> None:
    """Write JSON in insertion order, indented by 2; ValueError on NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write_all(handle: BinaryIO, data: bytes) -> None:
    handle.write(data)


def fsync_folder(path: Path) -> None:
    """Make the renames inside a folder survive a power cut, where the system can (not Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_folder(source: Path, target: Path) -> None:
    """Rename a folder onto a name that is free; FileExistsError if it is not."""
    if target.exists():
        raise FileExistsError(f"{target} is there already: a folder is renamed onto a free name")
    fsync_folder(source)
    _persist(os.rename, source, target)
    fsync_folder(target.parent)


def _persist(rename: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Rename, trying again for a moment: on Windows a virus scanner may hold either name."""
    for wait in [_FIRST_WAIT * 2**i for i in range(_TRIES - 1)]:
        try:
            return rename(source, target)
        except PermissionError:
            time.sleep(wait)
    return rename(source, target)


def sha256_file(path: Path) -> str:
    """Hash a file's bytes: 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def move_file(source: Path, target: Path) -> None:
    """Put a finished and synced file in the place of another on the same disk, in one step."""
    _persist(os.replace, source, target)
    fsync_folder(target.parent)
