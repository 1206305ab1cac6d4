"""Metrics against scikit-image on real photos, and the properties a metric must have."""

import math

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.datasets import load_sample_image

from vae_core import metrics
from vae_core.images import from_bytes, to_unit

SCALARS = {"psnr": metrics.psnr, "ssim": metrics.ssim, "mae": metrics.mae}


def photo(name: str) -> torch.Tensor:
    """A real photo as [1, 3, H, W] in [0, 1], cropped to be quick."""
    array = data.astronaut() if name == "astronaut" else load_sample_image(name)
    crop = torch.from_numpy(np.ascontiguousarray(array[40:136, 180:281]))
    return to_unit(from_bytes(crop[None]))


def noisy(picture: torch.Tensor, strength: float = 0.08) -> torch.Tensor:
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    return to_unit((picture + strength * noise) * 2 - 1)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.cat([photo("astronaut"), photo("flower.jpg"), photo("china.jpg")])
    return torch.cat([noisy(y[:1], 0.02), noisy(y[1:2], 0.1), noisy(y[2:], 0.3)]), y


def channels_last(picture: torch.Tensor) -> np.ndarray:
    return picture[0].movedim(0, -1).double().numpy()


@pytest.mark.parametrize("name", ["astronaut", "flower.jpg", "china.jpg"])
@pytest.mark.parametrize("strength", [0.01, 0.2])
def test_agreement_with_scikit_image(name: str, strength: float) -> None:
    y = photo(name)
    x = noisy(y, strength)
    theirs, ours = (channels_last(y), channels_last(x)), (x, y)
    assert metrics.psnr(*ours).item() == pytest.approx(
        peak_signal_noise_ratio(*theirs, data_range=1), abs=1e-5
    )
    similarity, full = structural_similarity(
        *theirs,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
        full=True,
    )
    assert metrics.ssim(*ours).item() == pytest.approx(similarity, abs=1e-6)
    inside = torch.from_numpy(full[5:-5, 5:-5].mean(-1)).float()
    torch.testing.assert_close(metrics.ssim_map(*ours)[0], inside, atol=1e-6, rtol=0)


