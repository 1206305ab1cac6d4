"""Statistics of latents against numpy, and KL against the formula by hand in float64."""

import math

import numpy as np
import pytest
import torch

from vae_core.inspect import inspection
from vae_core.inspect.inspection import Summary


def latent(*shape: int, scale: float = 3.0, offset: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    channels = torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2))
    return torch.randn(shape, generator=generator) * scale + offset * channels


def expected(values: np.ndarray) -> tuple[float, ...]:
    return values.mean(), values.std(), values.min(), values.max()


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (1, 1, 1, 1), (3, 16, 2, 4, 5)])
def test_agreement_with_numpy(shape) -> None:
    z = latent(*shape)
    parts = inspection.moments(z)
    array = z.double().numpy()
    assert inspection.summary(z)[2:] == pytest.approx(expected(array), rel=1e-12)
    for item, got in zip(array, inspection.summaries(inspection.pooled(parts, [1])), strict=True):
        assert got[2:] == pytest.approx(expected(item), rel=1e-12)
    channels = inspection.summaries(inspection.pooled(parts, [0]))
    for channel, got in zip(np.moveaxis(array, 1, 0), channels, strict=True):
        assert got[2:] == pytest.approx(expected(channel), rel=1e-12)


def test_a_large_mean_does_not_drown_the_std() -> None:
    z = latent(2, 4, 16, 16, scale=1e-3, offset=0) + 1000
    assert inspection.summary(z).std == pytest.approx(z.double().numpy().std(), rel=1e-9)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    z = latent(2, 4, 5, 5)
    z[0, 0, 0, 0], z[0, 0, 1, 1], z[1, 3, 2, 2] = math.nan, math.inf, -math.inf
    got = inspection.summary(z)
    kept = z[z.isfinite()].double().numpy()
    assert (got.values, got.non_finite) == (200, 3)
    assert got[2:] == pytest.approx(expected(kept), rel=1e-12)
    counts = inspection.moments(z).non_finite
    assert counts.tolist() == [[2, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("offset", [-100.0, 100.0])
def test_what_is_not_finite_is_no_extreme(offset) -> None:
    z = latent(1, 1, 4, 4, scale=1) + offset
    z[0, 0, 0, 0] = math.nan
    kept = z[z.isfinite()]
    got = inspection.summary(z)
    assert (got.minimum, got.maximum) == (kept.min().item(), kept.max().item())


def test_nothing_finite_is_nan_and_never_zero() -> None:
    z = torch.full((1, 2, 3, 3), math.nan)
    got = inspection.summary(z)
    assert (got.values, got.non_finite) == (18, 18)
    assert all(math.isnan(figure) for figure in got[2:])
    assert all(math.isnan(figure) for figure in inspection.percentiles(z, [1, 99]))
    assert inspection.histogram(z, -1, 1, 8).eq(0).all()


def test_a_channel_without_finite_values_does_not_spoil_the_batch() -> None:
    z = latent(1, 3, 4, 4)
    z[:, 1] = math.nan
    kept = z[:, [0, 2]].double().numpy()
    assert inspection.summary(z)[2:] == pytest.approx(expected(kept), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype(dtype) -> None:
    z = latent(1, 4, 6, 6).to(dtype)
    assert inspection.summary(z)[2:] == pytest.approx(expected(z.double().numpy()), rel=1e-12)


def test_half_precision_that_would_overflow() -> None:
    z = torch.full((1, 1, 64, 64), 60000.0, dtype=torch.float16)
    assert inspection.summary(z) == Summary(4096, 0, 60000.0, 0.0, 60000.0, 60000.0)


def test_percentiles_agree_with_numpy() -> None:
    z = latent(2, 4, 9, 9)
    z[0, 0, 0, 0] = math.nan
    kept = z[z.isfinite()].double().numpy()
    percents = [0, 0.5, 1, 50, 99, 100]
    np.testing.assert_allclose(
        inspection.percentiles(z, percents), np.percentile(kept, percents), rtol=1e-12
    )


def test_percentiles_of_more_values_than_torch_can_sort() -> None:
    """torch.quantile refuses more than 2**24 values; a video latent has them."""
    z = torch.arange(2**24 + 100, dtype=torch.float32).view(1, 1, 4, -1)
    got = inspection.percentiles(z, [1, 50, 99])
    np.testing.assert_allclose(got, [0.01 * 2**24, 0.5 * 2**24, 0.99 * 2**24], rtol=1e-4)
    assert got == inspection.percentiles(z, [1, 50, 99])


def test_a_sample_is_not_in_step_with_columns() -> None:
    """Every 8th value of this picture would be the same column."""
    z = torch.arange(8.0).repeat(1, 1, 512, 1)
    kept = inspection.finite_values(z, most=512)
    counts = kept.long().bincount(minlength=8)
    assert (counts - 64).abs().max() <= 3


def test_histogram_agrees_with_numpy() -> None:
    z = latent(3, 2, 8, 8)
    z[0, 1, 0, 0] = math.nan
    low, high = -4.0, 5.0
    got = inspection.histogram(z, low, high, 30).numpy()
    for channel, densities in zip(z.movedim(1, 0).double().numpy(), got, strict=True):
        kept = channel[np.isfinite(channel)]
        counts, edges = np.histogram(kept, 30, (low, high))
        np.testing.assert_allclose(densities, counts / len(kept) / np.diff(edges), rtol=1e-9)
    assert (got.sum(1) * (high - low) / 30 < 1).all()  # what lies outside is missed, not moved in


def test_histogram_of_a_normal_latent_follows_its_density() -> None:
    z = latent(1, 1, 512, 512, scale=1)
    got = inspection.histogram(z, -3, 3, 24)[0].numpy()
    centres = np.linspace(-3, 3, 25)[:-1] + 0.125
    np.testing.assert_allclose(got, np.exp(-(centres**2) / 2) / math.sqrt(2 * math.pi), atol=0.012)


def test_kl_by_hand() -> None:
    mean, std = latent(2, 4, 3, 3), latent(2, 4, 3, 3).abs() + 0.1
    m, s = mean.double().numpy(), std.double().numpy()
    by_hand = 0.5 * (m**2 + s**2 - np.log(s**2) - 1).sum((1, 2, 3))
    np.testing.assert_allclose(inspection.kl(mean, std), by_hand, rtol=1e-5)
    assert inspection.kl(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)).item() == 0


def test_kl_that_cannot_be_known_is_nan() -> None:
    mean = torch.zeros(2, 4, 2, 2)
    assert inspection.kl(mean, None).isnan().all()
    std = torch.ones(2, 4, 2, 2)
    std[1, 0, 0, 0] = 0
    assert inspection.kl(mean, std).isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("raw_std", "scale", "marked", "word"),
    [
        (5.2, 0.18215, False, ""),
        (0.9, 0.18215, False, "already scaled: std 0.9 where raw latents of this family"),
        (0.9 / 0.18215, 0.18215, True, ""),
        (6.0 / 0.18215, 0.18215, True, "looks raw, although it is marked"),
        (0.6, 1.5305, False, ""),  # SD3's two are too near each other to tell
        (0.0, 0.18215, False, ""),
        (math.nan, 0.18215, False, ""),
    ],
)
def test_what_looks_scaled_already(raw_std, scale, marked, word) -> None:
    got = inspection.looks_off(raw_std * scale, scale, marked)
    assert word in got and bool(word) == bool(got)


def test_inputs_are_left_alone() -> None:
    z = latent(2, 4, 5, 5).requires_grad_()
    z.data[0, 0, 0, 0] = math.nan
    before = z.detach().clone()
    for got in (*inspection.moments(z), inspection.histogram(z, -1, 1, 4), inspection.kl(z, None)):
        assert not got.requires_grad
    torch.testing.assert_close(z.detach(), before, equal_nan=True, rtol=0, atol=0)
