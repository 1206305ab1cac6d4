"""Pairs of pictures to compare: which goes with which, and which pixels they share.

Images are [B, H, W, C] in [0, 1]; a mask is [B, H, W] in [0, 1]. A pair is never resampled: where
its pictures differ in size by what VAE.encode crops away, the larger is cropped like that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..images import to_unit

RATIOS = (2, 4, 8, 16, 32)  # multiples that VAEs crop to
CHANNELS = 3


class Box(NamedTuple):
    """A part of a picture, in pixels from its top left corner."""

    left: int
    top: int
    width: int
    height: int


class Pair(NamedTuple):
    """One original and its reconstruction, ready to be measured.

    `x` is the reconstruction, `y` the original: [1, 3, H, W], k/255 in [0, 1], on the CPU; a pixel
    that held NaN or an infinity is NaN. `mask` is [H, W] of bool, or None.
    """

    x: Tensor
    y: Tensor
    mask: Tensor | None
    lost: int  # values that were NaN or infinite, in both pictures


class Pairs(NamedTuple):
    """Originals and reconstructions of one size, views of what came in; and what was done."""

    originals: Tensor
    reconstructions: Tensor
    masks: Tensor | None
    count: int
    crops: (
        tuple[Box, Box] | None
    )  # where the originals, the reconstructions were cut; None: nowhere
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is compared, in pixels."""
        return self.originals.shape[1], self.originals.shape[2]


def match(originals: Tensor, reconstructions: Tensor, masks: Tensor | None = None) -> Pairs:
    """Find the pairs of two batches; one picture goes with each of the other batch.

    Raises ValueError for batches of other sizes, pictures that differ by more than a crop, and
    masks that fit neither the originals nor what is compared.
    """
    notes = [
        *_channel_notes(originals, "original"),
        *_channel_notes(reconstructions, "reconstruction"),
    ]
    y, x = _colour(originals, "original"), _colour(reconstructions, "reconstruction")
    count = _count(y.shape[0], x.shape[0])
    crops = common_crop(_size(y), _size(x))
    if masks is not None:
        masks = _fitting(masks, _size(y), crops[0], count)
    cropped = _size(y) != _size(x)
    if cropped:
        notes.append(_crop_note(_size(y), _size(x), crops[0]))
    y, x = cut(y, crops[0]), cut(x, crops[1])
    return Pairs(y, x, masks, count, crops if cropped else None, tuple(notes))


def common_crop(original: tuple[int, int], other: tuple[int, int]) -> tuple[Box, Box]:
    """Find the centre crop that two sizes (height, width) share: a box in each.

    The crop is the one of ComfyUI's VAE.encode (comfy/sd.py, vae_encode_crop_pixels): the sides
    rounded down to a multiple of 2, 4, 8, 16 or 32, the odd pixel left at the bottom and right.
    Raises ValueError where no such crop makes one size of the other.
    """
    for large, small in ((original, other), (other, original)):
        if any(_cropped(large, ratio) == small for ratio in RATIOS) or large == small:
            top, left = ((a - b) // 2 for a, b in zip(large, small, strict=True))
            inner = Box(left, top, small[1], small[0])
            whole = Box(0, 0, small[1], small[0])
            return (inner, whole) if large == original else (whole, inner)
    raise ValueError(
        f"Expected two pictures that differ at most by a VAE's centre crop, got {_said(original)} "
        f"and {_said(other)}: a resized or padded copy cannot be compared pixel by pixel, so give "
        "both at one size."
    )


def pair(pairs: Pairs, index: int) -> Pair:
    """Take one pair, rounded to 8 bits as a saved file would be; a copy, nothing is shared."""
    y, lost_y = _quantised(pairs.originals[index % len(pairs.originals)])
    x, lost_x = _quantised(pairs.reconstructions[index % len(pairs.reconstructions)])
    mask = None
    if pairs.masks is not None:
        mask = (pairs.masks[index % len(pairs.masks)] > 0.5).cpu()
    return Pair(x, y, mask, lost_x + lost_y)


def bounding_box(mask: Tensor) -> Box | None:
    """Find the smallest box around the pixels of a mask [H, W] of bool; None where it has none."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return None
    (top, bottom), (left, right) = ((int(i[0]), int(i[-1]) + 1) for i in (rows, columns))
    return Box(left, top, right - left, bottom - top)


def cut(images: Tensor, box: Box) -> Tensor:
    """Cut a box out of images or masks [B, H, W, ...]: a view."""
    return images[:, box.top : box.top + box.height, box.left : box.left + box.width]


def _quantised(image: Tensor) -> tuple[Tensor, int]:
    """Round an image [H, W, 3] to 8 bits: [1, 3, H, W], and how many values were not finite."""
    image = image.detach().to("cpu", torch.float32)
    lost = ~image.isfinite()
    image = image.masked_fill(lost, torch.nan)
    return to_unit(image * 2 - 1).movedim(-1, 0).unsqueeze(0).contiguous(), int(lost.sum())


def _colour(images: Tensor, name: str) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[3] not in (3, 4):
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"Expected {name} as images [B, H, W, 3] or [B, H, W, 4], got {got}.")
    if not images.numel():
        raise ValueError(f"Expected {name} with pictures in it, got shape {list(images.shape)}.")
    if not images.is_floating_point():
        raise ValueError(f"Expected {name} as floats in [0, 1], got {images.dtype}.")
    return images[..., :CHANNELS]


def _channel_notes(images: Tensor, name: str) -> list[str]:
    if getattr(images, "ndim", 0) != 4 or images.shape[3] <= CHANNELS:
        return []
    return [f"{name} has {images.shape[3]} channels: the first three are compared"]


def _count(originals: int, reconstructions: int) -> int:
    if originals != reconstructions and 1 not in (originals, reconstructions):
        raise ValueError(
            f"Expected as many originals as reconstructions, or one of either, got {originals} "
            f"and {reconstructions}: pick the pictures that belong together."
        )
    return max(originals, reconstructions)


def _fitting(masks: Tensor, original: tuple[int, int], crop: Box, count: int) -> Tensor:
    """Check masks [B, H, W] and cut them like the originals; an empty one of any size will do."""
    if masks.ndim == 2:
        masks = masks.unsqueeze(0)
    if masks.ndim != 3 or not masks.numel():
        raise ValueError(f"Expected a mask [B, H, W], got shape {list(masks.shape)}.")
    if masks.shape[0] not in (1, count):
        raise ValueError(f"Expected one mask or {count}, one for each pair, got {masks.shape[0]}.")
    size, compared = tuple(masks.shape[1:]), (crop.height, crop.width)
    if size == original:
        return cut(masks, crop)
    if size != compared and not (masks > 0.5).any():
        return masks.new_zeros(1, *compared)  # what Load Image gives for a photo without alpha
    if size != compared:
        raise ValueError(
            f"Expected a mask of the original's size, {_said(original)}, got {_said(size)}: "
            "draw it on the original, or resize it."
        )
    return masks


def _crop_note(original: tuple[int, int], other: tuple[int, int], crop: Box) -> str:
    return (
        f"compared on the centre crop {crop.width} x {crop.height} "
        f"(original {_said(original)}, reconstruction {_said(other)})"
    )


def _cropped(size: Sequence[int], ratio: int) -> tuple[int, ...]:
    return tuple(side - side % ratio for side in size)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[1], images.shape[2]


def _said(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"
