"""Score parts of a photo: faces by their size, and the background.

Shapes: `x` prediction and `y` photo are [1, 3, H, W] in [0, 1]; a mask is [H, W] of bool.
Boxes are (x, y, width, height) in pixels of what is scored.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.judge.identity import Identity
from trainer.photos.boxes import Box
from vae_core.compare.figures import square
from vae_core.compare.pairs import Box as Region
from vae_core.metrics import psnr_from_mse

SMALL_BELOW, MEDIUM_BELOW = 64, 160  # heights of a face, in pixels of the evaluated photo
FACES, BACKGROUND = "faces", "background"
SIZES = ("faces_small", "faces_medium", "faces_large")
REGIONS = (FACES, *SIZES, BACKGROUND)


class Measure(NamedTuple):
    """A perceptual distance, [B, 3, H, W] twice in [-1, 1] -> [B], and the figure it gives."""

    figure: str  # "lpips" or "encoder_distance"
    distance: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RegionScore:
    """The figures of one region in one photo; None where one cannot be had.

    `sheet` is the number of the sheet on which a photo's small faces were measured, or None where
    they were measured in the photo itself (trainer/judge/sheets.py).
    """

    faces: int
    psnr: float
    ssim: float | None
    lpips: float | None = None
    encoder_distance: float | None = None
    sharpness: float | None = None
    identity: float | None = None
    sheet: int | None = None


def size_class(box: Box) -> str:
    """Name the region that a face of this height belongs to."""
    height = box[3]
    return SIZES[(height >= SMALL_BELOW) + (height >= MEDIUM_BELOW)]


def box_mask(boxes: Iterable[Box], height: int, width: int) -> Tensor:
    """Mark the pixels inside any of the boxes: [H, W] of bool, edges rounded."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for left, top, w, h in boxes:
        right, bottom = round(left + w), round(top + h)
        mask[max(0, round(top)) : max(0, bottom), max(0, round(left)) : max(0, right)] = True
    return mask


def masked_psnr(x: Tensor, y: Tensor, mask: Tensor) -> float:
    """PSNR in dB over the pooled pixels of a mask [H, W] (infinite where all are equal)."""
    error = (x - y).square()[0, :, mask.to(x.device)]
    return float(psnr_from_mse(error.cpu().double().mean()))


def masked_ssim(ssim_map: Tensor, mask: Tensor) -> float | None:
    """Mean of an SSIM map [1, H', W'] over a mask [H, W]; None where the map has none of it.

    The map is smaller than the photo by half a window on each side.
    """
    height, width = ssim_map.shape[1:]
    top, left = (mask.shape[0] - height) // 2, (mask.shape[1] - width) // 2
    inner = mask[top : top + height, left : left + width]
    return float(ssim_map[0][inner.to(ssim_map.device)].mean()) if inner.any() else None


def sharpness(x: Tensor, y: Tensor, mask: Tensor | None = None) -> float | None:
    """Gradient energy of the prediction over that of the photo: below 1 softer, above 1 harder.

    Energy is the mean square of the differences between neighbours, sideways and downwards; with
    a mask [H, W] between those that both lie in it. None where the photo is flat.
    """
    energies = []
    for image in (x, y):
        energy = 0.0
        for dim in (-1, -2):
            steps = image.diff(dim=dim).square()
            if mask is not None:
                steps = steps[0, :, _pairs(mask, dim).to(image.device)]
            energy += float(steps.mean()) if steps.numel() else 0.0
        energies.append(energy)
    return energies[0] / energies[1] if energies[1] > 0 else None


def _pairs(mask: Tensor, dim: int) -> Tensor:
    """Mark the neighbours along a dimension that both lie in a mask [H, W]."""
    length = mask.shape[dim] - 1
    return mask.narrow(dim, 0, length) & mask.narrow(dim, 1, length)


def face_distances(x: Tensor, y: Tensor, boxes: Sequence[Box], measure: Measure) -> list[float]:
    """Return the perceptual distance of the square around each face."""
    # on the CPU, as not every device resamples with antialiasing
    cut = [torch.cat([square(image.cpu(), Region(*box)) for box in boxes]) for image in (x, y)]
    return measure.distance(*(part.to(x.device) * 2 - 1 for part in cut)).tolist()


def score_regions(
    x: Tensor,
    y: Tensor,
    ssim_map: Tensor | None,
    boxes: Sequence[Box],
    measure: Measure | None,
    identity: Identity | None = None,
) -> dict[str, RegionScore]:
    """Score the faces together and by size, and the background; what does not occur is absent."""
    if not boxes:
        return {}
    distances = face_distances(x, y, boxes, measure) if measure else []
    kept = [identity.similarity(x, y, box) for box in boxes] if identity else []
    members = {FACES: list(range(len(boxes)))}
    for name in SIZES:
        members[name] = [i for i, box in enumerate(boxes) if size_class(box) == name]
    masks = {
        name: box_mask([boxes[i] for i in chosen], *x.shape[-2:])
        for name, chosen in members.items()
    }
    masks[BACKGROUND] = ~masks[FACES]
    members[BACKGROUND] = []  # the perceptual distance is of faces alone
    return {
        name: RegionScore(
            faces=len(members[name]),
            psnr=masked_psnr(x, y, mask),
            ssim=None if ssim_map is None else masked_ssim(ssim_map, mask),
            sharpness=sharpness(x, y, mask),
            identity=_mean_known(kept[i] for i in members[name] if kept),
            **_mean_distance(measure, [distances[i] for i in members[name] if measure]),
        )
        for name, mask in masks.items()
        if mask.any()
    }


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_distance(measure: Measure | None, distances: Sequence[float]) -> dict[str, float]:
    return {measure.figure: sum(distances) / len(distances)} if measure and distances else {}
