"""Read face boxes that came with a photo: (x, y, width, height) in its upright pixels."""

import math
from collections.abc import Iterable
from typing import Any

Box = tuple[float, float, float, float]

LEAST_IN_VIEW = 0.5  # a face of which less than this part is left by a crop is not counted


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


def clip(box: Box, width: int, height: int) -> Box | None:
    """Clip a box to a picture; None if too little of it is left, or nothing of a pixel's size."""
    x, y, w, h = box
    right, bottom = min(x + w, width), min(y + h, height)
    x, y = max(x, 0.0), max(y, 0.0)
    kept_w, kept_h = right - x, bottom - y
    if min(kept_w, kept_h) < 1 or kept_w * kept_h < LEAST_IN_VIEW * w * h:
        return None
    return x, y, kept_w, kept_h
