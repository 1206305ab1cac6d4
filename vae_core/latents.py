"""Latents: the scale a diffusion model sees, the posterior that an encoder describes.

B batch, C latent channels, h, w latent cells. A raw latent is what VAE.encode returns; a model
latent is what the diffusion model sees. The posterior of an image is a diagonal gaussian with mean
μ and standard deviation σ; `logvar` is log σ² everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .families import Family


def to_model(raw: Tensor, family: Family) -> Tensor:
    """Scale raw latents for a diffusion model: [B, C, ...] -> the same shape and dtype.

    (raw - shift) * scale; for a family with a mean and std per channel,
    (raw - mean) / std * scale. Computed in float32. Raises ValueError for a family without scale.
    """
    offset, factor = _affine(raw, family)
    return ((raw.float() - offset) * factor).to(raw.dtype)


def to_raw(model: Tensor, family: Family) -> Tensor:
    """Undo to_model: [B, C, ...] as a diffusion model sees it -> the raw latent for VAE.decode."""
    offset, factor = _affine(model, family)
    return (model.float() / factor + offset).to(model.dtype)


def kl_per_item(mean: Tensor, logvar: Tensor) -> Tensor:
    """Measure each posterior's KL divergence from N(0, I): [B, C, h, w] twice -> [B], in nats.

    ½ Σ(μ² + σ² - log σ² - 1), summed over C, h, w as in the LDM code
    (Kingma and Welling 2014, appendix B). Its gradient is zero at μ = 0, σ = 1 only.
    """
    _check_same(mean, logvar, "mean", "logvar")
    mean, logvar = mean.float(), logvar.float()
    # expm1 keeps σ² - 1 exact near σ = 1, where the difference of two near equals would be noise
    return 0.5 * (mean.square() + logvar.expm1() - logvar).flatten(1).sum(1)


def sample(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Draw from posteriors: μ + σ * noise, all [B, C, h, w]; noise is drawn from N(0, I).

    The caller draws the noise, with a generator of its own, so that a draw can be repeated.
    """
    _check_same(mean, logvar, "mean", "logvar")
    _check_same(mean, noise, "mean", "noise")
    return mean + (0.5 * logvar).exp() * noise


def _affine(latent: Tensor, family: Family) -> tuple[Tensor | float, Tensor | float]:
    """Give the offset and factor of a family: model = (raw - offset) * factor."""
    if family.scale is None:
        raise ValueError(
            f"Expected a family whose scale is known, got {family.name!r}: choose the family "
            "of the diffusion model that the latent is for."
        )
    if family.mean is None:
        return family.shift or 0.0, family.scale
    if latent.shape[1] != len(family.mean):
        raise ValueError(
            f"Expected latents with {len(family.mean)} channels for {family.name!r}, "
            f"got shape {list(latent.shape)}: choose the family that the latent belongs to."
        )
    return _per_channel(family.mean, latent), family.scale / _per_channel(family.std, latent)


def _per_channel(values: tuple[float, ...], latent: Tensor) -> Tensor:
    """Lay values along the channels of a latent of any rank: [1, C, 1, ...]."""
    column = torch.tensor(values, dtype=torch.float32, device=latent.device)
    return column.view(1, -1, *[1] * (latent.ndim - 2))


def _check_same(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    if x.shape != y.shape:
        raise ValueError(
            f"Expected {x_name} and {y_name} of one shape, got {list(x.shape)} and {list(y.shape)}."
        )
