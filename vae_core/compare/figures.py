"""The figures of a pair of pictures: whole, inside and outside a mask; and of a batch.

In figures None means "cannot be had here" and is left out of a mean; NaN means "the picture gave
no number" and makes the mean NaN. Shapes: x, the reconstruction, and y, the original, are
[1, 3, H, W] in [0, 1], rounded to 8 bits (pairs.pair).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from .. import lpips
from ..metrics import WINDOW, psnr_from_mse, ssim_map
from .pairs import Box, Pair, bounding_box
from .squares import Square, square_around

PATCH = 128  # side of the square that a region is resampled to for LPIPS
MARGIN = 1.25  # the square around a region, in sides of its box


class Perceptual(NamedTuple):
    """LPIPS ready for use: its net's name and its weights, from lpips.prepare."""

    net: str
    weights: lpips.Weights


@dataclass(frozen=True)
class Figures:
    """What was measured; errors are on [0, 1], `red` to `blue` are reconstruction - original."""

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    mse: float | None = None
    mae: float | None = None
    maximum: float | None = None
    red: float | None = None
    green: float | None = None
    blue: float | None = None


NAMES = tuple(field.name for field in fields(Figures))


class PairFigures(NamedTuple):
    """All about one pair; the figures of regions are None where no mask was given."""

    whole: Figures
    inside: Figures | None
    outside: Figures | None
    box: Box | None
    lost: int  # values that were NaN or infinite

    @property
    def identical(self) -> bool:
        """Whether not a pixel differs."""
        return self.whole.mse == 0


def measure(pair: Pair, perceptual: Perceptual | None = None) -> PairFigures:
    """Measure a pair; LPIPS only where its weights are given and the picture is large enough."""
    similarity = ssim_map(pair.x, pair.y)[0].double()
    whole = _figures(pair, None, similarity, distance(pair.x, pair.y, perceptual))
    if pair.mask is None:
        return PairFigures(whole, None, None, None, pair.lost)
    box = bounding_box(pair.mask)
    apart = None if box is None else box_distance(pair, box, perceptual)
    inside = _figures(pair, pair.mask, similarity, apart)
    return PairFigures(whole, inside, _figures(pair, ~pair.mask, similarity), box, pair.lost)


def distance(x: Tensor, y: Tensor, perceptual: Perceptual | None) -> float | None:
    """Measure LPIPS of a pair [1, 3, H, W] in [0, 1]; None without weights or if too small."""
    if perceptual is None or min(x.shape[2:]) < lpips.SMALLEST_SIDE[perceptual.net]:
        return None
    if not (x + y).isfinite().all():
        return math.nan
    return float(_lpips(perceptual, x, y, spatial=False))


def distance_map(x: Tensor, y: Tensor, perceptual: Perceptual) -> Tensor:
    """Map LPIPS over a pair [1, 3, H, W] in [0, 1]: [H, W]; NaN makes black for the nets."""
    return _lpips(perceptual, x.nan_to_num(0.0), y.nan_to_num(0.0), spatial=True)[0]


def box_distance(pair: Pair, box: Box, perceptual: Perceptual | None) -> float | None:
    """Measure LPIPS on the square around a box, 25 % larger, resampled to 128 pixels."""
    return distance(square(pair.x, box), square(pair.y, box), perceptual)


def square(picture: Tensor, box: Box) -> Tensor:
    """Cut the square around a box, 25 % larger: [1, 3, H, W] in [0, 1] -> [1, 3, 128, 128]."""
    return resampled(picture, square_around(box, MARGIN, *picture.shape[2:])).clamp(0, 1)


def resampled(pictures: Tensor, part: Square) -> Tensor:
    """Cut a square out of [B, C, H, W] and bring it to [B, C, 128, 128]; may leave the range."""
    seen = pictures[..., part.top : part.bottom, part.left : part.right]
    return interpolate(seen, size=(PATCH, PATCH), mode="bicubic", antialias=True)


def combine(all_figures: Sequence[Figures]) -> Figures:
    """Reduce the figures of a batch: their means, and of the maximum the largest."""
    means = {name: mean(getattr(one, name) for one in all_figures) for name in NAMES}
    return Figures(**{**means, "maximum": _largest([one.maximum for one in all_figures])})


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what there is: None is left out, NaN makes it NaN.

    The infinite PSNR of an identical pair has no mean: it is left out, unless all are identical.
    """
    present = [value for value in values if value is not None]
    finite = [value for value in present if not math.isinf(value)]
    if present and not finite:
        return math.inf
    return math.fsum(finite) / len(finite) if finite else None


def _largest(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.nan if any(map(math.isnan, present)) else max(present, default=None)


def _figures(
    pair: Pair, mask: Tensor | None, similarity: Tensor, distance: float | None = None
) -> Figures:
    """Measure the pixels of a mask [H, W], pooled; all of them without one."""
    error = (pair.x[0].double() - pair.y[0].double()).flatten(1)
    if mask is not None:
        error = error[:, mask.flatten()]
    if not error.numel():
        return Figures()
    mse, size = error.square().mean(), error.abs()
    return Figures(
        float(psnr_from_mse(mse)),
        _similarity(similarity, mask),
        distance,
        float(mse),
        float(size.mean()),
        float(size.max()),
        *error.mean(1).tolist(),
    )


def _similarity(similarity: Tensor, mask: Tensor | None) -> float | None:
    """Mean of an SSIM map [H - 10, W - 10] over a mask [H, W], by the centres of its windows."""
    if mask is None:
        return float(similarity.mean()) if similarity.numel() else None
    edge = WINDOW // 2
    inner = mask[edge : mask.shape[0] - edge, edge : mask.shape[1] - edge]
    if not similarity.numel() or not inner.any():
        return None
    return float(similarity[inner].mean())


def _lpips(perceptual: Perceptual, x: Tensor, y: Tensor, spatial: bool) -> Tensor:
    """Run LPIPS where its weights are; the result comes back to the CPU."""
    device = next(iter(perceptual.weights.values())).device
    x, y = (picture.to(device) * 2 - 1 for picture in (x, y))
    return lpips.lpips(perceptual.weights, perceptual.net, x, y, spatial).cpu()
