"""Score how a VAE reconstructs whole photos: PSNR, SSIM, LPIPS, colour, sharpness, regions.

Every photo goes alone (sizes differ) through the posterior's mode, in float32, large ones in exact
tiles; the prediction is clamped and rounded to 8 bits before anything is measured, as that is what
is saved.
Shapes: `x` prediction and `y` photo are [1, C, H, W] in [0, 1]; C is 3, or 1 for a VAE of grey.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from trainer.judge.identity import Identity
from trainer.judge.perceptual import Perceptual
from trainer.judge.regions import Measure, score_regions, sharpness
from trainer.judge.scores import PhotoScore, summarise
from trainer.photos.boxes import Box, clip
from trainer.photos.photo_set import PhotoSet
from trainer.photos.skips import SkippedPhoto
from trainer.vae.autoencoder import input_pixels, ratio
from trainer.vae.tiles import round_trip
from vae_core.compare.figures import PATCH
from vae_core.images import centre_crop_box, to_unit
from vae_core.metrics import WINDOW, channel_mean_error, psnr, ssim_map

__all__ = ["PhotoScore", "reconstruct", "score_pair", "score_photos", "summarise", "view"]

MULTIPLE = 8  # sides are cropped to multiples of this, or of the VAE's ratio where that is larger


# Seeing


def view(
    image: Image.Image, faces: Sequence[Box] | None, eval_resolution: int, multiple: int
) -> tuple[np.ndarray, list[Box] | None]:
    """Return what is evaluated of an RGB photo: uint8 [H, W, 3], and its faces there.

    The photo is reduced (never enlarged), antialiased, to `eval_resolution` on the short side and
    cropped around its centre to multiples of `multiple`. Raises SkippedPhoto if nothing is left.
    """
    width, height = reduced_size(image.size, eval_resolution)
    if min(width, height) < multiple:
        raise SkippedPhoto("too small", f"{width} x {height} px, at least {multiple} px a side")
    if faces is not None:
        faces = faces_in_view(image.size, faces, eval_resolution, multiple)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    top, left, height, width = centre_crop_box(height, width, multiple)
    return np.array(image.crop((left, top, left + width, top + height))), faces


def reduced_size(size: tuple[int, int], eval_resolution: int) -> tuple[int, int]:
    """Return the (width, height) to which a photo of this size is reduced, never enlarged."""
    scale = min(1.0, eval_resolution / min(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def faces_in_view(
    size: tuple[int, int], faces: Sequence[Box], eval_resolution: int, multiple: int
) -> list[Box]:
    """Carry boxes from a photo of (width, height) into the view, by `view`'s own geometry.

    Those that are mostly cropped away are dropped; a photo too small to be viewed shows none.
    """
    width, height = reduced_size(size, eval_resolution)
    if min(width, height) < multiple:
        return []
    top, left, height, width = centre_crop_box(height, width, multiple)
    scale = min(1.0, eval_resolution / min(size))
    moved = [(x * scale - left, y * scale - top, w * scale, h * scale) for x, y, w, h in faces]
    clipped = [clip(box, width, height) for box in moved]
    return [box for box in clipped if box is not None]


def multiple_for(vae: nn.Module) -> int:
    """Return what the sides of an evaluated photo are multiples of."""
    return math.lcm(MULTIPLE, ratio(vae))


@torch.inference_mode()
def reconstruct(vae: nn.Module, photo: np.ndarray, device: torch.device | str) -> Tensor:
    """Encode and decode uint8 [H, W, 3] by the posterior's mode -> [1, C, H, W] of 8-bit values."""
    pixels = as_pixels(vae, photo).to(device)
    return to_unit(round_trip(vae, pixels))


def as_pixels(vae: nn.Module, photo: np.ndarray) -> Tensor:
    """Convert uint8 [H, W, 3] to what a VAE takes: [1, C, H, W] in [-1, 1], grey if C is 1."""
    return input_pixels(vae, torch.from_numpy(photo)[None])


# Scoring


def score_photos(
    vae: nn.Module,
    photos: PhotoSet,
    perceptual: Perceptual | None,
    *,
    device: torch.device | str,
    eval_resolution: int,
    multiple: int | None = None,
    rank: int = 0,
    world: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[], object] | None = None,
    identity: Identity | None = None,
) -> list[PhotoScore]:
    """Score every `world`-th photo from `rank` on; the lists of all ranks together are the set's.

    A photo that cannot be read is returned with its reason. `multiple` is what sides are cropped
    to multiples of, if not `multiple_for(vae)`. `progress` is called after each photo; when
    `should_stop` says so, what was scored until then is returned.
    """
    scores = []
    multiple = multiple or multiple_for(vae)
    for i in range(rank, len(photos.photos), world):
        if should_stop():
            break
        scores.append(
            _score_photo(vae, photos, i, perceptual, device, eval_resolution, multiple, identity)
        )
        if progress:
            progress()
    return scores


def _score_photo(
    vae: nn.Module,
    photos: PhotoSet,
    i: int,
    perceptual: Perceptual | None,
    device: torch.device | str,
    eval_resolution: int,
    multiple: int,
    identity: Identity | None,
) -> PhotoScore:
    photo = photos.photos[i]
    try:
        seen, faces = view(photos.image(i), photo.faces, eval_resolution, multiple)
    except SkippedPhoto as error:
        return PhotoScore(photo.id, photo.name, skipped=error.reason)
    x = reconstruct(vae, seen, device)
    y = to_unit(as_pixels(vae, seen)).to(x.device)
    return score_pair(x, y, faces, perceptual, photo.id, photo.name, identity)


@torch.inference_mode()
def score_pair(
    x: Tensor,
    y: Tensor,
    faces: Sequence[Box] | None,
    perceptual: Perceptual | None,
    id: str,
    name: str,
    identity: Identity | None = None,
) -> PhotoScore:
    """Measure one prediction against its photo, both [1, C, H, W] of 8-bit values in [0, 1]."""
    height, width = y.shape[-2:]
    similarity = ssim_map(x, y) if min(height, width) >= WINDOW else None
    measure = measure_for(perceptual, min(height, width))
    distance = {measure.figure: float(measure.distance(x * 2 - 1, y * 2 - 1))} if measure else {}
    return PhotoScore(
        id=id,
        name=name,
        width=width,
        height=height,
        psnr=float(psnr(x, y)),
        ssim=None if similarity is None else float(similarity.mean()),
        **distance,
        channel_error=tuple(channel_mean_error(x, y)[0].tolist()),
        sharpness=sharpness(x, y),
        faces=None if faces is None else len(faces),
        regions=score_regions(
            x, y, similarity, faces or (), measure_for(perceptual, PATCH), identity
        ),
    )


def measure_for(perceptual: Perceptual | None, side: int) -> Measure | None:
    """Return the perceptual distance and its figure's name, if images of this side allow it."""
    if perceptual is None or side < perceptual.smallest_side:
        return None
    return Measure("lpips" if perceptual.is_lpips else "encoder_distance", perceptual.distance)
