"""Read face boxes that came with a photo: (x, y, width, height) in its upright pixels."""

import math
from collections.abc import Iterable
from typing import Any

Box = tuple[float, float, float, float]


def read_boxes(value: Any, width: int, height: int) -> tuple[Box, ...] | None:
    """Return the boxes of one photo, cut to its `width` x `height`; None if any of them is junk.

    Takes a list of [x, y, width, height], or a mapping with such a list under "bbox" (as WIDER
    FACE has it). Junk is what is not four finite numbers, has a negative corner or no area, or
    lies outside the photo: one such box makes all of that photo's boxes untrustworthy.
    """
    if isinstance(value, dict):
        value = value.get("bbox")
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return None
    boxes = [_box(item, width, height) for item in value]
    return None if None in boxes else tuple(box for box in boxes if box)


def _box(value: Any, width: int, height: int) -> Box | None:
    try:
        x, y, w, h = (float(number) for number in value if not isinstance(number, str | bytes))
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(map(math.isfinite, (x, y, w, h))) or min(x, y) < 0 or min(w, h) <= 0:
        return None
    if x >= width or y >= height:
        return None
    return x, y, min(w, width - x), min(h, height - y)
