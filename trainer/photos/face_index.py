"""The face index: boxes of the faces in photos, by what is in them, in one small Parquet file.

A row is a photo: `photo` (SHA-256 of its bytes, as hex), `width` and `height` (upright, in
pixels), `boxes` (a list of [x, y, width, height] in those pixels) and `scores` (one a box, in
[0, 1]). The schema's metadata say which detector found them, and which version of the search.
Photos of several sets may share a file. It comes from outside, and is read with suspicion.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from trainer.errors import UserError, sentence
from trainer.names import printable
from trainer.photos.boxes import read_boxes
from trainer.photos.face_finder import LOOKING, Found
from trainer.photos.photo_set import Photo
from vae_core.files import replace_file

COLUMNS = ("photo", "width", "height", "boxes", "scores")
FORMAT_KEY, LOOKING_KEY = b"vae_lab.face_index", b"vae_lab.looking"
DETECTOR_KEY = b"vae_lab.detector_sha256"
FORMAT = b"1"
MOST_NUMBERS = 200_000_000  # in a file; more than ten million photos of portraits have
_ROWS_AT_ONCE = 4096


class Faces(NamedTuple):
    """What is known of one photo: its upright size in pixels, and its faces."""

    width: int
    height: int
    found: tuple[Found, ...]


class Making(NamedTuple):
    """How the boxes of an index were found: the detector's SHA-256, the version of the search."""

    detector: str
    looking: str = LOOKING


@dataclass
class FaceIndex:
    """Faces by photo id; `path` is where they are kept, None for memory alone."""

    path: Path | None
    making: Making
    photos: dict[str, Faces] = field(default_factory=dict)
    on_disk: tuple[int, int] | None = None  # time and size of the file as it was read or written

    def faces_of(self, photo: Photo) -> Faces | None:
        """Return what is known of a photo. Raises UserError if that cannot be of this photo."""
        known = self.photos.get(photo.id)
        if known and (known.width, known.height) != (photo.width, photo.height):
            raise _unusable(
                self.path,
                f"it says that {photo.name} has {known.width} x {known.height} pixels, and it has "
                f"{photo.width} x {photo.height}",
            )
        return known

    def save(self) -> None:
        """Write the file, old or new and never half; what another process added is kept."""
        if self.path is None:
            return
        if self.path.exists() and _stamp(self.path) != self.on_disk:
            there = read_index(self.path)
            if there.making == self.making:
                self.photos = there.photos | self.photos
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, self._write)
        self.on_disk = _stamp(self.path)

    def _write(self, handle: BinaryIO) -> None:
        import pyarrow
        from pyarrow import parquet

        whole, numbers = pyarrow.int32(), pyarrow.list_(pyarrow.float64())
        kinds = (pyarrow.string(), whole, whole, pyarrow.list_(numbers), numbers)
        marks = {
            FORMAT_KEY: FORMAT,
            LOOKING_KEY: self.making.looking,
            DETECTOR_KEY: self.making.detector,
        }
        schema = pyarrow.schema(zip(COLUMNS, kinds, strict=True), marks)
        ordered = sorted(self.photos.items())
        columns = [
            [key for key, _ in ordered],
            [faces.width for _, faces in ordered],
            [faces.height for _, faces in ordered],
            [[face.box for face in faces.found] for _, faces in ordered],
            [[face.score for face in faces.found] for _, faces in ordered],
        ]
        parquet.write_table(pyarrow.table(columns, schema=schema), handle, compression="zstd")


def open_index(path: Path, making: Making, say: Callable[[str], None]) -> FaceIndex:
    """Open an index to add to, or begin one; an index that was made otherwise is begun anew.

    Raises UserError for a file that is damaged or something else, which stays as it is.
    """
    if not path.exists():
        return FaceIndex(path, making)
    index = read_index(path)
    if index.making == making:
        return index
    what = "detector" if index.making.detector != making.detector else "version of the search"
    say(f"{printable(str(path))} comes from another {what}: it is made anew")
    return FaceIndex(path, making, on_disk=index.on_disk)


def read_index(path: Path) -> FaceIndex:
    """Read an index whole. Raises UserError where it is missing, damaged or something else."""
    import pyarrow
    from pyarrow import parquet

    stamp = _stamp(path) if path.is_file() else None
    try:
        with parquet.ParquetFile(path) as file:
            making = _making(file)
            return FaceIndex(path, making, dict(_records(file)), stamp)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        said = sentence(error) if isinstance(error, OSError) else str(error)
        raise _unusable(path, said) from error


def _unusable(path: Path | None, why: str) -> UserError:
    return UserError(
        f"expected a face index at {printable(str(path))}, but it cannot be used "
        f"({printable(' '.join(why.split()))[:200]}): give another --face-index, or move that file "
        "away and have it made by --face-detector-weights"
    )


def _making(file: Any) -> Making:
    """Read who made it. Raises ValueError where this is no index, or has too much in it."""
    marks = file.schema_arrow.metadata or {}
    if marks.get(FORMAT_KEY) != FORMAT or not set(COLUMNS) <= set(file.schema_arrow.names):
        raise ValueError("it is a Parquet file of something else")
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    numbers = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    if numbers > MOST_NUMBERS:
        raise ValueError(f"it holds {numbers:,} numbers, at most {MOST_NUMBERS:,}")
    looking, detector = (marks.get(key, b"").decode() for key in (LOOKING_KEY, DETECTOR_KEY))
    return Making(detector, looking)


def _records(file: Any) -> Iterator[tuple[str, Faces]]:
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(COLUMNS)):
        for row in batch.to_pylist():
            yield row["photo"], _faces(row)


def _faces(row: dict[str, Any]) -> Faces:
    """Check one row. Raises ValueError, naming the photo, where anything in it is junk."""
    key, width, height, scores = (row[name] for name in ("photo", "width", "height", "scores"))
    sized = all(isinstance(side, int) and side > 0 for side in (width, height))
    boxes = read_boxes(row["boxes"], width, height) if sized else None
    if not isinstance(key, str) or boxes is None or not _are_scores(scores, len(boxes)):
        raise ValueError(f"photo {str(key)[:16]} has boxes or scores that cannot be")
    return Faces(width, height, tuple(map(Found, boxes, scores)))


def _are_scores(values: Any, count: int) -> bool:
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(isinstance(v, float) and math.isfinite(v) and 0 <= v <= 1 for v in values)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
