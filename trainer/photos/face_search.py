"""Photos with their faces: as they came, or from the face index, or found now and put into it."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from trainer.photos.boxes import Box
from trainer.photos.face_finder import FaceFinder, Found, detector_weights
from trainer.photos.face_index import FaceIndex, Faces, Making, open_index, read_index
from trainer.photos.photo_set import Photo, PhotoSet
from trainer.photos.scan import Progress
from trainer.photos.skips import SkippedPhoto

INDEX_NAME = "faces.parquet"  # in a run's folder
SAVE_EVERY = 10.0  # seconds that a kill may cost
SAVING_SHARE = 0.05  # of the time, at most, goes into saving an index that has grown large


class FaceSearch:
    """Where boxes come from, beside a data set's own: an index, and a detector that fills it.

    Without `finder`, photos that are not in the index stay unknown. `unreadable`: ids of photos
    that could not be looked at.
    """

    def __init__(self, index: FaceIndex, finder: FaceFinder | None) -> None:
        self.index = index
        self.unreadable: set[str] = set()
        self._finder = finder
        self._saved, self._pause, self._new = time.monotonic(), SAVE_EVERY, 0

    def known(self, photos: PhotoSet, progress: Progress | None = None) -> PhotoSet:
        """Return the set with its faces, having looked for those that were not known.

        A photo that cannot be read keeps None: whoever reads it next says so.
        """
        self.look(photos, progress)
        faces = [replace(photo, faces=self._boxes(photo)) for photo in photos.photos]
        return replace(photos, photos=faces)

    def look(
        self, photos: PhotoSet, progress: Progress | None = None, seconds: float = math.inf
    ) -> bool:
        """Look at the photos that are not known, for so long; tell whether all are done.

        `progress` is told how many of them are. What was found is kept however this ends.
        """
        until = time.monotonic() + seconds
        lacking = self._lacking(photos) if self._finder else []
        try:
            for done, i in enumerate(lacking, start=1):
                self._look(photos, i)
                if progress:
                    progress(done, len(lacking))
                if time.monotonic() > until:
                    return done == len(lacking)
        finally:
            self._save()
        return True

    def _lacking(self, photos: PhotoSet) -> list[int]:
        known = [self._boxes(photo) is not None for photo in photos.photos]
        lacking = [i for i in range(len(photos)) if not known[i]]
        return [i for i in lacking if photos.photos[i].id not in self.unreadable]

    def found(self, photo: Photo) -> tuple[Found, ...]:
        """Return the faces of the index in a photo, with their scores; none if it is not there."""
        known = self.index.faces_of(photo)
        return known.found if known else ()

    def _boxes(self, photo: Photo) -> tuple[Box, ...] | None:
        if photo.faces is not None:
            return photo.faces
        known = self.index.faces_of(photo)
        return None if known is None else tuple(face.box for face in known.found)

    def _look(self, photos: PhotoSet, i: int) -> None:
        try:
            image = photos.image(i)
        except SkippedPhoto:
            self.unreadable.add(photos.photos[i].id)
            return
        self.index.photos[photos.photos[i].id] = self._faces(image)
        self._new += 1
        if time.monotonic() - self._saved > self._pause:
            self._save()

    def _faces(self, image: Image.Image) -> Faces:
        return Faces(*image.size, self._finder.find(image))

    def _save(self) -> None:
        if self._new:
            began = time.monotonic()
            self.index.save()
            self._saved, self._new = time.monotonic(), 0
            self._pause = max(SAVE_EVERY, (self._saved - began) / SAVING_SHARE)


def open_search(
    weights: str | None,
    path: str | Path | None,
    say: Callable[[str], None] = print,
    looks: bool = True,
) -> FaceSearch | None:
    """Open what --face-detector-weights and --face-index give; None if they give nothing.

    With a detector, an index that is not there yet is begun; without a path it lives in memory.
    Where `looks` is false the index is only read. Raises UserError.
    """
    path = None if path is None else Path(path)
    if weights is None:
        return None if path is None else FaceSearch(read_index(path), None)
    finder = FaceFinder(detector_weights(weights))
    making = Making(finder.sha256)
    index = FaceIndex(None, making) if path is None else open_index(path, making, say)
    return FaceSearch(index, finder if looks else None)
