"""The posterior's KL and its samples."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vae_core import latents


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """torch's own divergence, which takes a standard deviation."""
    posterior = Normal(mean.double(), (logvar.double() / 2).exp())
    standard = Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.mean))
    return kl_divergence(posterior, standard).flatten(1).sum(1).float()


def test_kl_agrees_with_torch_distributions() -> None:
    mean, logvar = draw(3, 4, 5, 6), 3 * draw(3, 4, 5, 6, seed=1)
    torch.testing.assert_close(latents.kl_per_item(mean, logvar), oracle(mean, logvar))


def test_kl_near_the_prior_keeps_its_digits() -> None:
    mean, logvar = torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), 1e-3)
    expected = 0.5 * (math.exp(1e-3) - 1e-3 - 1) * 4 * 8 * 8
    assert latents.kl_per_item(mean, logvar).item() == pytest.approx(expected, rel=1e-3)


def kl_gradients(mean: float, sigma: float) -> tuple[float, float]:
    mu = torch.full((1, 1, 1, 1), mean, requires_grad=True)
    logvar = torch.full((1, 1, 1, 1), 2 * math.log(sigma), requires_grad=True)
    latents.kl_per_item(mu, logvar).sum().backward()
    return mu.grad.item(), logvar.grad.item()


def test_kl_is_at_rest_at_the_prior_and_nowhere_else() -> None:
    assert kl_gradients(0.0, 1.0) == (0.0, 0.0)
    # σ² = ½: taking σ for a variance, or log σ for log σ², would put the rest here
    _, by_logvar = kl_gradients(0.0, 0.707)
    assert by_logvar == pytest.approx(0.5 * (0.707**2 - 1), rel=1e-4)
    by_mean, _ = kl_gradients(0.3, 1.0)
    assert by_mean == pytest.approx(0.3)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere() -> None:
    zero = torch.zeros(2, 4, 2, 2)
    assert latents.kl_per_item(zero, zero).tolist() == [0.0, 0.0]
    assert (latents.kl_per_item(draw(8, 4, 2, 2), draw(8, 4, 2, 2, seed=2)) > 0).all()


def test_kl_of_half_precision_is_float32() -> None:
    kl = latents.kl_per_item(torch.ones(1, 4, 64, 64).half(), torch.zeros(1, 4, 64, 64).half())
    assert kl.dtype == torch.float32
    assert kl.item() == 0.5 * 4 * 64 * 64


def test_kl_of_a_batch_is_that_of_its_items() -> None:
    mean, logvar = draw(3, 4, 2, 2), draw(3, 4, 2, 2, seed=1)
    items = [latents.kl_per_item(mean[i : i + 1], logvar[i : i + 1]) for i in range(3)]
    assert torch.equal(latents.kl_per_item(mean, logvar), torch.cat(items))


def test_sample_is_mean_plus_sigma_noise() -> None:
    mean, noise = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    logvar = torch.full_like(mean, math.log(0.25))  # σ = ½
    torch.testing.assert_close(latents.sample(mean, logvar, noise), mean + 0.5 * noise)


def test_samples_have_the_posteriors_moments() -> None:
    logvar = torch.full((1, 1, 200, 200), 2 * math.log(0.3))
    drawn = latents.sample(torch.full_like(logvar, 2.0), logvar, draw(1, 1, 200, 200))
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("wrong", ["logvar", "noise"])
def test_shapes_that_differ_are_both_named(wrong: str) -> None:
    tensors = {"mean": draw(1, 4, 2, 2), "logvar": draw(1, 4, 2, 2), "noise": draw(1, 4, 2, 2)}
    tensors[wrong] = draw(1, 4, 1, 1)
    with pytest.raises(ValueError, match=r"\[1, 4, 2, 2\] and \[1, 4, 1, 1\]"):
        latents.sample(**tensors)
