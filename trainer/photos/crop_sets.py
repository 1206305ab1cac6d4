"""The crops that go into a latent cache: every photo decoded once for all of them."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer.photos.batches import Draws, make_crop, plan_crop
from trainer.photos.latent_cache import record_id
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sample_line import Place
from trainer.photos.skips import Skip, SkippedPhoto


class CropSet(NamedTuple):
    """All crops of one photo, uint8 [N, R, R, 3], each mirrored or not in its own right."""

    record: str  # its id in the cache
    name: str
    crops: Tensor


class FailedPhoto(NamedTuple):
    """A photo that could not be read any more, and why."""

    record: str
    skip: Skip


class CropSets(Dataset):
    """The crops of some records of a set: variant k is the crop that epoch k sees."""

    def __init__(
        self,
        photos: PhotoSet,
        records: Sequence[tuple[int, bool]],
        others: Sequence[int],
        draws: Draws,
        variants: int,
    ) -> None:
        """Take records as SampleLine has them: (photo, whether around its faces)."""
        self._photos = photos
        self._records = records
        self._others = others
        self._draws = draws
        self._variants = variants

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, k: int) -> CropSet | FailedPhoto:
        """Decode photo k once and cut all its crops, with what stands beside it in some."""
        index, around_face = self._records[k]
        photo = self._photos.photos[index]
        record = record_id(photo.id, around_face)
        opened = cache(self._photos.open)  # of one photo and its neighbours
        try:
            crops = [
                self._crop(Place(index, k, around_face), opened) for k in range(self._variants)
            ]
        except SkippedPhoto as skip:
            return FailedPhoto(record, Skip(photo.name, skip.reason, skip.detail))
        return CropSet(record, photo.name, torch.from_numpy(np.stack(crops)))

    def _crop(self, place: Place, opened: Callable[[int], OpenPhoto]) -> np.ndarray:
        photos = self._photos.photos
        tiles = plan_crop(photos, place, self._others, self._draws)
        return make_crop(photos, opened, tiles, self._draws.resolution)
