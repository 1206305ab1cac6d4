"""Score a whole set: its photos as evaluated and, where they show few, its small faces on sheets.

Figures of faces on sheets are kept photo by photo, so that means and intervals are over photos as
everywhere else.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.judge.evaluation import (
    as_pixels,
    measure_for,
    multiple_for,
    reconstruct,
    score_photos,
)
from trainer.judge.identity import Identity
from trainer.judge.perceptual import Perceptual
from trainer.judge.regions import SIZES, RegionScore, score_regions
from trainer.judge.scores import PhotoScore
from trainer.judge.sheets import Place, Sheet, canvas_side, draw, faces_at, plan_sheets
from trainer.photos.photo_set import PhotoSet
from vae_core.compare.figures import PATCH
from vae_core.images import to_unit
from vae_core.metrics import WINDOW, ssim_map

SMALL = SIZES[0]


class SheetFaces(NamedTuple):
    """The small faces of one photo, measured on a sheet."""

    id: str  # the photo's
    region: RegionScore


Found = list[PhotoScore | SheetFaces]


def count_views(photos: PhotoSet, eval_resolution: int, multiple: int) -> int:
    """Count the pictures that scoring a set takes through the VAE: photos and sheets."""
    return len(photos) + len(plan_sheets(photos.photos, eval_resolution, multiple))


def score_set(
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
    progress: Callable[[], object] = lambda: None,
    identity: Identity | None = None,
) -> Found:
    """Score every `world`-th photo and sheet from `rank` on, as `score_photos` does.

    What all ranks found is put together by `assemble`.
    """
    multiple = multiple or multiple_for(vae)
    found: Found = list(
        score_photos(
            vae,
            photos,
            perceptual,
            device=device,
            eval_resolution=eval_resolution,
            multiple=multiple,
            rank=rank,
            world=world,
            should_stop=should_stop,
            progress=progress,
            identity=identity,
        )
    )
    sheets = plan_sheets(photos.photos, eval_resolution, multiple)
    # dealt out where the photos stopped, so that no process gets more than one picture more
    for number in range((rank - len(photos)) % world, len(sheets), world):
        if should_stop():
            break
        found += _score_sheet(
            vae, photos, sheets[number], number, perceptual, device, multiple, identity
        )
        progress()
    return found


def assemble(found: Iterable[PhotoScore | SheetFaces]) -> list[PhotoScore]:
    """Put the findings of all ranks together: photos by id, small faces from sheets if any."""
    found = list(found)
    scores = sorted((s for s in found if isinstance(s, PhotoScore)), key=lambda score: score.id)
    small = {faces.id: faces.region for faces in found if isinstance(faces, SheetFaces)}
    if not small:
        return scores
    return [replace(score, regions=_with_small(score, small.get(score.id))) for score in scores]


def _with_small(score: PhotoScore, small: RegionScore | None) -> dict[str, RegionScore]:
    others = {name: region for name, region in score.regions.items() if name != SMALL}
    return others | ({SMALL: small} if small and not score.skipped else {})


@torch.inference_mode()
def _score_sheet(
    vae: nn.Module,
    photos: PhotoSet,
    sheet: Sheet,
    number: int,
    perceptual: Perceptual | None,
    device: torch.device | str,
    multiple: int,
    identity: Identity | None,
) -> list[SheetFaces]:
    canvas, drawn = draw(photos, sheet, canvas_side(multiple))
    x = reconstruct(vae, canvas, device)
    y = to_unit(as_pixels(vae, canvas)).to(x.device)
    found = []
    for place in drawn:
        photo = photos.photos[place.index]
        parts = _cut(x, place), _cut(y, place)
        map_ = ssim_map(*parts) if min(place.width, place.height) >= WINDOW else None
        measure = measure_for(perceptual, PATCH)
        regions = score_regions(*parts, map_, faces_at(photo, place), measure, identity)
        if SMALL in regions:
            found.append(SheetFaces(photo.id, replace(regions[SMALL], sheet=number)))
    return found


def _cut(image: Tensor, place: Place) -> Tensor:
    """Cut a photo out of a sheet [1, C, H, W], so that its neighbours do not count."""
    rows = slice(place.top, place.top + place.height)
    return image[..., rows, place.left : place.left + place.width]
