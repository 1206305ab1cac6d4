"""What is said of two latent spaces, on a real VAE and one that is paler on purpose."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from benchmarks.latent_agreement import correlation, row, slope
from trainer.photos.sources import open_photos


@pytest.fixture
def paler(tiny_base, tmp_path):
    """The tiny base, whose latents are half as large and whose decoder doubles them."""
    vae = AutoencoderKL.from_pretrained(tiny_base)
    with torch.no_grad():
        for half in (vae.quant_conv.weight[:4], vae.quant_conv.bias[:4]):
            half.mul_(0.5)
        vae.post_quant_conv.weight.mul_(2)
    vae.save_pretrained(tmp_path / "paler")
    return tmp_path / "paler"


def test_a_paler_space_correlates_and_its_slope_tells(tiny_base, paler, photo_folder):
    photos = open_photos(str(photo_folder), 64)
    options = Namespace(reference=str(tiny_base), family="sd1", eval_resolution=64, device="cpu")
    same = row(f"same={tiny_base}", options, photos)
    assert same["correlation"] == pytest.approx(1) and same["slope"] == pytest.approx(1)
    theirs = "psnr of the reference's latents"
    assert same["psnr"].value == pytest.approx(same[theirs].value)
    half = row(f"half={paler}", options, photos)
    assert half["correlation"] == pytest.approx(1) and half["slope"] == pytest.approx(0.5)
    assert half["psnr"].value == pytest.approx(same["psnr"].value, abs=0.001)
    assert half[theirs].value != pytest.approx(half["psnr"].value, abs=0.005)


def test_correlation_and_slope_are_numpys():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 500, generator=generator)
    y = 0.7 * x + torch.randn(2, 500, generator=generator) + 3
    assert slope(y, x) == pytest.approx(
        np.mean([np.polyfit(a.numpy(), b.numpy(), 1)[0] for a, b in zip(x, y, strict=True)]),
        abs=0.02,
    )
    assert correlation(x[0], -2 * x[0]) == pytest.approx(-1)
