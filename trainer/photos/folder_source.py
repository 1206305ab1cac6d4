"""Photos as files: a folder, searched through, or a given list of files."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.names import printable
from trainer.photos.decoding import LARGEST_BYTES
from trainer.photos.photo_set import Entry
from trainer.photos.skips import Skip, SkippedPhoto

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp"}
    | {".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif"}
)
# Photos all the same: whoever has a folder full of them must hear why none was taken.
UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".psd", ".exr"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
OTHER_FILES = "other files"


class FileSource:
    """Files by path. Each is opened only while it is read."""

    def __init__(self, name: str, files: Iterable[Path]) -> None:
        self.name = name
        self._files = [str(path) for path in files]

    def entries(self, skipped: list[Skip], notes: Counter) -> list[Entry]:
        """List the given files."""
        return [Entry(path, os.path.basename(path)) for path in self._files]

    def read(self, key: str) -> bytes:
        """Read the file at `key`. Raises OSError, or SkippedPhoto if it is too large to hold."""
        size = os.stat(key).st_size
        if size > LARGEST_BYTES:
            raise SkippedPhoto("file too large", f"{size} bytes, at most {LARGEST_BYTES}")
        return Path(key).read_bytes()


class FolderSource(FileSource):
    """A folder and all below it, links followed, each real folder once."""

    def __init__(self, root: Path) -> None:
        super().__init__(printable(root.resolve().name) or "the folder", ())
        self._root = root

    def entries(self, skipped: list[Skip], notes: Counter) -> list[Entry]:
        """List photos by suffix, sorted by name; the rest is counted, or skipped with a reason."""
        found = []
        for path in sorted(walk(self._root, skipped)):
            name = path.relative_to(self._root).as_posix()
            suffix = path.suffix.lower()
            if suffix in UNREAD_SUFFIXES:
                hint = f"{suffix} cannot be read here: convert it to JPEG or PNG"
                skipped.append(Skip(printable(name), "format not supported", hint))
            elif suffix not in PHOTO_SUFFIXES:
                notes[OTHER_FILES] += 1
            elif reason := _not_a_file(path):
                skipped.append(Skip(printable(name), *reason))
            else:
                found.append(Entry(str(path), name))
        return found


def walk(root: Path, skipped: list[Skip]) -> Iterator[Path]:
    """Yield what lies in a folder and below, in no order: files, pipes, dangling links.

    A link to a folder is followed once: a folder is known by (device, inode), so that loops end.
    Names that begin with a dot are passed over: thumbnails, bins, and what macOS leaves beside
    each photo.
    """

    def unreadable(error: OSError) -> None:
        name = os.path.relpath(error.filename, root)
        skipped.append(Skip(printable(name), "unreadable", error.strerror or "folder"))

    seen = {_identity(root)}
    for folder, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and _first_time(Path(folder, name), seen)
        )
        yield from (Path(folder, name) for name in files if name[0] != ".")


def _first_time(folder: Path, seen: set) -> bool:
    identity = _identity(folder)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _identity(folder: Path) -> tuple[int, int] | str:
    """What makes a folder itself: (device, inode), or its real path where there is no inode."""
    try:
        status = os.stat(folder)
    except OSError:
        return str(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _not_a_file(path: Path) -> tuple[str, str] | None:
    """Return (reason, detail) for what must not be opened: a pipe would block for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "unreadable", error.strerror or type(error).__name__
    return None if stat.S_ISREG(mode) else ("not a file", stat.filemode(mode))
