"""Training a model of the textbook, and measuring it on digits that it has not seen."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.textbook_vae.elbo import Terms, elbo_terms, pixel_nats
from trainer.textbook_vae.network import MlpVae
from trainer.textbook_vae.settings import Settings, Variant


class Figures(NamedTuple):
    """Means over pictures, in nats per picture."""

    elbo: float  # by draws from the posterior
    rec: float  # its reconstruction term
    kl: float  # its divergence
    rec_of_mode: float  # the reconstruction term where the decoder gets the posterior's mode


def fit(
    settings: Settings, pictures: Tensor, tick: Callable[[int, Terms], None] = lambda *_: None
) -> MlpVae:
    """Train a model on pictures [N, 784]; `tick` hears each epoch's number and last terms.

    A function of settings and pictures alone: every draw comes from the seed.
    """
    model = MlpVae(settings.latent, settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(settings.seed)
    for epoch in range(1, settings.all_epochs + 1):
        order = torch.randperm(len(pictures), generator=generator)
        for batch in pictures[order].split(settings.batch_size):
            terms = score(model, batch, settings.plan, settings.rec_loss, generator)
            optimizer.zero_grad()
            weighted(terms, settings.plan).backward()
            optimizer.step()
        tick(epoch, terms)
    return model.eval().requires_grad_(False)


def weighted(terms: Terms, plan: Variant) -> Tensor:
    """Add up what a variant minimises: the mean over pictures of both terms, weighted."""
    return (plan.rec_weight * terms.rec + plan.kl_weight * terms.kl).mean()


def score(
    model: MlpVae, clean: Tensor, plan: Variant, rec_loss: str, generator: torch.Generator
) -> Terms:
    """Score pictures [B, 784] as a variant trains on them: what is seen may be disturbed."""
    seen = disturbed(clean, plan.noise_factor, generator) if plan.noise_factor else clean
    mean, logvar = model.encode(seen)
    noise = torch.randn(mean.shape, generator=generator) if plan.samples else None
    return elbo_terms(
        mean, logvar, noise, lambda latents: pixel_nats(rec_loss, model.decode(latents), clean)
    )


def disturbed(pictures: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Add noise of a standard deviation to pictures in [0, 1], and clip them to that range."""
    noise = torch.randn(pictures.shape, generator=generator)
    return (pictures + factor * noise).clamp(0, 1)


def measure(model: MlpVae, pictures: Tensor, rec_loss: str) -> Figures:
    """Measure held-out pictures [N, 784], undisturbed, always by the same draws."""
    generator = torch.Generator().manual_seed(0)
    drawn, mode = (
        score(model, pictures, Variant(samples, 1.0, 1.0), rec_loss, generator)
        for samples in (True, False)
    )
    means = (drawn.elbo, drawn.rec, drawn.kl, mode.rec)
    return Figures(*(float(values.mean()) for values in means))
