"""Photos to look at, beside what models made of them: for sample sheets and the report.

Pictures are uint8 [H, W, 3], as evaluated: arrays, so nothing else of a photo's file travels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from trainer.judge.evaluation import reconstruct, view
from trainer.judge.scores import HIGHER_IS_BETTER, PhotoScore, figure, pair_up
from trainer.photos.boxes import Box
from trainer.photos.photo_set import Photo, PhotoSet
from trainer.photos.skips import SkippedPhoto

MOST_SHOWN = 24  # photos in a report, which keeps it to some tens of megabytes
Scores = Mapping[str, Sequence[PhotoScore]]  # by set: "val", "general"


@dataclass(frozen=True)
class Picture:
    """A photo as evaluated, its faces there, and its reconstructions by model."""

    group: str  # the set it belongs to: "val" or "general"
    id: str
    name: str
    original: np.ndarray
    faces: tuple[Box, ...] = ()
    models: dict[str, np.ndarray] = field(default_factory=dict)

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

    Two thirds are those that gained and that lost most PSNR, alike; the rest is spread evenly
    between them, so that the page does not show the extremes alone.
    """
    ranked = [a.id for a, b in sorted(pair_up(first, second), key=_gain, reverse=True)]
    if len(ranked) <= count:
        return ranked
    third = count // 3
    middle = ranked[third : len(ranked) - third]
    spread = [middle[i * len(middle) // (count - 2 * third)] for i in range(count - 2 * third)]
    return ranked[:third] + spread + ranked[len(ranked) - third :]


def _gain(pair: tuple[PhotoScore, PhotoScore], name: str = "psnr") -> float:
    first, second = (figure(score, name) for score in pair)
    if first is None or second is None:
        return 0.0
    return second - first if HIGHER_IS_BETTER[name] else first - second


def open_telling(
    sets: Mapping[str, PhotoSet], first: Scores, last: Scores, eval_resolution: int, multiple: int
) -> list[Picture]:
    """Read the photos of all sets that tell most about two models, for a report."""
    general = MOST_SHOWN // 3 if "general" in sets else 0
    counts = {"val": MOST_SHOWN - general, "general": general}
    pictures: list[Picture] = []
    for name, photos in sets.items():
        ids = choose_telling(first[name], last[name], counts[name])
        pictures += open_pictures(photos, ids, eval_resolution, multiple, name)
    return pictures


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
