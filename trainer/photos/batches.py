"""What a batch is, and how one sample of it is made."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.photos.boxes import Box
from trainer.photos.crops import cut, random_window, sample_generator
from trainer.photos.face_crops import HEIGHTS, Heights, Tile, boxes_of, plan_face_crop
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.photo_set import Photo, PhotoSet
from trainer.photos.sample_line import Place
from trainer.photos.scan import check_size
from trainer.photos.skips import Skip, SkippedPhoto

LatentShape = tuple[int, int, int]
PixelShape = tuple[int, int, int]


class Batch(NamedTuple):
    """One micro-batch of b samples.

    pixels: uint8 [b, R, R, 3], as `vae_core.images.from_bytes` takes them: a quarter of the bytes
    to carry between processes and to the device. noise: float32 [b, C, h, w], standard normal.
    ids: the photos' ids. skipped: photos that could not be read any more and were replaced.
    mean, logvar: float16 [b, C, h, w], the latents' moments where they come from a cache.
    faces: of each sample, the boxes (x, y, width, height) of known faces in its crop's pixels.
    pixel_noise: float32 [b, C, R, R], standard normal, for the input of a denoising autoencoder.
    """

    pixels: Tensor
    noise: Tensor
    ids: list[str]
    skipped: list[Skip]
    mean: Tensor | None = None
    logvar: Tensor | None = None
    faces: list[list[Box]] | None = None
    pixel_noise: Tensor | None = None


class NoBatch(NamedTuple):
    """What comes in a batch's place where none can be made: the photos that failed, or why.

    A result and not an exception, as worker processes hand exceptions on with their traceback
    inside the message.
    """

    skipped: list[Skip]
    why: str = ""


class Sample(NamedTuple):
    """One crop, uint8 [R, R, 3], its noise [C, h, w], the id of its photo, and what may be there.

    mean, logvar: [C, h, w] from a cache; faces: boxes; pixel_noise: [C, R, R] for its pixels.
    """

    crop: np.ndarray
    noise: Tensor
    photo_id: str
    mean: Tensor | None = None
    logvar: Tensor | None = None
    faces: list[Box] | None = None
    pixel_noise: Tensor | None = None


class Draws(NamedTuple):
    """What decides about a sample besides its photo and epoch."""

    seed: int
    resolution: int
    latent_shape: LatentShape
    flip: bool
    share: float = 0.5  # of crops around a face, where faces are known
    heights: Heights = HEIGHTS  # of those faces
    pixel_noise: PixelShape | None = None  # C, R, R; None: none is drawn


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


def make_sample(photos: PhotoSet, place: Place, others: Sequence[int], draws: Draws) -> Sample:
    """Make the sample of a place: a function of seed, place and the set's photos.

    `others` are the photos with faces, which may stand beside each other in a crop. Raises
    SkippedPhoto if the photo is smaller than the resolution, damaged, or not what it was.
    """
    return _sample(photos.photos, photos.open, place, others, draws)


def make_streamed_sample(photo: Photo, opened: OpenPhoto, epoch: int, draws: Draws) -> Sample:
    """Make a sample of a photo that came alone; `photo` tells its size and faces.

    With the chance of --face-share it is cropped around a face, if it has any. Faces are then
    never smaller than the crop allows, as no other photo can stand beside it.
    """
    generator = sample_generator(draws.seed, epoch, photo.id, "kind")
    around_face = bool(photo.faces) and float(torch.rand((), generator=generator)) < draws.share
    place = Place(0, epoch, around_face)
    return _sample([photo], lambda _: opened, place, (), draws)


def _sample(
    photos: Sequence[Photo],
    open_photo: Callable[[int], OpenPhoto],
    place: Place,
    others: Sequence[int],
    draws: Draws,
) -> Sample:
    tiles = plan_crop(photos, place, others, draws)
    crop = make_crop(photos, open_photo, tiles, draws.resolution)
    photo_id = photos[place.index].id
    noise = make_noise(photo_id, place, draws)
    pixel_noise = draws.pixel_noise and _normal(draws.pixel_noise, "pixels", photo_id, place, draws)
    return Sample(crop, noise, photo_id, None, None, boxes_of(photos, tiles), pixel_noise)


def plan_crop(
    photos: Sequence[Photo], place: Place, others: Sequence[int], draws: Draws
) -> list[Tile]:
    """Draw what an epoch's crop shows, from the photos' records alone."""
    photo = photos[place.index]
    generator = sample_generator(draws.seed, place.epoch, photo.id, _purpose("crop", place))
    size = photo.width, photo.height
    if place.around_face:
        check_size(*size, draws.resolution)
        return plan_face_crop(
            photos, place.index, others, draws.resolution, draws.heights, generator, draws.flip
        )
    window = random_window(size, draws.resolution, generator, draws.flip)
    return [Tile(place.index, window, 0, 0, draws.resolution)]


def make_crop(
    photos: Sequence[Photo],
    open_photo: Callable[[int], OpenPhoto],
    tiles: Sequence[Tile],
    resolution: int,
) -> np.ndarray:
    """Cut a planned crop out of its photos: uint8 [R, R, 3]. Raises SkippedPhoto."""
    crop = np.zeros((resolution, resolution, 3), np.uint8)
    opened = {index: open_photo(index) for index in {tile.index for tile in tiles}}
    for index, photo in opened.items():
        _refuse_changed(photos[index], photo)
    for tile in tiles:
        rows, columns = (slice(start, start + tile.side) for start in (tile.top, tile.left))
        crop[rows, columns] = cut(opened[tile.index], tile.window, tile.side)
    return crop


def _refuse_changed(photo: Photo, opened: OpenPhoto) -> None:
    """Refuse a photo of another size than its record says: the crop was planned by that."""
    if opened.size != (photo.width, photo.height):
        now = "{} x {}".format(*opened.size)
        raise SkippedPhoto("changed", f"{photo.name} is {now}, was {photo.width} x {photo.height}")


def make_noise(photo_id: str, place: Place, draws: Draws) -> Tensor:
    """Draw the noise of a place: float32 [C, h, w], standard normal."""
    return _normal(draws.latent_shape, "noise", photo_id, place, draws)


def _normal(shape: tuple[int, ...], what: str, photo_id: str, place: Place, draws: Draws) -> Tensor:
    generator = sample_generator(draws.seed, place.epoch, photo_id, _purpose(what, place))
    return torch.randn(shape, generator=generator)


def _purpose(what: str, place: Place) -> str:
    """Tell the two kinds of crop apart: a photo may give both in the same epoch."""
    return f"face {what}" if place.around_face else what


def collate(samples: Sequence[Sample], skipped: list[Skip]) -> Batch:
    """Join samples to one batch; a photo that failed in two places is named once."""
    pixels = torch.from_numpy(np.stack([sample.crop for sample in samples]))
    noise = torch.stack([sample.noise for sample in samples])
    ids = [sample.photo_id for sample in samples]
    moments = (_joined([getattr(s, part) for s in samples]) for part in ("mean", "logvar"))
    faces = [sample.faces or [] for sample in samples]
    added = _joined([sample.pixel_noise for sample in samples])
    return Batch(pixels, noise, ids, list(dict.fromkeys(skipped)), *moments, faces, added)


def _joined(tensors: list[Tensor | None]) -> Tensor | None:
    return None if tensors[0] is None else torch.stack(tensors)
