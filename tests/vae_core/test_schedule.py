"""Stable Diffusion's schedule against diffusers' scheduler, and against the product in numpy."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from vae_core import schedule
from vae_core.noise import mixed
from vae_core.scaling import NONE


@pytest.fixture(scope="module")
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def draws(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(count))


def test_signal_shares_agree_with_diffusers(scheduler) -> None:
    ours = schedule.alphas_cumprod()
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, scheduler.alphas_cumprod.double(), rtol=2e-6, atol=0)


def test_signal_shares_are_the_product_by_hand() -> None:
    roots = np.sqrt(0.00085) + np.arange(1000) * (np.sqrt(0.012) - np.sqrt(0.00085)) / 999
    expected = np.cumprod(1 - roots**2)
    np.testing.assert_allclose(schedule.alphas_cumprod(), expected, rtol=1e-12)


def test_noising_agrees_with_diffusers(scheduler) -> None:
    timesteps = [0, 1, 17, 250, 500, 750, 998, 999]
    latent, noise = draws(8), draws(9)[:8]
    theirs = scheduler.add_noise(latent, noise, torch.tensor(timesteps))
    amplitude = schedule.noise_amplitudes(timesteps).view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed(latent, noise, amplitude, NONE), theirs, rtol=0, atol=3e-6)


def test_noise_rises_from_none_to_nearly_all() -> None:
    amplitude = schedule.noise_amplitudes([-1, *range(1000)])
    assert amplitude[0] == 0
    assert amplitude.diff().min() > 0
    assert amplitude[-1].item() == pytest.approx(np.sqrt(1 - 0.00466), abs=1e-5)


@pytest.mark.parametrize("timestep", [-2, 1000, 2.5])
def test_a_step_outside_the_schedule_is_refused(timestep) -> None:
    with pytest.raises(ValueError, match=rf"-1 \(clean\) to 999, got {timestep}"):
        schedule.noise_amplitudes([0, timestep])
