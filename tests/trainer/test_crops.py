"""Random crops: where, how large, how sharp, and the same for the same (seed, epoch, photo)."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.photos.crops import cut, random_window, sample_generator
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.skips import SkippedPhoto


def crops(image: Image.Image, resolution: int, count: int, flip: bool = True) -> np.ndarray:
    drawn = [sample_generator(0, epoch, "photo", "crop") for epoch in range(count)]
    photo = opened(image)
    return np.stack([random_crop(photo, resolution, generator, flip) for generator in drawn])


def random_crop(
    photo: OpenPhoto, resolution: int, generator: torch.Generator, flip: bool = True
) -> np.ndarray:
    return cut(photo, random_window(photo.size, resolution, generator, flip), resolution)


def opened(image: Image.Image) -> OpenPhoto:
    file = io.BytesIO()
    image.save(file, "PNG")
    return OpenPhoto(file.getvalue())


def ramp(width: int, height: int) -> Image.Image:
    """Red grows to the right and green downwards, each from 0 to 255: a crop tells its place."""
    red = np.tile(np.linspace(0, 255, width), (height, 1))
    green = np.tile(np.linspace(0, 255, height)[:, None], (1, width))
    return Image.fromarray(np.stack([red, green, red * 0], -1).round().astype(np.uint8))


def test_draws_depend_on_each_argument_and_on_nothing_else() -> None:
    arguments = [(0, 0, "a", "crop"), (1, 0, "a", "crop"), (0, 1, "a", "crop")]
    arguments += [(0, 0, "b", "crop"), (0, 0, "a", "noise"), (-1, 0, "a", "crop")]
    arguments += [(2**80, 0, "a", "crop"), (11, 0, "", "x"), (1, 10, "", "x")]
    first = [torch.randn(4, generator=sample_generator(*some)).tolist() for some in arguments]
    torch.manual_seed(5)
    again = [torch.randn(4, generator=sample_generator(*some)).tolist() for some in arguments]
    assert first == again
    assert len({tuple(draw) for draw in first}) == len(arguments)


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    crops(ramp(40, 30), 16, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_crop_at_its_own_size_is_a_copy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found = crops(Image.fromarray(pixels), 16, 20)
    for crop in found:
        assert np.array_equal(crop, pixels) or np.array_equal(crop, pixels[:, ::-1])


def test_half_are_mirrored_unless_switched_off() -> None:
    image = ramp(16, 16)
    mirrored = [crop[0, 0, 0] > crop[0, -1, 0] for crop in crops(image, 16, 400)]
    assert 160 < sum(mirrored) < 240
    plain = crops(image, 16, 50, flip=False)
    assert all(crop[0, 0, 0] < crop[0, -1, 0] for crop in plain)


def test_switching_mirrors_off_changes_nothing_else() -> None:
    pairs = zip(crops(ramp(90, 60), 16, 40), crops(ramp(90, 60), 16, 40, flip=False), strict=True)
    for crop, plain in pairs:
        turned = crop if crop[0, 0, 0] <= crop[0, -1, 0] else crop[:, ::-1]
        assert np.array_equal(turned, plain)


def test_scales_are_log_uniform_and_places_uniform() -> None:
    width, height, resolution = 512, 256, 16
    found = crops(ramp(width, height), resolution, 500, flip=False).astype(float)
    # Between the centres of the outermost pixels lie (R - 1) / R of a side.
    spread = resolution / (resolution - 1)
    down = (found[:, -1, 8, 1] - found[:, 0, 8, 1]) / 255 * height * spread
    across = (found[:, 8, -1, 0] - found[:, 8, 0, 0]) / 255 * width * spread
    assert np.abs(down / across - 1)[down > 60].max() < 0.1  # not stretched
    assert down.min() > resolution * 0.8 and down.max() < height * 1.05
    assert abs(np.median(down) / np.sqrt(resolution * height) - 1) < 0.15  # the middle of the logs
    small = found[down < 40]
    place = (small.mean((1, 2))[:, 0] / 255 * width - 16) / (width - 32)
    assert abs(place.mean() - 0.5) < 0.08 and place.min() < 0.1 and place.max() > 0.9


def test_reduction_is_antialiased() -> None:
    """Stripes of one pixel are beyond what a reduced crop can show: they must become grey."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    flat = [crop for crop in crops(Image.fromarray(stripes), 16, 60) if np.ptp(crop) < 16]
    assert len(flat) > 30  # of the log-uniform scales from 1 to 16, two thirds exceed 2.5
    assert all(abs(crop.mean() - 127.5) < 5 for crop in flat)


def test_smaller_than_the_resolution_is_skipped_not_enlarged() -> None:
    with pytest.raises(SkippedPhoto, match="smaller than --resolution: 40 x 15"):
        random_crop(opened(ramp(40, 15)), 16, sample_generator(0, 0, "a", "crop"))


def test_type_and_shape() -> None:
    crop = random_crop(opened(ramp(30, 20)), 16, sample_generator(0, 0, "a", "crop"))
    assert crop.dtype == np.uint8 and crop.shape == (16, 16, 3) and crop.flags.writeable
