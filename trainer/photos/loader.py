"""Endless batches for training, the same whatever the number of workers, processes or restarts.

The samples of a run stand in one endless line: epoch after epoch, each a permutation that is a
function of (seed, epoch). A batch is a cut out of that line, and what is drawn for a sample (crop,
mirror, noise) is a function of (seed, epoch, photo), so where a batch is made changes nothing.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import count, islice
from types import FrameType
from typing import Any

import torch
from PIL import ImageColor
from torch.utils.data import DataLoader, Dataset

from trainer.errors import UserError
from trainer.photos.batches import (
    Batch,
    Draws,
    LatentShape,
    NoBatch,
    PixelShape,
    Sample,
    Slots,
    collate,
    make_sample,
)
from trainer.photos.cached_batches import LatentCache, cached_sample
from trainer.photos.face_crops import HEIGHTS, Heights
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sample_line import Place, sample_line
from trainer.photos.scan import TOO_SMALL
from trainer.photos.skips import Skip, SkippedPhoto
from trainer.photos.streaming import PhotoStream, StreamedBatches

__all__ = ["Batch", "training_batches"]

FEWEST_FAILURES = 10  # photos that may fail in any set, however small
LARGEST_FAILED_SHARE = 0.1
_OF_TORCH = "DataLoader worker"  # in the messages that tell of a worker's death
_SECONDS_TO_LEAVE = 60  # after SIGTERM: for the trainer's step, and for saving
_BATCHES_AHEAD = 2  # that each worker prepares


def training_batches(
    photos: PhotoSet | PhotoStream,
    *,
    resolution: int,
    batch_size: int,
    latent_shape: LatentShape,
    seed: int,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    workers: int = 0,
    background: str | tuple[int, int, int] | None = None,
    flip: bool = True,
    cache: LatentCache | None = None,
    face_share: float = 0.5,
    face_heights: Heights = HEIGHTS,
    pixel_noise: PixelShape | None = None,
) -> Iterator[Batch]:
    """Yield batches without end: pixels uint8 [b, R, R, 3], noise [b, *latent_shape].

    `start` is the number of samples that all processes together have consumed before.
    `background`, if given, replaces the set's own ("#rrggbb" or 0 .. 255). With a `cache`, crops
    and moments are read from it, and noise is drawn afresh in each epoch. Of photos whose faces are
    known, `face_share` of the crops lie around one, `face_heights` pixels high. `pixel_noise` is
    the shape of noise that is drawn for each crop's pixels besides. A photo that can no longer be
    read is replaced by the next in the epoch's order and reported in Batch.skipped; UserError where
    more than 10 % of the set (and more than 10 photos) fail.
    """
    if background is not None:
        rgb = ImageColor.getrgb(background) if isinstance(background, str) else background
        photos = replace(photos, background=rgb)
    draws = Draws(seed, resolution, latent_shape, flip, face_share, face_heights, pixel_noise)
    slots = Slots(batch_size, rank, world, start)
    if isinstance(photos, PhotoStream):
        streamed = StreamedBatches(photos, draws, slots)
        # Spawned: the libraries that read from the network do not survive a fork in their midst.
        return _watched(data_loader(streamed, workers, "spawn"), None)
    batches = StoredBatches(photos, draws, slots, cache)
    return _watched(data_loader(batches, workers), len(photos))


class StoredBatches(Dataset):
    """Micro-batches by their number, out of a set of photos that can be read in any order."""

    def __init__(
        self, photos: PhotoSet, draws: Draws, slots: Slots, cache: LatentCache | None = None
    ) -> None:
        self._photos = photos
        self._draws = draws
        self._slots = slots
        self._cache = cache
        self._line = sample_line(photos, draws.seed, draws.share)

    def __getitem__(self, k: int) -> Batch | NoBatch:
        """Make micro-batch k, unless a photo fails for which no replacement is found."""
        skipped: list[Skip] = []
        samples = []
        for position in self._slots.positions(k):
            sample = self._sample(position, skipped)
            if sample is None:
                return NoBatch(skipped)
            samples.append(sample)
        return collate(samples, skipped)

    def _sample(self, position: int, skipped: list[Skip]) -> Sample | None:
        """Make the sample at a position, or from the next photo in that epoch's order."""
        allowed = failures_allowed(len(self._photos)) + 1
        for place in islice(self._line.at(position), allowed):
            try:
                return self._made(place)
            except SkippedPhoto as skip:
                name = self._photos.photos[place.index].name
                skipped.append(Skip(name, skip.reason, skip.detail))
        return None

    def _made(self, place: Place) -> Sample:
        others = self._line.first
        if self._cache is not None:
            return cached_sample(self._cache, self._photos, place, others, self._draws)
        return make_sample(self._photos, place, others, self._draws)


