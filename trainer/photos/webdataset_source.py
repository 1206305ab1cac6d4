"""Photos in WebDataset shards: plain .tar files, indexed by (shard, offset, size), never extracted.

A sample is what shares a path up to the first dot: 0001.jpg, 0001.json. Names inside a shard are
shown and compared, and never used as paths.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from trainer.names import printable
from trainer.photos.decoding import LARGEST_BYTES
from trainer.photos.folder_source import OTHER_FILES, PHOTO_SUFFIXES
from trainer.photos.photo_set import Entry
from trainer.photos.skips import Skip, SkippedPhoto

_LARGEST_HEADER = 2**20  # long names and pax records; a real one has some hundred bytes
_LARGEST_JSON = 2**22


class Place(NamedTuple):
    """Where a member's bytes lie."""

    shard: str
    offset: int
    size: int


class ShardSource:
    """Shards by path. Each is opened only while one of its members is read."""

    def __init__(self, name: str, shards: Sequence[Path], extension: str | None = None) -> None:
        self.name = name
        self._shards = sorted(shards)
        self._extensions = {f".{extension}".lower()} if extension else PHOTO_SUFFIXES

    def entries(self, skipped: list[Skip], notes: Counter) -> list[Entry]:
        """List the photos of all shards, with the boxes that stand in their .json."""
        return [entry for shard in self._shards for entry in self._list(shard, skipped, notes)]

    def _list(self, shard: Path, skipped: list[Skip], notes: Counter) -> list[Entry]:
        photos: dict[str, tuple[str, Place]] = {}
        texts: dict[str, Place] = {}
        for name, place in members(shard, skipped):
            shown = f"{shard.name}/{name}"
            key, extension = _sample_key(name)
            if extension == ".json":
                texts.setdefault(key, place)
            elif extension not in self._extensions:
                notes[OTHER_FILES] += 1
            elif key in photos:
                skipped.append(Skip(printable(shown), "double key", f"{key} has a photo already"))
            else:
                photos[key] = shown, place
        return [Entry(place, name, _faces(texts.get(key))) for key, (name, place) in photos.items()]

    def read(self, key: Place) -> bytes:
        """Read a member's bytes by seeking. Raises OSError, or SkippedPhoto if it is cut off."""
        return _read(key, LARGEST_BYTES)


def members(shard: Path, skipped: list[Skip]) -> Iterator[tuple[str, Place]]:
    """Yield (name, place) of a shard's regular members; the rest, and a cut, go to `skipped`."""
    try:
        with _Headers(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in _in_turn(archive):
                if member.isdir():
                    continue
                if reason := _refused(member):
                    name = printable(f"{shard.name}/{member.name}")
                    skipped.append(Skip(name, *reason))
                else:
                    yield member.name, Place(str(shard), member.offset_data, member.size)
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends without its end mark")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        detail = f"{printable(str(error))}; what stands before is used"
        skipped.append(Skip(printable(shard.name), "cut shard", detail))


class _Headers(io.FileIO):
    """A shard of which only headers are read: no size that a header claims is believed."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)


def _in_turn(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield members without keeping them, and end where one claims to lie before the last.

    Negative sizes send older versions of tarfile round in circles (CVE-2025-8194).
    """
    last = -1
    while (member := archive.next()) is not None:
        archive.members = []
        if member.offset <= last or member.size < 0:
            raise tarfile.ReadError("its members do not follow one another")
        last = member.offset
        yield member


def _refused(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Return (reason, detail) for a member that is not taken, None for one that is."""
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse:
        return "not a file", f"tar type {member.type!r}"
    posix, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if posix.is_absolute() or windows.anchor or ".." in posix.parts + windows.parts:
        return "unsafe name", "it points outside of the shard"
    if member.size > LARGEST_BYTES:
        return "file too large", f"{member.size} bytes, at most {LARGEST_BYTES}"
    return None


def _sample_key(name: str) -> tuple[str, str]:
    """Part a member's name at the first dot of its last component: key, extension with dot."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return folder + slash + stem, (dot + extension).lower()


def _faces(place: Place | None) -> Any:
    """Return "faces" out of a sample's .json; None if there is none to be had."""
    if place is None:
        return None
    try:
        content = json.loads(_read(place, _LARGEST_JSON))
    except (OSError, SkippedPhoto, ValueError, RecursionError):
        return None
    return content.get("faces") if isinstance(content, dict) else None


def _read(place: Place, largest: int) -> bytes:
    if place.size > largest:
        raise SkippedPhoto("file too large", f"{place.size} bytes, at most {largest}")
    with open(place.shard, "rb") as file:
        file.seek(place.offset)
        data = file.read(place.size)
    if len(data) < place.size:
        raise SkippedPhoto("cut off", f"{len(data)} of {place.size} bytes")
    return data
