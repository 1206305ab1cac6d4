"""Comparing a batch from end to end, without ComfyUI."""

import json
import math

import pytest
import torch

from vae_core.compare.comparison import batches, choose, compare, numbers, texts
from vae_core.compare.figures import Perceptual
from vae_core.compare.pairs import match, pair


def photos(count: int, height: int = 30, width: int = 40) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(height))


def run(original, reconstruction, mask=None, heat_map="auto"):  # noqa: ANN001, ANN202
    pairs = match(original, reconstruction, mask)
    how = choose(pairs, 4.0, heat_map, 0.0, None)
    return pairs, how, [compare(pair(pairs, i), how) for i in range(pairs.count)]


def test_pictures_make_batches_though_their_regions_differ() -> None:
    masks = torch.zeros(3, 30, 40)
    masks[0, 3:9, 4:30], masks[1, 2:20, 5:8] = 1, 1  # the third selects nothing
    strips, absolute, signed, heat = batches(run(photos(3), 1 - photos(3), masks)[2])
    assert absolute.shape == signed.shape == (3, 30, 40, 3)
    assert strips.shape[0] == heat.shape[0] == 3 and heat.shape[2] > 40
    for images in (strips, absolute, signed, heat):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1


def test_numbers_are_means_a_shift_and_a_list() -> None:
    y = photos(2) * 0.5
    shifted = y + torch.tensor([0.0, 51 / 255, 0.0])
    psnr, _, lpips, mse, mae, maximum, shift, listed = numbers(run(y, shifted)[2], "mae")
    assert mae == pytest.approx(0.2 / 3) and maximum == pytest.approx(0.2)
    assert mse == pytest.approx(0.04 / 3) and psnr == pytest.approx(-10 * math.log10(0.04 / 3))
    assert shift == pytest.approx([0.0, 0.2, 0.0], abs=1e-7)
    assert listed == pytest.approx([mae, mae]) and math.isnan(lpips)


def test_texts_state_how_it_was_done() -> None:
    pairs, how, compared = run(photos(1, 33, 45), photos(1, 32, 40))
    csv, text = texts(compared, pairs, how)
    about = json.loads(text)
    assert csv.splitlines()[0].startswith("image,width,height") and len(csv.splitlines()) == 3
    assert (about["width"], about["height"], about["gain"]) == (40, 32, 4.0)
    assert about["crop"]["original"] == {"left": 2, "top": 0, "width": 40, "height": 32}
    assert about["heat_map"] == "ssim" and about["lpips_net"] is None
    assert json.loads(texts(*_swapped(run(photos(1), photos(1))))[1])["crop"] is None


def _swapped(result):  # noqa: ANN001, ANN202
    pairs, how, compared = result
    return compared, pairs, how


def test_what_is_too_small_is_noted() -> None:
    pairs = match(photos(1, 8, 40), photos(1, 8, 40))
    how = choose(pairs, 1.0, "auto", 0.0, Perceptual("squeeze", {}))
    assert how.kind == "colour" and how.net == "squeeze"
    assert how.notes == ("no LPIPS under 17 pixels a side", "no SSIM under 11 pixels a side")


def test_lost_values_are_noted_in_the_strip_of_their_pair() -> None:
    x = photos(2)
    x[1, 3, 4, 0] = torch.nan
    first, second = run(photos(2), x)[2]
    assert second.strip.height > first.strip.height and second.figures.lost == 1
