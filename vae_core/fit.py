"""Pictures whose sides are no multiple of a VAE's ratio: what is cropped, or padded and cut back.

B batch, H, W pixels, C channels; a window is (top, left, height, width) in pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .images import centre_crop_box

Window = tuple[int, int, int, int]


def padded(images: Tensor, multiple: int) -> tuple[Tensor, Window]:
    """Repeat the edges of images [B, H, W, C] up to multiples; the window holds the picture.

    The odd pixel goes to the bottom and right.
    """
    height, width = images.shape[1:3]
    more_h, more_w = -height % multiple, -width % multiple
    top, left = more_h // 2, more_w // 2
    if not more_h and not more_w:
        return images, (0, 0, height, width)
    edges = (left, more_w - left, top, more_h - top)
    grown = F.pad(images.movedim(-1, 1), edges, mode="replicate").movedim(1, -1)
    return grown, (top, left, height, width)


def cut(images: Tensor, window: Window) -> Tensor:
    """Cut a window out of images [B, H, W, C]: what `padded` added is gone again."""
    top, left, height, width = window
    if top + height > images.shape[1] or left + width > images.shape[2] or min(window) < 0:
        raise ValueError(
            f"Expected pictures that hold {width} x {height} pixels from ({left}, {top}), "
            f"got {images.shape[2]} x {images.shape[1]}."
        )
    return images[:, top : top + height, left : left + width]


def covered(height: int, width: int, multiple: int) -> Window:
    """Say which pixels a VAE sees of a picture that it crops: the window in the picture."""
    return centre_crop_box(height, width, multiple)


def describe_window(window: Window, height: int, width: int) -> str:
    """Say in words which pixels a latent stands for."""
    top, left, rows, columns = window
    if (top, left, rows, columns) == (0, 0, height, width):
        return f"all {width} x {height} pixels"
    return (
        f"columns {left} to {left + columns - 1} and rows {top} to {top + rows - 1} of "
        f"{width} x {height} pixels"
    )
