"""A set of photos: small records of each, and where to read its bytes when they are needed.

No file stays open and no pixel stays in memory, so a set can hold a million photos and travel to
worker processes.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from trainer.names import spreadsheet_cell
from trainer.photos.boxes import Box
from trainer.photos.decoding import WHITE, decode_photo
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.skips import Skip, SkippedPhoto
from vae_core.files import write_text


@dataclass(frozen=True, slots=True)
class Photo:
    """One usable photo.

    id: SHA-256 of its bytes, as hex. name: printable, relative to its source. width, height:
    upright, in pixels. faces: boxes (x, y, width, height) in those pixels; None if not known.
    """

    id: str
    name: str
    width: int
    height: int
    faces: tuple[Box, ...] | None = None


class Entry(NamedTuple):
    """A candidate as its source lists it: the key to read it by, its name, its raw face boxes."""

    key: Any
    name: str
    faces: Any = None


class Source(Protocol):
    """Where photos lie. It travels to worker processes, so it must pickle."""

    name: str  # printable: what the user called it

    def entries(self, skipped: list[Skip], notes: Counter) -> list[Entry]:
        """List the candidates; what cannot be one is added to `skipped` or counted in `notes`."""

    def read(self, key: Any) -> bytes:
        """Read one candidate's bytes. Raises OSError or SkippedPhoto."""


@dataclass
class PhotoSet:
    """Photos of one source, in an order that depends on their contents alone."""

    source: Source
    photos: list[Photo]
    keys: list[Any]
    skipped: list[Skip] = field(default_factory=list)
    notes: Mapping[str, int] = field(default_factory=dict)
    background: tuple[int, int, int] = WHITE
    mixed_in: int = 0  # photos at the end that came from another source, by `joined_sets`

    def __len__(self) -> int:
        return len(self.photos)

    def read(self, index: int) -> bytes:
        """Read the bytes of photo `index`. Raises SkippedPhoto if they cannot be had any more."""
        return read_bytes(self.source, self.keys[index])

    def image(self, index: int) -> Image.Image:
        """Decode photo `index` to RGB, upright, sRGB. Raises SkippedPhoto if it cannot be."""
        return decode_photo(self.read(index), self.background)

    def open(self, index: int) -> OpenPhoto:
        """Open photo `index` for one crop. Raises SkippedPhoto if it cannot be."""
        return OpenPhoto(self.read(index), self.background)

    def subset(self, indices: Sequence[int]) -> "PhotoSet":
        """Return the set of some of these photos; what was skipped stays with the whole."""
        photos = [self.photos[index] for index in indices]
        keys = [self.keys[index] for index in indices]
        return PhotoSet(self.source, photos, keys, background=self.background)

    def without(self, ids: Collection[str]) -> "PhotoSet":
        """Return the set without the photos of these ids."""
        return self.subset([i for i, photo in enumerate(self.photos) if photo.id not in ids])

    def summary(self) -> str:
        """Say in one line how many photos there are, and how many were left out and why."""
        return summary(len(self.photos), self.skipped, self.notes)

    def write_skipped(self, path: Path) -> None:
        """Write every skipped photo to a CSV file: name, reason, detail."""
        write_skipped(path, self.skipped)


def photo_id(data: bytes) -> str:
    """Return the id of a photo: the SHA-256 of its bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def hash_place(photo_id: str) -> float:
    """Map a photo's id to its place in [0, 1): uniform, and a function of its bytes alone."""
    return int(photo_id[:16], 16) / 2**64


def read_bytes(source: Source, key: Any) -> bytes:
    """Read one candidate's bytes, with a failing disk as one more reason to skip it."""
    try:
        return source.read(key)
    except OSError as error:
        raise SkippedPhoto("unreadable", error.strerror or type(error).__name__) from None


def summary(photos: int, skipped: Iterable[Skip], notes: Mapping[str, int]) -> str:
    """Say in one line how many photos there are, and how many were left out and why."""
    reasons = Counter(skip.reason for skip in skipped)
    parts = [f"{photos:,} photo{'' if photos == 1 else 's'}"]
    if reasons:
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        parts.append(f"{reasons.total():,} skipped ({listed})")
    parts += [f"{count:,} {note}" for note, count in notes.items() if count]
    return "; ".join(parts)


def write_skipped(path: Path, skipped: Iterable[Skip]) -> None:
    """Write skipped photos to a CSV file, name, reason, detail, safe to open in a spreadsheet."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Skip._fields)
    writer.writerows([spreadsheet_cell(cell) for cell in skip] for skip in skipped)
    write_text(path, text.getvalue())
