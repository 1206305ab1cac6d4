"""Pictures of latents: one tile a channel, and colours that come near the decoded picture.

A latent item is [C, h, w]; images are [H, W, 3] in [0, 1]. Cells are enlarged by whole pixels or
averaged in whole blocks, so nothing is cut or stretched. What is not finite is magenta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..inspect.inspection import percentiles
from ..inspect.projection import project_positions
from . import colours
from .drawing import BACKGROUND, beside, from_pil, grid, legend, stack, text, to_pil

TILES_SIDE, SMALLEST_TILE, LARGEST_TILE = 1024, 64, 256  # pixels
LARGEST_RGB, USUAL_RGB = 4096, 512  # pixels of a side
MOST_PIXELS = 2**26  # of all pictures in colour together: 805 MB
ROBUST = 99  # percentile of the first component that has full colour


class Factors(NamedTuple):
    """A linear map from the model latent's channels to colours in [-1, 1]."""

    weights: Tensor  # [C, 3]
    bias: Tensor | None = None  # [3]


def frame_at(latent: Tensor, frame: int) -> tuple[Tensor, str]:
    """Pick one frame of a video: [B, C, T, h, w] -> [B, C, h, w] and words; -1 is the middle one.

    A latent [B, C, h, w] stays as it is, without words. Raises ValueError for a frame beyond.
    """
    if latent.ndim == 4:
        return latent, ""
    count = latent.shape[2]
    if not -1 <= frame < count:
        raise ValueError(
            f"expected frame from -1 (the middle one) to {count - 1}, got {frame}: this latent "
            f"has {count} frames."
        )
    place = count // 2 if frame == -1 else int(frame)
    middle = ", the middle one" if frame == -1 else ""
    return latent[:, :, place], f"frame {place} of 0 to {count - 1}{middle}"


def channel_tiles(item: Tensor, clip: float, is_shared: bool, title: str) -> Image.Image:
    """Draw every channel of an item [C, h, w], with what the colours mean.

    Args:
        item: the latent's values.
        clip: the percentage of values that is left out of the range at each end, 0 to 49.
        is_shared: one range for all channels, even around 0 (blue below, grey at, red above 0);
            else one for each (dark to light), written over its tile.
        title: the line above.
    """
    planes = _finite_or_nan(item)
    columns = math.ceil(math.sqrt(len(planes)))
    side = min(max(TILES_SIDE // columns, SMALLEST_TILE), LARGEST_TILE)
    small = _fit(planes, side)
    if is_shared:
        bound = max(map(abs, value_range(item, clip))) or 1.0
        images = colours.diverging(small / bound)
        names = [f"channel {index}" for index in range(len(planes))]
        bar = legend("diverging", -bound, bound, "value", 256)
    else:
        ranges = [value_range(plane, clip) for plane in planes]
        low, high = torch.tensor(ranges, dtype=small.dtype).view(-1, 2, 1, 1).unbind(1)
        images = colours.sequential((small - low) / torch.where(high > low, high - low, 1.0))
        names = [f"channel {i}: {a:.3g} to {b:.3g}" for i, (a, b) in enumerate(ranges)]
        bar = legend("sequential", 0, 1, "share of range", 256)
    tiles = [to_pil(fitted(image, side)) for image in images]
    return _titled(title, [grid(tiles, columns, names), bar])


def value_range(values: Tensor, clip: float) -> tuple[float, float]:
    """Find the percentile range of finite values, any shape; (0, 0) where there are none."""
    low, high = percentiles(values, [clip, 100 - clip])
    return (0.0, 0.0) if math.isnan(low) else (low, high)


def rgb_from_factors(item: Tensor, factors: Factors) -> Tensor:
    """Approximate the decoded picture: model latent [C, h, w] -> [h, w, 3], NaN where not finite.

    The linear map with which ComfyUI previews a picture while it is sampled.
    """
    values = _finite_or_nan(item).float().movedim(0, -1)
    weights = factors.weights.to(values)
    bias = None if factors.bias is None else factors.bias.to(values)
    return ((F.linear(values, weights.mT, bias) + 1) / 2).clamp(0, 1)


def rgb_from_components(item: Tensor) -> Tensor:
    """Colour an item by its three principal components: [C, h, w] -> [h, w, 3], NaN if not finite.

    Red, green and blue are the components, strongest first, around grey and on one scale. Colours
    are then not those of the picture: they only tell apart what the latent tells apart.
    """
    height, width = item.shape[1:]
    places = project_positions(item).places
    (reach,) = percentiles(places[:, 0].abs(), [ROBUST])
    spread = reach if reach > 0 else 1.0
    return (0.5 + places / (2 * spread)).clamp(0, 1).float().view(height, width, 3)


def rgb_factor(height: int, width: int, ratio: int | None, count: int = 1) -> int:
    """Choose by how many pixels a cell is shown: the VAE's ratio, as far as memory allows.

    `count` pictures are held at once. Without a ratio a picture gets about 512 pixels, which says
    nothing about the decoded size.
    """
    limit = USUAL_RGB if ratio is None else min(LARGEST_RGB, math.isqrt(MOST_PIXELS // count))
    return max(1, min(ratio or USUAL_RGB, limit // max(height, width)))


def enlarged(image: Tensor, factor: int) -> Tensor:
    """Repeat each cell: [h, w, 3] -> [h * factor, w * factor, 3]; NaN becomes magenta."""
    marked = colours.mark_nan(image.float())
    return marked.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def batched(pictures: Sequence[Image.Image]) -> Tensor:
    """Put pictures into one batch [B, H, W, 3]; smaller ones are centred on the background."""
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    return torch.stack([from_pil(_centred(picture, width, height)) for picture in pictures])


def fitted(image: Tensor, side: int) -> Tensor:
    """Enlarge an image [h, w, 3] by whole pixels as long as it fits into a square of `side`."""
    return enlarged(image, max(1, side // max(image.shape[:2])))


def _titled(title: str, parts: Sequence[Image.Image]) -> Image.Image:
    return grid([stack([text(title), beside(parts, gap=4)], gap=4)], 1)


def _fit(planes: Tensor, side: int) -> Tensor:
    """Average whole blocks until planes [C, h, w] fit into a square of `side`; NaN spreads."""
    block = math.ceil(max(planes.shape[1:]) / side)
    return F.avg_pool2d(planes, block, ceil_mode=True) if block > 1 else planes


def _finite_or_nan(values: Tensor) -> Tensor:
    values = values.detach().cpu()
    return values.where(values.isfinite(), math.nan)


def _centred(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return canvas
