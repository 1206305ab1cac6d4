"""Look at every candidate once before training: read, hash, decode as a check, sort, count."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from trainer.names import printable
from trainer.photos.boxes import Box, read_boxes
from trainer.photos.decoding import WHITE, probe_photo
from trainer.photos.photo_set import Entry, Photo, PhotoSet, Source, photo_id, read_bytes
from trainer.photos.skips import Skip, SkippedPhoto

Progress = Callable[[int, int], object]  # is told (candidates done, all candidates)

TOO_SMALL = "smaller than --resolution"
JUNK_FACES = "with unreadable face boxes, taken as without faces"
# Pillow decodes outside Python's lock. A few threads more than cores cover the waits for the
# disk; each may hold one large photo in memory, so not many.
_THREADS = min(8, (os.cpu_count() or 1) + 2)
_AT_ONCE = 256


class Usable(NamedTuple):
    """A candidate that passed, with the key to read it by again."""

    photo: Photo
    key: object
    junk_faces: bool


def scan(
    source: Source,
    smallest: int,
    background: tuple[int, int, int] = WHITE,
    progress: Progress | None = None,
) -> PhotoSet:
    """Check all candidates of a source and return the usable ones, ordered by content.

    The order is by SHA-256 of the bytes, because names differ between machines (case, Unicode
    form, separators) and contents do not. Of equal contents the first name stays.
    """
    skipped: list[Skip] = []
    notes: Counter = Counter()
    usable: dict[str, Usable] = {}
    entries = source.entries(skipped, notes)
    for done, result in enumerate(_examined(source, entries, smallest), start=1):
        if isinstance(result, Usable) and result.photo.id in usable:
            twin = usable[result.photo.id].photo.name
            result = Skip(result.photo.name, "duplicate", f"same bytes as {twin}")
        if isinstance(result, Skip):
            skipped.append(result)
        else:
            usable[result.photo.id] = result
            notes[JUNK_FACES] += result.junk_faces
        if progress:
            progress(done, len(entries))
    ordered = [usable[photo_id] for photo_id in sorted(usable)]
    photos, keys = [one.photo for one in ordered], [one.key for one in ordered]
    return PhotoSet(source, photos, keys, skipped, dict(notes), background)


def _examined(source: Source, entries: Iterable[Entry], smallest: int) -> Iterator[Usable | Skip]:
    """Examine candidates in threads, in order, a bounded number at a time."""
    entries = iter(entries)
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := list(islice(entries, _AT_ONCE)):
            yield from pool.map(lambda entry: examine(source, entry, smallest), some)


def examine(source: Source, entry: Entry, smallest: int) -> Usable | Skip:
    """Read and check one candidate: usable, or skipped for a reason."""
    name = printable(entry.name)
    try:
        data = read_bytes(source, entry.key)
        width, height = probe_photo(data)
        check_size(width, height, smallest)
    except SkippedPhoto as skip:
        return Skip(name, skip.reason, skip.detail)
    faces, junk = known_faces(entry.faces, width, height)
    photo = Photo(photo_id(data), name, width, height, faces)
    return Usable(photo, entry.key, junk)


def check_size(width: int, height: int, smallest: int) -> None:
    """Raise SkippedPhoto for a photo whose short side is under `smallest` pixels."""
    if min(width, height) < smallest:
        raise SkippedPhoto(TOO_SMALL, f"{width} x {height}, at least {smallest} a side")


def known_faces(raw: object, width: int, height: int) -> tuple[tuple[Box, ...] | None, bool]:
    """Return (boxes, junk): None for not given, no box at all where any of them is junk."""
    if raw is None:
        return None, False
    boxes = read_boxes(raw, width, height)
    return (boxes, False) if boxes is not None else ((), True)
