"""A small chart of drift: PSNR over trips, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from .drawing import BACKGROUND, FAINT, INK, stack, text

SIZE = (512, 288)  # pixels, of the field with its margins
MARGINS = (56, 16, 24, 32)  # left, top, right, bottom
ORIGINAL, PREVIOUS = (255, 176, 59), (86, 180, 233)  # apart for colour-blind eyes, too
TICKS = 4


def chart(original: Sequence[float], previous: Sequence[float]) -> Image.Image:
    """Draw two curves over trips 1..N: PSNR in dB to the original, and to the trip before.

    Numbers that are NaN or infinite leave a gap.
    """
    low, high = span([*original, *previous])
    picture = Image.new("RGB", SIZE, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _scale(picture, draw, low, high, len(original))
    for values, ink in ((previous, PREVIOUS), (original, ORIGINAL)):
        _curve(draw, [_place(i, v, low, high, len(original)) for i, v in enumerate(values)], ink)
    heads = [text("PSNR in dB to the original", 14, ORIGINAL)]
    heads.append(text("PSNR in dB to the trip before", 14, PREVIOUS))
    return stack([*heads, picture, text("trip", 12, FAINT)], gap=2)


def span(values: Sequence[float]) -> tuple[float, float]:
    """Choose the ends of the upright axis: whole numbers at its ticks, around all that is finite.

    It is at least 4 dB high, so that a difference nobody sees does not look like a cliff.
    """
    finite = [value for value in values if math.isfinite(value)]
    low = math.floor(min(finite, default=0.0))
    step = math.ceil((max(finite, default=0.0) - low) / TICKS)
    return float(low), float(low + TICKS * max(step, 1))


def _place(
    index: int, value: float, low: float, high: float, count: int
) -> tuple[float, float] | None:
    if not math.isfinite(value):
        return None
    left, top, right, bottom = MARGINS
    across = (index + 0.5) / count
    up = (value - low) / (high - low)
    x = left + across * (SIZE[0] - left - right)
    return x, SIZE[1] - bottom - up * (SIZE[1] - top - bottom)


def _curve(
    draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float] | None], ink: tuple
) -> None:
    for here, there in zip(places, places[1:], strict=False):
        if here and there:
            draw.line([here, there], fill=ink, width=2)
    for place in filter(None, places):
        draw.ellipse([place[0] - 3, place[1] - 3, place[0] + 3, place[1] + 3], fill=ink)


def _scale(
    picture: Image.Image, draw: ImageDraw.ImageDraw, low: float, high: float, count: int
) -> None:
    left, _, right, bottom = MARGINS
    for tick in range(TICKS + 1):
        value = low + (high - low) * tick / TICKS
        _, y = _place(0, value, low, high, count)
        draw.line([(left, y), (SIZE[0] - right, y)], fill=FAINT if tick == 0 else (60, 62, 66))
        label = text(f"{value:.4g}", 12, INK)
        picture.paste(label, (left - 8 - label.width, round(y) - label.height // 2))
    step = max(1, math.ceil(count / 16))
    for index in range(0, count, step):
        x, _ = _place(index, low, low, high, count)
        label = text(str(index + 1), 12, INK)
        picture.paste(label, (round(x) - label.width // 2, SIZE[1] - bottom + 8))
