"""What a batch is, and how one sample of it is made."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.photos.crops import random_crop, sample_generator
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.skips import Skip

LatentShape = tuple[int, int, int]


class Batch(NamedTuple):
    """One micro-batch of b samples.

    pixels: uint8 [b, R, R, 3], as `vae_core.images.from_bytes` takes them: a quarter of the bytes
    to carry between processes and to the device. noise: float32 [b, C, h, w], standard normal.
    ids: the photos' ids. skipped: photos that could not be read any more and were replaced.
    mean, logvar: float16 [b, C, h, w], the latents' moments where they come from a cache.
    """

    pixels: Tensor
    noise: Tensor
    ids: list[str]
    skipped: list[Skip]
    mean: Tensor | None = None
    logvar: Tensor | None = None


class NoBatch(NamedTuple):
    """What comes in a batch's place where none can be made: the photos that failed, or why.

    A result and not an exception, as worker processes hand exceptions on with their traceback
    inside the message.
    """

    skipped: list[Skip]
    why: str = ""


class Sample(NamedTuple):
    """One crop, uint8 [R, R, 3], its noise [C, h, w], the id of its photo, and cached moments."""

    crop: np.ndarray
    noise: Tensor
    photo_id: str
    mean: Tensor | None = None
    logvar: Tensor | None = None


class Draws(NamedTuple):
    """What decides about a sample besides its photo and epoch."""

    seed: int
    resolution: int
    latent_shape: LatentShape
    flip: bool


class Slots(NamedTuple):
    """Which samples of the run's one endless line belong to which micro-batch.

    Micro-batch k of rank r takes batch_size samples from start + (k * world + r) * batch_size on,
    so 2 processes x 2, 1 process x 4, and 2 x 2 accumulated see the same samples per step.
    """

    batch_size: int
    rank: int
    world: int
    start: int

    def positions(self, k: int) -> Iterator[int]:
        """Return the positions in the line that micro-batch k takes."""
        first = self.start + (k * self.world + self.rank) * self.batch_size
        return iter(range(first, first + self.batch_size))


def make_sample(photo: OpenPhoto, photo_id: str, epoch: int, draws: Draws) -> Sample:
    """Crop a photo and draw its noise; a function of (seed, epoch, photo) alone.

    Raises SkippedPhoto if the photo is smaller than the resolution, or damaged.
    """
    crop = make_crop(photo, photo_id, epoch, draws)
    return Sample(crop, make_noise(photo_id, epoch, draws), photo_id)


def make_crop(photo: OpenPhoto, photo_id: str, epoch: int, draws: Draws) -> np.ndarray:
    """Cut an epoch's crop out of a photo: uint8 [R, R, 3].

    Raises SkippedPhoto if the photo is smaller than that, or damaged.
    """
    generator = sample_generator(draws.seed, epoch, photo_id, "crop")
    return random_crop(photo, draws.resolution, generator, draws.flip)


def make_noise(photo_id: str, epoch: int, draws: Draws) -> Tensor:
    """Draw an epoch's noise for a photo: float32 [C, h, w], standard normal."""
    generator = sample_generator(draws.seed, epoch, photo_id, "noise")
    return torch.randn(draws.latent_shape, generator=generator)


def collate(samples: Sequence[Sample], skipped: list[Skip]) -> Batch:
    """Join samples to one batch; a photo that failed in two places is named once."""
    pixels = torch.from_numpy(np.stack([sample.crop for sample in samples]))
    noise = torch.stack([sample.noise for sample in samples])
    ids = [sample.photo_id for sample in samples]
    moments = (_joined([getattr(s, part) for s in samples]) for part in ("mean", "logvar"))
    return Batch(pixels, noise, ids, list(dict.fromkeys(skipped)), *moments)


def _joined(tensors: list[Tensor | None]) -> Tensor | None:
    return None if tensors[0] is None else torch.stack(tensors)
