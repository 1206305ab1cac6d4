"""The evidence lower bound in nats per picture, its two terms apart.

    log p(x) >= ELBO = E_q[log p(x | z)] - KL(q(z | x) || N(0, I))

`rec` is -log p(x | z), summed over the pixels, at one draw z = μ + σ ε from q; `kl` is in closed
form. Both are nats of one picture, so they add up as they are: a mean over pixels in place of the
sum would weigh KL 784 times as much.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from vae_core.latents import kl_per_item, sample

REC_LOSSES = ("bce", "mse")
VARIANCE = 0.5  # of the gaussian whose nats are the summed squared error, and a constant


class Terms(NamedTuple):
    """Both terms of the negative ELBO in nats per picture, [B] each."""

    rec: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The bound itself, [B]: at most log p(x)."""
        return -(self.rec + self.kl)


def elbo_terms(
    mean: Tensor, logvar: Tensor, noise: Tensor | None, nats: Callable[[Tensor], Tensor]
) -> Terms:
    """Score posteriors [B, latent] with noise of their shape from N(0, I).

    `nats` gives -log p(x | z) of latents [B, latent] as [B]. Without noise z is the mode, and what
    comes out is no bound any more.
    """
    latents = mean if noise is None else sample(mean, logvar, noise)
    return Terms(nats(latents), kl_per_item(mean, logvar))


def pixel_nats(rec_loss: str, logits: Tensor, pictures: Tensor) -> Tensor:
    """Give -log p(x | z) of pictures [B, 784] in [0, 1] by the decoder's logits -> [B], in nats.

    "bce": each pixel is a coin that shows ink with the probability sigmoid(logit). "mse": each is a
    gaussian around it, of variance ½, so that the nats are the summed squared error and a constant.
    """
    if rec_loss == "mse":
        return gaussian_nats(logits.sigmoid(), pictures, VARIANCE)
    if rec_loss != "bce":
        raise ValueError(f"Expected a loss among {', '.join(REC_LOSSES)}, got {rec_loss!r}.")
    return F.binary_cross_entropy_with_logits(logits, pictures, reduction="none").sum(1)


def least_nats(rec_loss: str, pictures: Tensor) -> Tensor:
    """Give what pixel_nats leaves of a perfect copy, [B]: grey pixels are never sure."""
    return pixel_nats(rec_loss, pictures.logit(eps=1e-6), pictures)


def gaussian_nats(mean: Tensor, x: Tensor, variance: float) -> Tensor:
    """Give -log N(x; mean, variance I), [B, D] twice -> [B], in nats: ½ Σ(d²/σ² + log 2πσ²)."""
    constant = math.log(2 * math.pi * variance)
    return 0.5 * ((x - mean).square() / variance + constant).sum(1)
