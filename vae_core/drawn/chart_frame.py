"""The frame of a chart: where data lie in it, its axes with round numbers, and its words.

Drawn with Pillow at twice the size and reduced, so that lines are smooth; words come after that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .drawing import BACKGROUND, FAINT, INK, text

SIZE = (960, 540)  # pixels
MARGINS = (70, 44, 24, 56)  # left, top, right, bottom
ZOOM = 2

Colour = tuple[int, int, int]


class Plane(NamedTuple):
    """The part of a chart that holds data: its limits in data, drawn into SIZE less MARGINS."""

    left: float
    right: float
    bottom: float
    top: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Find the pixel of a place."""
        start, end = MARGINS[0], SIZE[0] - MARGINS[2]
        low, high = SIZE[1] - MARGINS[3], MARGINS[1]
        across = start + (x - self.left) / (self.right - self.left) * (end - start)
        return across, low + (y - self.bottom) / (self.top - self.bottom) * (high - low)

    def zoomed(self, x: float, y: float) -> tuple[float, float]:
        """Find the pixel of a place on the larger canvas."""
        across, down = self.at(x, y)
        return ZOOM * across, ZOOM * down


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Choose round numbers between two: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Make the larger canvas, and what draws on it."""
    canvas = Image.new("RGB", (ZOOM * SIZE[0], ZOOM * SIZE[1]), BACKGROUND)
    return canvas, ImageDraw.Draw(canvas)


def reduced(canvas: Image.Image) -> Image.Image:
    """Bring the larger canvas to SIZE."""
    return canvas.resize(SIZE, Image.Resampling.BOX)


def label(picture: Image.Image, plane: Plane, title: str, across: str, upward: str) -> None:
    """Write title, names of axes and numbers, and draw the frame."""
    draw = ImageDraw.Draw(picture)
    corners = [plane.at(plane.left, plane.bottom), plane.at(plane.right, plane.top)]
    (left, bottom), (right, top) = corners
    draw.rectangle((left, top, right, bottom), outline=FAINT)
    for x in ticks(plane.left, plane.right):
        place = plane.at(x, plane.bottom)
        draw.line([place, (place[0], place[1] + 4)], fill=FAINT)
        write(picture, f"{x:.4g}", (round(place[0]), round(place[1]) + 6), centred=True)
    for y in ticks(plane.bottom, plane.top, 5):
        place = plane.at(plane.left, y)
        draw.line([(place[0] - 4, place[1]), place], fill=FAINT)
        words = text(f"{y:.3g}", 12, FAINT)
        picture.paste(words, (max(0, round(place[0]) - 8 - words.width), round(place[1]) - 8))
    write(picture, title, (MARGINS[0], 6))
    write(picture, upward, (MARGINS[0], 24), FAINT)
    write(picture, across, (round(right + left) // 2, SIZE[1] - 24), FAINT, centred=True)


def list_keys(picture: Image.Image, keys: Sequence[tuple[str, Colour]]) -> None:
    """List what the colours stand for, inside the frame at the top right."""
    drawn = [text(words, 12, ink) for words, ink in keys]
    left = SIZE[0] - MARGINS[2] - 8 - max(words.width for words in drawn)
    for line, words in enumerate(drawn):
        picture.paste(words, (left, MARGINS[1] + 6 + 17 * line))


def write(
    picture: Image.Image,
    words: str,
    corner: tuple[int, int],
    ink: Colour = INK,
    centred: bool = False,
) -> None:
    """Write words at (left, top), or centred on `left`."""
    drawn = text(words, 13, ink)
    picture.paste(drawn, (corner[0] - drawn.width // 2 if centred else corner[0], corner[1]))


def message_chart(title: str, message: str) -> Image.Image:
    """Draw a sentence where a chart cannot be drawn."""
    picture = Image.new("RGB", SIZE, BACKGROUND)
    write(picture, title, (MARGINS[0], 12))
    words = text(message, 20)
    picture.paste(words, ((SIZE[0] - words.width) // 2, (SIZE[1] - words.height) // 2))
    return picture
