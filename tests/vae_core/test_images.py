"""Ranges, layouts, 8-bit rounding and ComfyUI's centred crop."""

import numpy as np
import pytest
import torch
from PIL import Image

from vae_core import images


def every_level() -> torch.Tensor:
    """All 256 levels as one 8-bit picture [1, 16, 16, 3], the channels in different orders."""
    levels = torch.arange(256, dtype=torch.uint8).view(16, 16)
    return torch.stack([levels, levels.flip(0), levels.T], dim=-1)[None]


def test_to_vae_maps_range_and_layout() -> None:
    picture = torch.zeros(2, 3, 5, 3)
    picture[1, 2, 4] = torch.tensor([0.0, 0.5, 1.0])
    pixels = images.to_vae(picture)
    assert pixels.shape == (2, 3, 3, 5)
    assert pixels[1, :, 2, 4].tolist() == [-1.0, 0.0, 1.0]
    assert pixels.is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_of_float_images(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 6, 4, channels, generator=generator)
    torch.testing.assert_close(images.from_vae(images.to_vae(picture)), picture)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_widened_first(dtype: torch.dtype) -> None:
    """Done in half precision, x * 2 - 1 would merge neighbouring dark levels."""
    picture = (every_level().float() / 255).to(dtype)
    pixels = images.to_vae(picture)
    assert pixels.dtype == torch.float32
    exact = (picture.double() * 2 - 1).movedim(-1, 1)
    torch.testing.assert_close(pixels.double(), exact, rtol=0, atol=1e-7)


def test_from_vae_clamps() -> None:
    pixels = torch.tensor([-1.5, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5)
    assert images.from_vae(pixels).flatten().tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_bytes_survive_the_round_trip_exactly() -> None:
    assert torch.equal(images.to_uint8(images.from_bytes(every_level())), every_level())


def test_bytes_and_floats_give_the_same_pixels() -> None:
    assert torch.equal(images.from_bytes(every_level()), images.to_vae(every_level().float() / 255))


def test_grey_is_pillows() -> None:
    every = every_level()
    colours = every.numpy()[0]
    expected = np.array(Image.fromarray(colours).convert("L"))
    assert np.array_equal(images.to_grey(every)[0, ..., 0].numpy(), expected)
    assert images.to_grey(every).shape == (1, 16, 16, 1)


def test_to_unit_gives_exact_8_bit_levels() -> None:
    unit = images.to_unit(images.from_bytes(every_level()))
    expected = every_level().movedim(-1, 1).float() / 255
    assert torch.equal(unit, expected)


def test_to_unit_agrees_with_a_saved_file() -> None:
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    saved = images.to_uint8(pixels).movedim(-1, 1).float() / 255
    assert torch.equal(images.to_unit(pixels), saved)
    assert (saved.min(), saved.max()) == (0, 1)


def test_to_unit_rounds_to_the_nearest_level() -> None:
    levels = torch.tensor([99.6, 100.0, 100.4])
    assert (images.to_unit(levels / 127.5 - 1) * 255).round().tolist() == [100, 100, 100]


def test_nan_stays_visible_in_metrics_and_is_black_in_files() -> None:
    pixels = torch.full((1, 3, 2, 2), float("nan"))
    assert images.to_unit(pixels).isnan().all()
    assert (images.to_uint8(pixels) == 0).all()


def test_inputs_are_not_written_to() -> None:
    picture = torch.rand(1, 4, 4, 3)
    pixels = torch.randn(1, 3, 4, 4)
    before = picture.clone(), pixels.clone()
    images.to_vae(picture), images.from_vae(pixels), images.to_unit(pixels)
    images.to_uint8(pixels)
    assert torch.equal(picture, before[0]) and torch.equal(pixels, before[1])


@pytest.mark.parametrize("function", [images.to_vae, images.from_vae, images.to_uint8])
def test_wrong_rank_is_named(function) -> None:
    with pytest.raises(ValueError, match=r"\[3, 4, 4\]"):
        function(torch.zeros(3, 4, 4))


def test_from_bytes_refuses_floats() -> None:
    with pytest.raises(ValueError, match="torch.float32"):
        images.from_bytes(torch.zeros(1, 2, 2, 3))


def comfy_crop(size: int, ratio: int) -> tuple[int, int]:
    """What ComfyUI's VAE keeps of one axis, by its own words: narrow(dim, offset, length)."""
    return (size % ratio) // 2, (size // ratio) * ratio


@pytest.mark.parametrize("height, width", [(64, 64), (65, 71), (8, 15), (321, 481), (9, 14)])
def test_crop_is_comfyuis(height: int, width: int) -> None:
    (top, tall), (left, wide) = comfy_crop(height, 8), comfy_crop(width, 8)
    assert images.centre_crop_box(height, width, 8) == (top, left, tall, wide)
    assert images.centre_crop_size(height, width, 8) == (tall, wide)
    picture = torch.arange(height * width).view(1, height, width, 1)
    expected = picture.narrow(1, top, tall).narrow(2, left, wide)
    assert torch.equal(images.centre_crop(picture, 8), expected)


def test_crop_of_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 x 8 pixels, got 100 x 7"):
        images.centre_crop_box(7, 100, 8)
