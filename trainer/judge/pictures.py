"""Photos to look at, beside what models made of them: for sample sheets and the report.

Pictures are uint8 [H, W, 3], as evaluated: arrays, so nothing else of a photo's file travels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from trainer.judge.evaluation import reconstruct, view
from trainer.judge.scores import HIGHER_IS_BETTER, PhotoScore, Scored, figure, pair_up
from trainer.photos.boxes import Box
from trainer.photos.photo_set import Photo, PhotoSet
from trainer.photos.skips import SkippedPhoto

WORST = 10  # photos of a set that lost most


class CloseUp(NamedTuple):
    """A face to show enlarged: for which region's figures, of which photo, where in a picture."""

    region: str  # "faces", "faces_small"
    id: str  # the photo's
    name: str
    box: Box


@dataclass(frozen=True)
class Picture:
    """A photo as evaluated, its faces there, and its reconstructions by model.

    A picture that is not shown `whole` is there for its `close_ups`: a sheet, for one.
    """

    group: str  # the set it belongs to: "val" or "general"
    id: str
    name: str
    original: np.ndarray
    faces: tuple[Box, ...] = ()
    models: dict[str, np.ndarray] = field(default_factory=dict)
    whole: bool = True
    close_ups: tuple[CloseUp, ...] = ()

    @property
    def largest_face(self) -> Box | None:
        """The face to look at."""
        return max(self.faces, key=lambda box: box[2] * box[3], default=None)


def choose(photos: Sequence[Photo], count: int) -> list[int]:
    """Choose photos for a sample sheet: those with faces first, otherwise in the set's order."""
    return sorted(range(len(photos)), key=lambda i: not photos[i].faces)[:count]


def choose_telling(
    first: Iterable[PhotoScore], second: Iterable[PhotoScore], count: int
) -> list[str]:
    """Choose the ids of photos that tell most about two models, the most gained first.

    The ten that lost most PSNR (half of the count, if that is less), half of the rest those that
    gained most, and what is left spread evenly between them, so that the page does not show the
    extremes alone.
    """
    ranked = [a.id for a, b in sorted(pair_up(first, second), key=gain, reverse=True)]
    if len(ranked) <= count:
        return ranked
    worst = min(WORST, count // 2)
    best = (count - worst) // 2
    middle, places = ranked[best : len(ranked) - worst], count - worst - best
    spread = [middle[i * len(middle) // places] for i in range(places)]
    return ranked[:best] + spread + ranked[len(ranked) - worst :]


def gain(pair: tuple[Scored, Scored], name: str = "psnr") -> float:
    """Return what the second of two scores has better than the first; 0 if one has no figure."""
    first, second = (figure(score, name) for score in pair)
    if first is None or second is None:
        return 0.0
    return second - first if HIGHER_IS_BETTER[name] else first - second


def open_pictures(
    photos: PhotoSet, ids: Iterable[str], eval_resolution: int, multiple: int, group: str
) -> list[Picture]:
    """Read the photos of these ids, in their order, as they are evaluated.

    A photo that cannot be read any more is left out.
    """
    places = {photo.id: i for i, photo in enumerate(photos.photos)}
    pictures = []
    for i in (places[id] for id in ids):
        photo = photos.photos[i]
        try:
            seen, faces = view(photos.image(i), photo.faces, eval_resolution, multiple)
        except SkippedPhoto:
            continue
        pictures.append(Picture(group, photo.id, photo.name, seen, tuple(faces or ())))
    return pictures


def with_model(
    pictures: Iterable[Picture], label: str, vae: nn.Module, device: torch.device | str
) -> list[Picture]:
    """Add one model's reconstructions under a label."""
    return [
        replace(p, models=p.models | {label: as_bytes(reconstruct(vae, p.original, device))})
        for p in pictures
    ]


def as_bytes(x: torch.Tensor) -> np.ndarray:
    """Turn 8-bit values in [0, 1] into bytes: [1, C, H, W] -> uint8 [H, W, 3]; NaN is black."""
    levels = (x[0].nan_to_num(0.0) * 255).round().byte()
    return levels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def bytes_psnr(x: np.ndarray, y: np.ndarray) -> float:
    """PSNR in dB of two pictures of bytes; infinite where they are equal."""
    error = np.square(x.astype(np.float64) - y).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
