"""Crops around faces, reduced so that faces come at every size, small ones too.

A portrait reduced until its face is 24 pixels high is smaller than a crop. Then several stand side
by side in a grid, each a square out of a photo of its own, as one picture holds many small faces.
"""

from collections.abc import Sequence
from math import ceil, exp, log
from typing import Any, NamedTuple

import torch

from trainer.photos.boxes import Box
from trainer.photos.crops import Window, boxes_within
from trainer.photos.photo_set import Photo

# Squares in a row of the grid, at most: more would leave a face no surroundings, and cost time to
# decode. Where a face would need more, it stays larger than was drawn.
MOST_IN_A_ROW = 4


class Tile(NamedTuple):
    """A square of a photo, and where it stands in a crop: its corner and side, in pixels."""

    index: int  # of the photo, in its set
    window: Window
    left: int
    top: int
    side: int


class Heights(NamedTuple):
    """Between which heights faces are drawn, in pixels of the crop."""

    lowest: int
    highest: int


HEIGHTS = Heights(24, 256)


def plan_face_crop(
    photos: Sequence[Photo],
    index: int,
    others: Sequence[int],
    resolution: int,
    heights: Heights,
    generator: torch.Generator,
    flip: bool,
) -> list[Tile]:
    """Draw a crop of R x R pixels around one of a photo's faces: one square, or a grid of them.

    The face's height is log-uniform between the two heights, and never above the crop's nor its
    own: nothing is enlarged. `others` are the photos with faces that may stand beside it, each
    with one of its faces at that height. The crop is a function of the photos' records and the
    generator.
    """
    draw = _Draws(generator)
    face = draw.one_of(photos[index].faces)
    height = _draw_height(min(face[3], resolution), heights, draw)
    row = _squares_in_a_row(photos[index], face, height, resolution)
    row = min(row, MOST_IN_A_ROW) if len(others) > 1 else 1
    side = ceil(resolution / row)
    own = draw.below(row * row)
    tiles = []
    for place in range(row * row):
        which = index if place == own else draw.one_of(others)
        about = face if place == own else draw.one_of(photos[which].faces)
        window = _window_around(photos[which], about, height, side, draw, flip)
        top, left = (_cell(n, row, side, resolution) for n in divmod(place, row))
        tiles.append(Tile(which, window, left, top, side))
    return tiles


def boxes_of(photos: Sequence[Photo], tiles: Sequence[Tile]) -> list[Box]:
    """Return the faces in a crop, (x, y, width, height) in its pixels."""
    boxes = []
    for tile in tiles:
        within = boxes_within(photos[tile.index].faces or (), tile.window, tile.side)
        boxes += [(tile.left + x, tile.top + y, w, h) for x, y, w, h in within]
    return boxes


def _cell(n: int, row: int, side: int, resolution: int) -> int:
    """Return where the n-th of a row of squares begins; they overlap by a pixel if need be."""
    return round(n * (resolution - side) / max(1, row - 1))


class _Draws:
    """Numbers out of one generator, one after another."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def share(self) -> float:
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def below(self, bound: int) -> int:
        return int(torch.randint(bound, (), generator=self._generator))

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]


def _draw_height(most: float, heights: Heights, draw: _Draws) -> float:
    lowest, highest = (min(height, most) for height in heights)
    return exp(log(lowest) + draw.share() * (log(highest) - log(lowest)))


def _squares_in_a_row(photo: Photo, face: Box, height: float, resolution: int) -> int:
    """Return how many squares of the reduced photo are as wide as the crop."""
    short = min(photo.width, photo.height) * height / face[3]
    return max(1, ceil(resolution / short - 1e-6))


def _window_around(
    photo: Photo, face: Box, height: float, side: int, draw: _Draws, flip: bool
) -> Window:
    """Draw the square that shows a face at a height once it is reduced to `side` pixels.

    The face lies in it wherever chance puts it, and in whole where it fits.
    """
    wanted = round(side * max(1.0, face[3] / height))
    taken = min(wanted, photo.width, photo.height)
    left = _slide(face[0], face[2], taken, photo.width, draw.share())
    top = _slide(face[1], face[3], taken, photo.height, draw.share())
    return Window(left, top, taken, flip and draw.share() < 0.5)


def _slide(start: float, length: float, side: int, whole: int, share: float) -> int:
    """Place an interval of `side` over one of `length`: over all of it, or within it."""
    ends = sorted((start, start + length - side))
    return min(max(0, round(ends[0] + share * (ends[1] - ends[0]))), whole - side)
