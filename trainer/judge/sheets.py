"""Sheets of small faces: photos reduced until their largest face is small, laid side by side.

Portraits hold hardly any small faces, and small faces are what a VAE smears. So where a set has
few of them, its photos with faces are seen once more, reduced (never enlarged), on canvases that
are encoded and decoded whole. Which photo lies where depends on the set alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainer.judge.evaluation import faces_in_view
from trainer.judge.regions import SMALL_BELOW
from trainer.photos.boxes import Box, clip
from trainer.photos.photo_set import Photo, PhotoSet
from trainer.photos.skips import SkippedPhoto

ENOUGH = 30  # small faces in a set's photos as evaluated: so many need no sheets
CANVAS = 512  # side of a sheet in pixels, less what is over a multiple of the VAE's ratio
FACE_HEIGHT = 48  # of a photo's largest face on a sheet, in pixels
GREY = 128  # what is left over of a sheet


class Place(NamedTuple):
    """Where a photo lies on its sheet, in pixels; `index` is its place in its set."""

    index: int
    left: int
    top: int
    width: int
    height: int


Sheet = list[Place]


def plan_sheets(photos: Sequence[Photo], eval_resolution: int, multiple: int) -> list[Sheet]:
    """Lay the photos with faces out on sheets; none where the photos show enough small faces."""
    if count_small(photos, eval_resolution, multiple) >= ENOUGH:
        return []
    return lay_out(photos, canvas_side(multiple))


def count_small(photos: Sequence[Photo], eval_resolution: int, multiple: int) -> int:
    """Count the faces under 64 px in the photos as evaluated."""
    return sum(
        box[3] < SMALL_BELOW
        for photo in photos
        for box in faces_in_view(
            (photo.width, photo.height), photo.faces or (), eval_resolution, multiple
        )
    )


def canvas_side(multiple: int) -> int:
    """Return the side of a sheet for a VAE that takes sides of this multiple."""
    return max(1, CANVAS // multiple) * multiple


def lay_out(photos: Sequence[Photo], side: int) -> list[Sheet]:
    """Lay photos with faces side by side in rows, by their ids: nothing overlaps or is cut."""
    sheets: list[Sheet] = []
    left = top = row = 0  # where the next photo goes, and the height of its row
    for index in sorted(range(len(photos)), key=lambda i: photos[i].id):
        if not photos[index].faces:
            continue
        width, height = reduced(photos[index], side)
        if left + width > side:
            left, top, row = 0, top + row, 0
        if not sheets or top + height > side:
            sheets.append([])
            left = top = row = 0
        sheets[-1].append(Place(index, left, top, width, height))
        left, row = left + width, max(row, height)
    return sheets


def reduced(photo: Photo, side: int) -> tuple[int, int]:
    """Return a photo's (width, height) on a sheet: its largest face 48 px high, or less.

    Less where the photo has it smaller already, and where the photo would not fit on a canvas.
    """
    tallest = max(box[3] for box in photo.faces)
    scale = min(1.0, FACE_HEIGHT / tallest, side / photo.width, side / photo.height)
    return max(1, round(photo.width * scale)), max(1, round(photo.height * scale))


def faces_at(photo: Photo, place: Place) -> list[Box]:
    """Return a photo's faces in pixels of its place on a sheet."""
    across, down = place.width / photo.width, place.height / photo.height
    moved = [(x * across, y * down, w * across, h * down) for x, y, w, h in photo.faces]
    clipped = [clip(box, place.width, place.height) for box in moved]
    return [box for box in clipped if box is not None]


def draw(photos: PhotoSet, sheet: Sheet, side: int) -> tuple[np.ndarray, Sheet]:
    """Draw a sheet: uint8 [side, side, 3], and the places of the photos that could be read."""
    canvas = np.full((side, side, 3), GREY, np.uint8)
    drawn = []
    for place in sheet:
        try:
            image = photos.image(place.index)
        except SkippedPhoto:
            continue
        size = place.width, place.height
        if image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        rows = slice(place.top, place.top + place.height)
        canvas[rows, place.left : place.left + place.width] = np.asarray(image)
        drawn.append(place)
    return canvas, drawn
