"""Random crops of a photo at random scales, each a function of (seed, epoch, photo)."""

import hashlib

import numpy as np
import torch
from PIL import Image

from trainer.photos.open_photo import OpenPhoto
from trainer.photos.scan import check_size

# Raised with every change that gives other pixels for the same photo and draw, of decoding too:
# what was cached before is then made anew.
CROPS_VERSION = 1


def sample_generator(seed: int, epoch: int, sample_id: str, purpose: str) -> torch.Generator:
    """Return a CPU generator for one purpose ("crop", "noise", "order") and one sample.

    It depends on its arguments alone: not on workers, processes, or what was drawn before.
    """
    words = f"{seed}/{epoch}/{purpose}/{sample_id}"
    number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def random_crop(
    photo: OpenPhoto, resolution: int, generator: torch.Generator, flip: bool = True
) -> np.ndarray:
    """Cut a random square out of a photo and reduce it to uint8 [R, R, 3], R = resolution.

    Its side in the photo is log-uniform between R and the photo's short side, its place uniform,
    half of the crops mirrored. Never enlarged and never stretched; reduced by Lanczos with
    antialiasing. Raises SkippedPhoto for a photo under R pixels a side, or a damaged one.
    """
    width, height = photo.size
    check_size(width, height, resolution)
    # Always four draws, so that switching flips off changes nothing else.
    scale, across, down, mirror = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    side = round(resolution * (min(width, height) / resolution) ** scale)
    # Whole pixels: a crop at its own size is then a copy, not a resampling.
    left, top = _place(across, width - side), _place(down, height - side)
    crop = photo.square(left, top, side, resolution)
    if flip and mirror < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(crop)


def _place(draw: float, room: int) -> int:
    """Spread a draw in [0, 1) evenly over the whole numbers 0 .. room."""
    return min(int(draw * (room + 1)), room)