def failures_allowed(total: int) -> int:
    """How many of `total` photos may fail before a run stops."""
    return max(FEWEST_FAILURES, int(total * LARGEST_FAILED_SHARE))


def data_loader(batches: Dataset, workers: int, context: str | None = None) -> DataLoader:
    """Serve items 0, 1, 2, … in order, from this process or from worker processes."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=_Endless() if isinstance(batches, StoredBatches) else None,
        num_workers=workers,
        prefetch_factor=_BATCHES_AHEAD if workers else None,
        worker_init_fn=_set_up_worker,
        multiprocessing_context=context if workers else None,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: without one, torch draws a seed from the global random state.
        generator=torch.Generator().manual_seed(0),
    )


class _Endless:
    def __iter__(self) -> Iterator[int]:
        return count()


def _set_up_worker(worker: int) -> None:
    """Keep a worker alive through the signals that ask the trainer to finish its step.

    Ctrl-C goes to a terminal's whole process group, and schedulers send SIGTERM to all of it:
    a worker that died of it would take the step down with it. It leaves that group, and goes when
    its trainer tells it to, or is gone. `pkill` by name finds it all the same, so that SIGTERM
    leaves it a while: the trainer, which got it too, is done by then.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later)  # a forked worker has the trainer's handler
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _leave_later(number: int, frame: FrameType | None) -> None:
    if hasattr(signal, "alarm"):
        signal.alarm(_SECONDS_TO_LEAVE)
    else:
        os._exit(128 + number)


def _watched(loader: DataLoader, total: int | None) -> Iterator[Batch]:
    """Pass batches on, and stop when too many photos fail; `total` is None for a stream."""
    failed: dict[str, Skip] = {}
    taken = 0
    # Closed at once when this ends: workers left to the garbage collector take seconds to go.
    with closing(without_dead_workers(loader)) as items:
        for item in items:
            if isinstance(item, NoBatch):
                failed.update((skip.name, skip) for skip in item.skipped)
                raise UserError(item.why or too_many(failed, total))
            failed.update((skip.name, skip) for skip in item.skipped if _counts(skip, total))
            taken += len(item.ids)
            if len(failed) > failures_allowed(taken if total is None else total):
                raise UserError(too_many(failed, total))
            yield item


def _counts(skip: Skip, total: int | None) -> bool:
    """Small photos are no failure in a stream: nobody has sorted them out before."""
    return total is not None or skip.reason != TOO_SMALL


def too_many(failed: Mapping[str, Skip], total: int | None) -> str:
    """Say that more photos failed than may."""
    name, reason, detail = list(failed.values())[-1]
    of = f"{len(failed):,}" if total is None else f"{len(failed):,} of {total:,}"
    return (
        f"Expected the photos to stay readable, but {of} failed in training, the last {name} "
        f"({reason}: {detail}): check the drive or the data set, then go on by --resume"
    )


def without_dead_workers(loader: DataLoader) -> Iterator[Any]:
    """Say in a sentence that a worker process has gone; other errors pass."""
    try:
        yield from loader
    except (RuntimeError, OSError, EOFError) as error:
        # torch says it in a RuntimeError, unless a pipe to the worker breaks first. No OSError
        # comes out of a worker alive: there it is a reason to skip a photo.
        if not loader.num_workers or (
            isinstance(error, RuntimeError) and _OF_TORCH not in str(error)
        ):
            raise
        raise UserError(
            "A process that reads photos ended unexpectedly, perhaps for want of memory: use "
            "fewer --workers, or 0, and go on by --resume"
        ) from error
