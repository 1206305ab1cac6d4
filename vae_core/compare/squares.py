"""The square around a region of a picture: what LPIPS sees of a face, and what close-ups show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Square(NamedTuple):
    """A square part of a picture, in pixels."""

    left: int
    top: int
    side: int

    @property
    def right(self) -> int:
        """The first column beyond it."""
        return self.left + self.side

    @property
    def bottom(self) -> int:
        """The first row beyond it."""
        return self.top + self.side


def square_around(box: Sequence[float], margin: float, height: int, width: int) -> Square:
    """Place the square around a box (left, top, width, height) of a picture of H x W pixels.

    `margin` times as large as the box's longer side, and a square, so that nothing is stretched;
    moved into the picture where it stands out, and no larger than the picture's shorter side.
    """
    x, y, w, h = box
    side = min(max(1, round(max(w, h) * margin)), height, width)
    left = min(max(0, round(x + w / 2 - side / 2)), width - side)
    top = min(max(0, round(y + h / 2 - side / 2)), height - side)
    return Square(left, top, side)
