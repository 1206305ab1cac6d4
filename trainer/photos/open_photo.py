"""One square out of a photo, with no more of the photo decoded than the square takes."""

from math import ceil, floor

from PIL import Image

from trainer.photos.colours import flat_rgb
from trainer.photos.decoding import (
    JPEGS,
    WHITE,
    decode_photo,
    failures_as_skips,
    open_header,
    orientation,
    upright,
)

_REDUCTIONS = (8, 4, 2)  # at which libjpeg decodes for a fraction of the cost
# Pixels that a square keeps on each side per pixel that it is reduced to, before Lanczos. On photos
# of 1,000 pixels a side, such squares and fully decoded ones are 51 dB apart in the median, 45 dB
# at worst; with 1 instead of 2 it would be 44 and 31.
_KEPT = 2
_REACH = 3  # Lanczos looks as many output pixels far


class OpenPhoto:
    """A photo's bytes, of which squares can be cut out.

    size: upright (width, height), in pixels. A JPEG says it in its header, and is decoded when a
    square is cut, at a half, a quarter or an eighth where that is hardly seen, and once for all
    squares that take the same; other formats are decoded as they are opened. Opening and cutting
    raise SkippedPhoto, and nothing else, for what cannot be used.
    """

    def __init__(self, data: bytes, background: tuple[int, int, int] = WHITE) -> None:
        """Read the header, and of anything but a JPEG the pixels, alpha laid on `background`."""
        with failures_as_skips():
            image = open_header(data)
            self._jpeg = data if image.format in JPEGS else None
            self._turn = orientation(image) if self._jpeg else 1
            self._image = None if self._jpeg else decode_photo(data, background)
        self._stored = image.size if self._image is None else self._image.size
        self._decoded: dict[int, Image.Image] = {}  # by how much it was reduced
        self.size = self._stored[::-1] if self._turn >= 5 else self._stored

    def square(self, left: int, top: int, side: int, resolution: int) -> Image.Image:
        """Return a square of the upright photo, in its pixels, reduced to RGB [R, R]."""
        if self._image is not None:
            return _reduced(self._image, (left, top, left + side, top + side), resolution)
        with failures_as_skips():
            by = _reduction(side, resolution)
            image = self._reduced_by(by)
            box = tuple(edge / by for edge in self._stored_box(left, top, side))
            near, within = _surroundings(image, box, resolution)
            cut = _reduced(flat_rgb(near, WHITE), within, resolution)
            return upright(cut, self._turn)

    def _reduced_by(self, by: int) -> Image.Image:
        if by not in self._decoded:
            image = open_header(self._jpeg)
            image.draft(image.mode, tuple(length // by for length in image.size))
            self._decoded[by] = image
        return self._decoded[by]

    def _stored_box(self, left: int, top: int, side: int) -> tuple[int, int, int, int]:
        """Return where an upright square lies in the pixels as they are stored."""
        if self._turn in (2, 3, 6, 7):
            left = self.size[0] - left - side
        if self._turn in (3, 4, 7, 8):
            top = self.size[1] - top - side
        if self._turn >= 5:
            left, top = top, left
        return left, top, left + side, top + side


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _reduction(side: int, resolution: int) -> int:
    """Return by how much a photo may be reduced as it is decoded: 8, 4, 2 or 1."""
    return next((by for by in _REDUCTIONS if side >= by * _KEPT * resolution), 1)


def _surroundings(image: Image.Image, box: Box, resolution: int) -> tuple[Image.Image, Box]:
    """Cut out what a box is computed from, and where the box lies in it.

    Colour profiles are then applied to no more than that.
    """
    margin = ceil(_REACH * max(1.0, (box[2] - box[0]) / resolution)) + 1
    left, top = (max(0, floor(edge) - margin) for edge in box[:2])
    right, bottom = (
        min(length, ceil(edge) + margin) for edge, length in zip(box[2:], image.size, strict=True)
    )
    within = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return image.crop((left, top, right, bottom)), within


def _reduced(image: Image.Image, box: Box, resolution: int) -> Image.Image:
    size = (resolution, resolution)
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
