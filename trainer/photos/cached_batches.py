"""Samples read from a latent cache: the crops and moments in it, with fresh noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.photos.batches import Draws, Sample, make_noise, plan_crop
from trainer.photos.face_crops import boxes_of
from trainer.photos.latent_cache import Shards, record_id
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sample_line import Place
from trainer.photos.skips import SkippedPhoto

OPEN_SHARDS = 256  # kept mapped into memory per process


class Record(NamedTuple):
    """One variant of a photo: crop uint8 [R, R, 3], mean and logvar float16 [C, h, w]."""

    crop: np.ndarray
    mean: Tensor
    logvar: Tensor | None


@dataclass(frozen=True)
class LatentCache:
    """A cache to read from. It holds no open file, so it travels to worker processes."""

    folder: Path
    crops: int  # variants of each photo
    places: Mapping[str, tuple[str, int]]  # a record's shard and its place there, by its id
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # id -> reason, detail

    def read(self, record_id: str, epoch: int) -> Record:
        """Read the variant of a record that an epoch sees: epoch modulo the number of variants.

        Raises SkippedPhoto for a photo that could not be read when the cache was made, and where a
        shard cannot be read any more.
        """
        if record_id not in self.places:
            raise SkippedPhoto(*self.failed.get(record_id, ("unreadable", "not in the cache")))
        name, place = self.places[record_id]
        shard = _shard(self.folder / name)
        at = (place, epoch % self.crops)
        moments = {
            part: torch.from_numpy(shard.get_slice(part)[at])
            for part in ("mean", "logvar")
            if part in shard.keys()  # noqa: SIM118 - the library's handle is no mapping
        }
        return Record(shard.get_slice("crops")[at], moments["mean"], moments.get("logvar"))


@lru_cache(maxsize=OPEN_SHARDS)
def _shard(path: Path) -> Any:
    """Map a shard into memory; a record read from it is a copy, the rest stays on the disk."""
    try:
        return safe_open(path, framework="np")
    except (OSError, SafetensorError) as error:
        raise SkippedPhoto("unreadable", f"{path.name} of the latent cache: {error}") from error


def places_of(shards: Shards) -> dict[str, tuple[str, int]]:
    """Say where each record lies; of one that lies in two shards, the first by name holds."""
    places: dict[str, tuple[str, int]] = {}
    for name in sorted(shards):
        for place, record in enumerate(shards[name]):
            places.setdefault(record, (name, place))
    return places


def cached_sample(
    cache: LatentCache, photos: PhotoSet, place: Place, others: Sequence[int], draws: Draws
) -> Sample:
    """Read an epoch's variant of a photo, and draw the epoch's own noise for it.

    In the first epochs, as many as there are variants, crop and noise are those of a run without
    a cache. Where the faces lie in a crop follows from how it was drawn, so the cache need not
    tell. Raises SkippedPhoto for a photo that the cache could not be given.
    """
    photo_id = photos.photos[place.index].id
    record = cache.read(record_id(photo_id, place.around_face), place.epoch)
    noise = make_noise(photo_id, place, draws)
    variant = place._replace(epoch=place.epoch % cache.crops)
    faces = boxes_of(photos.photos, plan_crop(photos.photos, variant, others, draws))
    return Sample(record.crop, noise, photo_id, record.mean, record.logvar, faces)
