"""The high-frequency term, against SciPy's Gaussian."""

import numpy as np
import pytest
import skimage.data
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from trainer.training.high_frequency import SIGMA, blur, detail_distance
from trainer.training.losses import TrainStep
from vae_core.images import from_bytes


def photos() -> tuple[Tensor, Tensor]:
    """Two pairs of crops of 48 x 40 pixels: smeared ones and their originals."""
    cuts = [skimage.data.astronaut()[y : y + 48, 200:240] for y in (60, 160)]
    smeared = [gaussian_filter(cut, (1, 1, 0)) for cut in cuts]
    x, y = (from_bytes(torch.from_numpy(np.stack(these))) for these in (smeared, cuts))
    return x, y


def smooth(picture: np.ndarray) -> np.ndarray:
    """Blur [C, H, W] in float64, channel by channel."""
    return gaussian_filter(picture, (0, SIGMA, SIGMA), mode="mirror", truncate=4.0)


def test_what_a_blur_takes_away_is_compared() -> None:
    x, y = photos()
    found = detail_distance(x, y)
    for one, other, distance in zip(x.double().numpy(), y.double().numpy(), found, strict=True):
        apart = (one - smooth(one)) - (other - smooth(other))
        assert distance.item() == pytest.approx(np.abs(apart).mean(), rel=1e-5)


def test_it_hears_fine_detail_and_not_what_is_even() -> None:
    """Of a wave 8 pixels long half is taken away, of a longer one less; a shift costs nothing."""
    across = torch.arange(256.0).expand(1, 1, 16, 256)

    def kept(length: float) -> float:
        wave = torch.sin(2 * torch.pi * across / length)
        return (blur(wave)[..., 64:192].std() / wave[..., 64:192].std()).item()

    assert kept(8) == pytest.approx(0.5, abs=0.01)
    assert kept(3) < 0.01 and kept(64) > 0.95
    x, _ = photos()
    assert detail_distance(x + 0.3, x).max() < 1e-6


def test_grey_pictures_and_the_smallest_crops() -> None:
    x, y = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    assert detail_distance(x, y).shape == (2,) and detail_distance(x, y).min() > 0


def test_it_is_float32_under_autocast() -> None:
    x, y = photos()
    with torch.autocast("cpu", torch.bfloat16):
        inside = detail_distance(x, y)
    assert torch.equal(inside, detail_distance(x, y))


def test_the_step_adds_it_by_its_weight(tiny_vae) -> None:
    x, noise = photos()[1], torch.zeros(2, 4, 24, 20)
    step = TrainStep(tiny_vae, None, "mse", 1.0, 0.0, 0.0, train_encoder=False, hf_weight=0.5)
    scalars = step(x, noise)
    output = tiny_vae.decode(tiny_vae.encode(x).latent_dist.mean).sample
    torch.testing.assert_close(scalars["hf"], detail_distance(output, x).mean())
    torch.testing.assert_close(scalars["loss"], scalars["rec"] + 0.5 * scalars["hf"])
    scalars["loss"].backward()
    assert tiny_vae.decoder.conv_out.weight.grad.abs().max() > 0
