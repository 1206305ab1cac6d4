"""Random crops of a photo at random scales, each a function of (seed, epoch, photo).

Where a crop lies is drawn before any pixel is read, so that it is known without reading them, too.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from trainer.photos.boxes import Box, clip
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.scan import check_size

# Raised with every change that gives other pixels for the same photo and draw, of decoding too:
# what was cached before is then made anew.
CROPS_VERSION = 2


class Window(NamedTuple):
    """A square of a photo, in its upright pixels, and whether it is mirrored."""

    left: int
    top: int
    side: int
    mirrored: bool


def sample_generator(seed: int, epoch: int, sample_id: str, purpose: str) -> torch.Generator:
    """Return a CPU generator for one purpose ("crop", "noise", "order") and one sample.

    It depends on its arguments alone: not on workers, processes, or what was drawn before.
    """
    words = f"{seed}/{epoch}/{purpose}/{sample_id}"
    number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def random_window(
    size: tuple[int, int], resolution: int, generator: torch.Generator, flip: bool = True
) -> Window:
    """Draw a square out of a photo of (width, height): any place, log-uniform in size.

    Its side lies between `resolution` and the photo's short side; half of the squares are
    mirrored. Raises SkippedPhoto for a photo under `resolution` pixels a side.
    """
    width, height = size
    check_size(width, height, resolution)
    # Always four draws, so that switching flips off changes nothing else.
    scale, across, down, mirror = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    side = round(resolution * (min(width, height) / resolution) ** scale)
    # Whole pixels: a crop at its own size is then a copy, not a resampling.
    left, top = _place(across, width - side), _place(down, height - side)
    return Window(left, top, side, flip and mirror < 0.5)


def cut(photo: OpenPhoto, window: Window, resolution: int) -> np.ndarray:
    """Cut a window out of a photo and reduce it to uint8 [R, R, 3], R = resolution.

    Never enlarged and never stretched; reduced by Lanczos with antialiasing. Raises SkippedPhoto
    for a damaged photo.
    """
    crop = photo.square(window.left, window.top, window.side, resolution)
    if window.mirrored:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(crop)


def boxes_within(faces: Sequence[Box], window: Window, resolution: int) -> list[Box]:
    """Carry a photo's boxes into a window reduced to R x R; those mostly outside are dropped."""
    by = resolution / window.side
    moved = [
        ((x - window.left) * by, (y - window.top) * by, w * by, h * by) for x, y, w, h in faces
    ]
    if window.mirrored:
        moved = [(resolution - x - w, y, w, h) for x, y, w, h in moved]
    clipped = [clip(box, resolution, resolution) for box in moved]
    return [box for box in clipped if box is not None]


def _place(draw: float, room: int) -> int:
    """Spread a draw in [0, 1) evenly over the whole numbers 0 .. room."""
    return min(int(draw * (room + 1)), room)
