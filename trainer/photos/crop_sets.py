"""The crops that go into a latent cache: every photo decoded once for all of them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer.photos.batches import Draws, make_crop
from trainer.photos.photo_set import PhotoSet
from trainer.photos.skips import Skip, SkippedPhoto


class CropSet(NamedTuple):
    """All crops of one photo, uint8 [N, R, R, 3], each mirrored or not in its own right."""

    photo_id: str
    name: str
    crops: Tensor


class FailedPhoto(NamedTuple):
    """A photo that could not be read any more, and why."""

    photo_id: str
    skip: Skip


class CropSets(Dataset):
    """The crops of some photos of a set: variant k is the crop that epoch k sees."""

    def __init__(self, photos: PhotoSet, indices: list[int], draws: Draws, variants: int) -> None:
        self._photos = photos
        self._indices = indices
        self._draws = draws
        self._variants = variants

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, k: int) -> CropSet | FailedPhoto:
        """Decode photo k once and cut all its crops."""
        index = self._indices[k]
        photo = self._photos.photos[index]
        try:
            opened = self._photos.open(index)
            crops = [make_crop(opened, photo.id, k, self._draws) for k in range(self._variants)]
        except SkippedPhoto as skip:
            return FailedPhoto(photo.id, Skip(photo.name, skip.reason, skip.detail))
        return CropSet(photo.id, photo.name, torch.from_numpy(np.stack(crops)))
