"""Pictures of differences: signs, gain, heat maps, and strips that hold every picture whole."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color, data
from skimage.metrics import structural_similarity

from vae_core.compare import diff
from vae_core.compare.figures import measure
from vae_core.compare.pairs import Pair, match, pair
from vae_core.drawn import colours, diff_strip, drawing

MAGENTA = list(colours.NAN_COLOUR)


def make_pair(height: int = 48, width: int = 56, mask: torch.Tensor | None = None) -> Pair:
    photo = np.ascontiguousarray(data.astronaut()[40 : 40 + height, 180 : 180 + width])
    original = torch.from_numpy(photo)[None] / 255.0
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    return pair(match(original, original + noise, mask), 0)


def flat(x: float, y: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 3, 16, 16), x), torch.full((1, 3, 16, 16), y)


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.4), (0.4, 0.5), (1.0, 0.0), (0.0, 1.0), (0.3, 0.3)])
def test_image_enhance_difference_nan_where_the_second_is_larger(x: float, y: float) -> None:
    """A rival raises the signed difference to a power: NaN, then black. Ours is linear."""
    low, high = max(0.0, 0.5 + (x - y)), min(1.0, abs(x - y) * 2)
    got = diff.signed(*flat(x, y), 2.0), diff.absolute(*flat(x, y), 2.0)
    torch.testing.assert_close(got[0], torch.full((16, 16, 3), min(low, 1.0)))
    torch.testing.assert_close(got[1], torch.full((16, 16, 3), high))


def test_signed_differences_of_swapped_pictures_mirror_each_other() -> None:
    taken = make_pair()
    there, back = diff.signed(taken.x, taken.y, 3), diff.signed(taken.y, taken.x, 3)
    torch.testing.assert_close(there + back, torch.ones(48, 56, 3))


def test_lost_pixels_are_magenta_everywhere() -> None:
    taken = make_pair()
    taken.x[0, 1, 20, 30] = torch.nan
    pictures = [diff.absolute(taken.x, taken.y, 8), diff.signed(taken.x, taken.y, 8)]
    for kind in ("ssim", "colour", "absolute"):
        heat = diff.heat_map(taken.x, taken.y, kind, None, 8)
        assert heat.values.isnan().sum() == 1
        pictures.append(diff.heat_colours(heat))
    for picture in pictures:
        assert picture[20, 30].tolist() == MAGENTA
        assert (picture == torch.tensor(MAGENTA)).all(-1).sum() == 1


def test_ssim_map_as_scikit_image() -> None:
    taken = make_pair()
    arrays = [p[0].movedim(0, -1).double().numpy() for p in (taken.x, taken.y)]
    full = structural_similarity(
        *arrays, gaussian_weights=True, use_sample_covariance=False, data_range=1, channel_axis=-1,
        full=True,
    )[1].mean(-1)  # fmt: skip
    got = diff.heat_map(taken.x, taken.y, "ssim", None, 8).values
    expected = torch.from_numpy(1 - full).float()
    torch.testing.assert_close(got[5:-5, 5:-5], expected[5:-5, 5:-5], atol=1e-6, rtol=0)
    assert torch.equal(got[0, 5:-5], got[5, 5:-5]) and got.shape == (48, 56)


def test_colour_distance_of_flat_colours_is_that_of_oklab() -> None:
    """Blurred, a flat difference stays what it is, up to the edge. Lightness by scikit-image."""
    x, y = flat(0.6, 0.5)
    got = diff.heat_map(x, y, "colour", None, 8).values
    grey = [color.rgb2xyz(np.full((1, 1, 3), v))[0, 0, 1] ** (1 / 3) for v in (0.6, 0.5)]
    torch.testing.assert_close(
        got, torch.full((16, 16), grey[0] - grey[1]).float(), atol=1e-3, rtol=0
    )


def test_colour_distance_blurs_what_the_eye_mixes() -> None:
    y = torch.full((1, 3, 32, 32), 0.5)
    fine = y + 0.1 * (torch.arange(32) % 2 * 2 - 1)
    coarse = y + 0.1 * (torch.arange(32) // 16 * 2 - 1)
    fine_map, coarse_map = (diff.heat_map(x, y, "colour", None, 8).values for x in (fine, coarse))
    assert fine_map[:, 8:24].mean() < coarse_map[:, 2:8].mean() / 5


@pytest.mark.parametrize("kind", ["ssim", "colour", "absolute"])
def test_heat_maps_are_zero_where_nothing_differs(kind: str) -> None:
    y = make_pair().y
    heat = diff.heat_map(y, y, kind, None, 8)
    assert heat.values.max() < 1e-6 and heat.values.shape == (48, 56)


def test_range_of_heat_maps() -> None:
    taken = make_pair()
    assert diff.heat_map(taken.x, taken.y, "absolute", None, 8).highest == 1 / 8
    assert diff.heat_map(taken.x, taken.y, "ssim", None, 8).highest == 1.0
    assert diff.heat_map(taken.x, taken.y, "ssim", None, 8, 0.3).highest == 0.3


def test_choice_of_the_heat_map() -> None:
    assert diff.choose_kind("auto", (64, 64), None) == "ssim"
    assert diff.choose_kind("auto", (10, 64), None) == "colour"
    assert diff.choose_kind("colour", (1, 1), None) == "colour"
    with pytest.raises(ValueError, match="LPIPS weights .* models/vae_lab"):
        diff.choose_kind("lpips", (64, 64), None)
    with pytest.raises(ValueError, match="at least 11 pixels a side .*got 64 x 10"):
        diff.choose_kind("ssim", (10, 64), None)
    with pytest.raises(ValueError, match="got 'jet'"):
        diff.choose_kind("jet", (64, 64), None)


# Strips


def contains(whole: Image.Image, part: torch.Tensor) -> bool:
    """Whether an image stands in a picture, pixel for pixel; the frame of a mask may be on it."""
    big, small = np.asarray(whole), np.asarray(drawing.to_pil(part))
    height, width = small.shape[:2]
    for top in range(big.shape[0] - height + 1):
        hits = np.nonzero((big[top, : big.shape[1] - width + 1] == small[0, 0]).all(-1))[0]
        if any(np.array_equal(big[top : top + height, x : x + width], small) for x in hits):
            return True
    return False


def draw(taken: Pair, notes: tuple[str, ...] = ()) -> tuple[Image.Image, diff_strip.Shown]:
    heat = diff.heat_map(taken.x, taken.y, "ssim" if taken.x.shape[2] > 10 else "colour", None, 8)
    pictures = diff_strip.shown(taken, heat, 8)
    return diff_strip.strip(pictures, measure(taken), 8, None, notes), pictures


@pytest.mark.parametrize("size", [(48, 56), (9, 200), (90, 13)])
def test_a_strip_holds_every_picture_whole(size: tuple[int, int]) -> None:
    strip, pictures = draw(make_pair(*size))
    for part in (*pictures[:3], diff.heat_colours(pictures.heat)):
        assert contains(strip, part)


def test_notes_and_insets_make_a_strip_higher() -> None:
    plain, _ = draw(make_pair())
    assert draw(make_pair(), ("compared on a crop",))[0].height > plain.height
    mask = torch.zeros(1, 48, 56)
    mask[0, 10:20, 10:18] = 1
    with_inset, pictures = draw(make_pair(mask=mask))
    assert with_inset.height > plain.height + 200
    framed = np.asarray(with_inset)
    assert (framed == diff_strip.BOX_COLOUR).all(-1).sum() > 4 * (10 + 8)
    outside = pictures.original[21:]  # what lies under the frame is untouched
    assert contains(with_inset, outside)


def test_an_inset_is_the_region_enlarged_evenly() -> None:
    """An 8 x 10 region with its surroundings, 10 x 14 pixels, fills 256 pixels of height."""
    mask = torch.zeros(1, 48, 56)
    mask[0, 10:20, 10:18] = 1
    taken = make_pair(mask=mask)
    edges = diff_strip._around(measure(taken).box, (56, 48))
    assert edges == (9, 8, 19, 22)
    part = drawing.to_pil(taken.y[0].movedim(0, -1)).crop(edges)
    enlarged = part.resize((round(10 * 256 / 14), 256), Image.Resampling.BICUBIC)
    assert contains(draw(taken)[0], drawing.from_pil(enlarged))


def test_large_pictures_are_shown_smaller_and_said_so(monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setattr(diff_strip, "LARGEST", 28)
    taken = make_pair()
    strip, pictures = draw(taken)
    half = drawing.to_pil(pictures.original).resize((28, 24), Image.Resampling.LANCZOS)
    assert contains(strip, drawing.from_pil(half))


def test_the_heat_picture_has_its_legend_beside_it() -> None:
    taken = make_pair(200, 60)
    heat = diff.heat_map(taken.x, taken.y, "ssim", None, 8)
    picture = diff_strip.heat_picture(heat)
    assert picture.width > 60 and contains(picture, diff.heat_colours(heat))


def test_pictures_of_one_batch_become_one_size() -> None:
    pictures = [Image.new("RGB", (30, 20), "red"), Image.new("RGB", (10, 41), "blue")]
    batch = diff_strip.to_batch(pictures)
    assert batch.shape == (2, 41, 30, 3) and batch.dtype == torch.float32
    assert (batch[0] == torch.tensor([1.0, 0, 0])).all(-1).sum() == 600
    assert (batch[1] == torch.tensor([0, 0, 1.0])).all(-1).sum() == 410


def test_captions_of_figures_that_cannot_be_had() -> None:
    strip, _ = draw(make_pair(8, 8))
    assert min(strip.size) > 8
    taken = make_pair()
    taken.x[:] = math.nan
    assert min(draw(taken)[0].size) > 8
