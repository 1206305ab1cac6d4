"""Which photo a sample is made of: the endless line of a run's samples.

The line is two lines in one. A stated share of its samples comes from photos with faces, cropped
around a face; the rest are plain crops of all photos, or of the photos that were mixed in. Each of
the two goes epoch after epoch, each epoch a permutation that is a function of (seed, epoch).
"""

from collections.abc import Iterator
from functools import lru_cache
from math import floor
from typing import NamedTuple

import torch

from trainer.photos.crops import sample_generator
from trainer.photos.photo_set import PhotoSet


class Place(NamedTuple):
    """What a sample is made of: a photo of the set, in an epoch, around a face or anywhere."""

    index: int
    epoch: int
    around_face: bool


class SampleLine(NamedTuple):
    """The photos (by index) of the line's two parts; no sample is of `first` where share is 0."""

    seed: int
    first: tuple[int, ...]
    rest: tuple[int, ...]
    share: float
    around_faces: bool  # whether samples of `first` are cropped around faces

    def at(self, position: int) -> Iterator[Place]:
        """Yield the place of a sample, then those that may stand in for it, to its epoch's end."""
        before = floor(position * self.share)
        if floor((position + 1) * self.share) > before:
            return self._walk(self.first, before, "face order", self.around_faces)
        return self._walk(self.rest, position - before, "order", False)

    def _walk(
        self, members: tuple[int, ...], number: int, purpose: str, around_face: bool
    ) -> Iterator[Place]:
        epoch, start = divmod(number, len(members))
        order = epoch_order(self.seed, epoch, len(members), purpose)
        for further in range(len(members)):
            yield Place(members[order[(start + further) % len(members)]], epoch, around_face)

    def records(self) -> list[tuple[int, bool]]:
        """Return all that samples are made of: (photo, whether around its faces)."""
        rest = [(index, False) for index in self.rest] if self.share < 1 else []
        return rest + [(index, self.around_faces) for index in self.first]


def sample_line(photos: PhotoSet, seed: int, face_share: float) -> SampleLine:
    """Lay out the line of a set: around faces where any are known, and by what was mixed in."""
    own = len(photos) - photos.mixed_in
    everything = tuple(range(len(photos)))
    mixed_in = everything[own:]
    with_faces = tuple(index for index in everything[:own] if photos.photos[index].faces)
    if not face_share or not (with_faces or mixed_in):
        return SampleLine(seed, (), everything, 0.0, False)
    first = with_faces or everything[:own]
    return SampleLine(seed, first, mixed_in or everything, face_share, bool(with_faces))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, total: int, purpose: str = "order") -> list[int]:
    """Return the permutation of 0 .. total - 1 in which an epoch visits its photos."""
    return torch.randperm(total, generator=sample_generator(seed, epoch, "", purpose)).tolist()
