"""Pictures of latents: their pixels, sizes and colours, looked up where they must be."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vae_core.drawn import colours, latent_pictures
from vae_core.drawn.drawing import from_pil
from vae_core.drawn.latent_pictures import Factors

MAGENTA = torch.tensor(colours.NAN_COLOUR)


def item(channels: int = 4, height: int = 6, width: int = 9, scale: float = 5.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(channels, height, width, generator=generator) * scale


def tiles(z: torch.Tensor, is_shared: bool = True, clip: float = 1) -> torch.Tensor:
    return from_pil(latent_pictures.channel_tiles(z, clip, is_shared, "title"))


def has(picture: torch.Tensor, colour: torch.Tensor) -> bool:
    return bool(((picture - colour).abs() < 1 / 255).all(-1).any())


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("scale", [0.01, 1, 1000])
def test_tiles_do_not_saturate_at_one(is_shared, scale) -> None:
    """A latent of any strength fills the colours: 98 % of its cells have a shade of their own."""
    z = torch.linspace(-scale, 3 * scale, 400).view(1, 20, 20)
    shades = tiles(z, is_shared)[40:270, 20:270].reshape(-1, 3).unique(dim=0)
    assert len(shades) > (250 if is_shared else 340)


def test_the_shared_range_is_even_around_zero() -> None:
    z = torch.zeros(1, 2, 2)
    z[0, 0, 0], z[0, 1, 1] = 4.0, -2.0
    picture = tiles(z, clip=0)
    for value in (4.0, 0.0, -2.0):
        assert has(picture, colours.diverging(torch.tensor(value / 4)))


def test_what_is_not_finite_is_magenta_in_every_picture() -> None:
    z = item()
    assert not has(tiles(z), MAGENTA)
    for bad in (math.nan, math.inf, -math.inf):
        z[1, 2, 3] = bad
        assert has(tiles(z), MAGENTA) and has(tiles(z, False), MAGENTA)
        factors = Factors(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))
        for image in (
            latent_pictures.rgb_from_factors(z, factors),
            latent_pictures.rgb_from_components(z),
        ):
            assert image[2, 3].isnan().any() and image.isnan().any(-1).sum() == 1
            assert torch.equal(latent_pictures.enlarged(image, 2)[4, 6], MAGENTA)


@pytest.mark.parametrize(
    "z", [torch.full((4, 3, 3), math.nan), torch.zeros(4, 3, 3), torch.full((1, 1, 1), 7.0)]
)
def test_latents_without_any_range(z) -> None:
    for is_shared in (True, False):
        assert tiles(z, is_shared).isfinite().all()
    image = latent_pictures.enlarged(latent_pictures.rgb_from_components(z), 3)
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1


def test_rgb_by_hand() -> None:
    z = item(2, 1, 2)
    weights = torch.tensor([[0.1, 0.2, -0.1], [0.05, 0.0, 0.3]])
    bias = torch.tensor([0.01, -0.02, 0.03])
    got = latent_pictures.rgb_from_factors(z, Factors(weights, bias))
    for column in range(2):
        for colour in range(3):
            value = sum(z[c, 0, column].item() * weights[c, colour].item() for c in range(2))
            expected = min(max((value + bias[colour].item() + 1) / 2, 0), 1)
            assert got[0, column, colour].item() == pytest.approx(expected, abs=1e-6)


def test_components_are_colours_on_one_scale() -> None:
    z = item(6, 8, 9)
    places = PCA(3, svd_solver="full").fit_transform(z.double().flatten(1).T.numpy())
    places *= np.sign(places[np.abs(places).argmax(0), range(3)])
    reach = np.percentile(np.abs(places[:, 0]), latent_pictures.ROBUST)
    expected = np.clip(0.5 + places / (2 * reach), 0, 1).reshape(8, 9, 3)
    np.testing.assert_allclose(latent_pictures.rgb_from_components(z), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "expected"),
    [(64, 48, 8, 8), (64, 64, 4, 4), (16, 16, 32, 32), (512, 512, 16, 8), (64, 64, None, 8)]
    + [(600, 10, None, 1), (1, 1, None, 512), (5000, 3, 8, 1)],
)
def test_cells_are_enlarged_by_the_ratio_of_the_vae(height, width, ratio, expected) -> None:
    assert latent_pictures.rgb_factor(height, width, ratio) == expected


def test_many_large_pictures_are_enlarged_less() -> None:
    assert latent_pictures.rgb_factor(256, 256, 8, count=1) == 8
    assert latent_pictures.rgb_factor(256, 256, 8, count=32) == 5


def test_enlarging_repeats_whole_pixels() -> None:
    image = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    got = latent_pictures.enlarged(image, 4)
    assert got.shape == (8, 12, 3)
    assert torch.equal(got[::4, ::4], image) and torch.equal(got[3::4, 3::4], image)


def test_a_large_channel_is_averaged_in_whole_blocks() -> None:
    plane = item(1, 10, 13)[0]
    got = latent_pictures._fit(plane[None], 5)[0]
    assert got.shape == (4, 5)
    assert got[1, 1].item() == pytest.approx(plane[3:6, 3:6].mean().item(), abs=1e-6)
    assert got[3, 4].item() == pytest.approx(plane[9:, 12:].mean().item(), abs=1e-6)


@pytest.mark.parametrize(("frame", "place"), [(-1, 2), (0, 0), (4, 4)])
def test_a_frame_of_a_video_is_named(frame, place) -> None:
    video = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(2, 3, 5, 4, 4)
    got, words = latent_pictures.frame_at(video, frame)
    assert got.shape == (2, 3, 4, 4) and got.eq(place).all()
    assert f"frame {place} of 0 to 4" in words and ("middle" in words) == (frame == -1)


@pytest.mark.parametrize("frame", [-2, 5, 2**63])
def test_a_frame_beyond_the_video_is_refused(frame) -> None:
    with pytest.raises(ValueError, match="this latent has 5 frames"):
        latent_pictures.frame_at(torch.zeros(1, 1, 5, 2, 2), frame)


def test_many_channels_stay_small_and_none_is_left_out() -> None:
    picture = latent_pictures.channel_tiles(item(128, 8, 8), 1, True, "title")
    assert max(picture.size) < 2048


def test_pictures_of_unlike_size_make_a_batch() -> None:
    small = latent_pictures.channel_tiles(item(1, 4, 4), 1, True, "a")
    large = latent_pictures.channel_tiles(item(4, 4, 4), 1, True, "a")
    got = latent_pictures.batched([small, large])
    assert got.shape == (2, large.height, large.width, 3)
    assert torch.equal(got[1], from_pil(large))