def test_flat_areas_keep_their_variance() -> None:
    """Nearly white pictures: in float32 the variance would drown in rounding."""
    y = torch.full((1, 3, 40, 40), 237 / 255)
    x = noisy(y, 0.002)
    theirs = structural_similarity(
        channels_last(x),
        channels_last(y),
        gaussian_weights=True,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    assert metrics.ssim(x, y).item() == pytest.approx(theirs, abs=1e-6)


def test_mean_errors_agree_with_numpy() -> None:
    x, y = batch()
    difference = x.numpy().astype(np.float64) - y.numpy()
    np.testing.assert_allclose(metrics.mae(x, y), np.abs(difference).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.channel_mean_error(x, y), difference.mean((2, 3)), rtol=1e-5, atol=1e-8
    )


def test_channel_error_is_positive_where_the_reconstruction_is_brighter() -> None:
    y = torch.full((1, 3, 12, 12), 0.4)
    x = y + torch.tensor([0.2, 0.0, -0.2]).view(1, 3, 1, 1)
    expected = torch.tensor([[0.2, 0.0, -0.2]])
    torch.testing.assert_close(metrics.channel_mean_error(x, y), expected)


def test_identical_pictures() -> None:
    _, y = batch()
    assert metrics.psnr(y, y).tolist() == [math.inf] * 3
    assert metrics.ssim(y, y).tolist() == [1.0] * 3
    assert metrics.mae(y, y).tolist() == [0.0] * 3
    assert (metrics.channel_mean_error(y, y) == 0).all()


@pytest.mark.parametrize("metric", SCALARS.values(), ids=SCALARS)
def test_symmetry(metric) -> None:
    x, y = batch()
    assert torch.equal(metric(x, y), metric(y, x))


def test_channel_error_changes_sign() -> None:
    x, y = batch()
    assert torch.equal(metrics.channel_mean_error(x, y), -metrics.channel_mean_error(y, x))


@pytest.mark.parametrize(
    "metric", [*SCALARS.values(), metrics.ssim_map, metrics.channel_mean_error]
)
def test_a_batch_is_its_pictures_one_by_one(metric) -> None:
    x, y = batch()
    items = [metric(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    torch.testing.assert_close(metric(x, y), torch.cat(items), rtol=1e-6, atol=1e-7)


def test_more_noise_is_worse() -> None:
    y = photo("astronaut")
    little, much = noisy(y, 0.02), noisy(y, 0.2)
    assert metrics.psnr(little, y) > metrics.psnr(much, y)
    assert metrics.ssim(little, y) > metrics.ssim(much, y)
    assert metrics.mae(little, y) < metrics.mae(much, y)


def test_opposite_pictures_give_the_least() -> None:
    black, white = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert metrics.psnr(black, white).item() == 0.0
    assert metrics.mae(black, white).item() == 1.0
    assert metrics.ssim(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-4)
    checks = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float().expand(1, 3, 16, 16)
    assert -1 <= metrics.ssim(checks, 1 - checks).item() < 0


def test_one_level_of_difference() -> None:
    y = torch.full((1, 3, 8, 8), 100 / 255)
    assert metrics.psnr(y + 1 / 255, y).item() == pytest.approx(20 * math.log10(255), abs=1e-3)


def test_psnr_from_pooled_errors() -> None:
    mse = torch.tensor([0.01, 0.0, math.nan])
    assert metrics.psnr_from_mse(mse).tolist()[:2] == [pytest.approx(20.0), math.inf]
    assert math.isnan(metrics.psnr_from_mse(mse)[2])


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (1, 1)])
def test_ssim_under_11_pixels_is_nan(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert metrics.ssim(x, x).isnan().all()
    assert metrics.ssim_map(x, x).shape == (2, max(size[0] - 10, 0), max(size[1] - 10, 0))
    assert metrics.psnr(x, x).isinf().all()


def test_ssim_of_11_pixels_is_one_window() -> None:
    x = torch.rand(1, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    assert metrics.ssim_map(x, x).shape == (1, 1, 1)
    assert metrics.ssim(x, x).item() == pytest.approx(1.0)


@pytest.mark.parametrize("metric", SCALARS.values(), ids=SCALARS)
def test_nan_is_told(metric) -> None:
    x, y = batch()
    x[1, 0, 50, 50] = math.nan
    assert metric(x, y).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("metric", SCALARS.values(), ids=SCALARS)
def test_any_float_in_float32_out(metric, dtype: torch.dtype) -> None:
    x, y = batch()
    answer = metric(x.to(dtype), y.to(dtype))
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, metric(x, y), rtol=1e-2, atol=1e-3)


def test_grey_pictures() -> None:
    x, y = batch()
    grey = metrics.ssim(x[:, :1], y[:, :1]), metrics.ssim(x[:, 1:2], y[:, 1:2])
    blue = metrics.ssim(x[:, 2:], y[:, 2:])
    torch.testing.assert_close(torch.stack([*grey, blue]).mean(0), metrics.ssim(x, y))


@pytest.mark.parametrize("metric", [*SCALARS.values(), metrics.channel_mean_error])
class TestRefusals:
    def test_shapes_that_differ_are_both_named(self, metric) -> None:
        with pytest.raises(ValueError, match=r"\[1, 3, 16, 16\] and \[1, 3, 16, 17\]"):
            metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))

    def test_shapes_that_would_broadcast_are_refused(self, metric) -> None:
        with pytest.raises(ValueError, match=r"\[2, 3, 16, 16\] and \[1, 3, 16, 16\]"):
            metric(torch.zeros(2, 3, 16, 16), torch.zeros(1, 3, 16, 16))

    def test_a_picture_without_batch_is_refused(self, metric) -> None:
        with pytest.raises(ValueError, match=r"\[3, 16, 16\]"):
            metric(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16))

    @pytest.mark.parametrize("value", [-0.5, 1.5, math.inf])
    def test_values_out_of_range_are_refused(self, metric, value: float) -> None:
        x = torch.zeros(1, 3, 16, 16)
        x[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match=r"in \[0, 1\].*to_unit"):
            metric(x, torch.zeros(1, 3, 16, 16))

    def test_bytes_are_refused(self, metric) -> None:
        picture = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        with pytest.raises(ValueError, match="torch.uint8"):
            metric(picture, picture)


@pytest.mark.parametrize("height", [1, 10, 11, 73, 74, 75, 138, 139, 200])
def test_similarity_in_bands_is_that_of_the_whole(height: int, monkeypatch) -> None:
    seed = torch.Generator().manual_seed(height)
    x, y = (torch.rand(2, 3, height, 20, generator=seed) for _ in range(2))
    banded = metrics.ssim_map(x, y)
    monkeypatch.setattr(metrics, "BAND", 1000)
    assert torch.equal(banded, metrics.ssim_map(x, y))
