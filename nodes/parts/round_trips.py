"""Pictures through a VAE and back, again and again, measured after every trip."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ...vae_core.compare.drift import Trip, measure_trip, trip_seed
from ...vae_core.fit import Window, cut
from ...vae_core.scaling import NONE
from ..encode import assembled, drawn, fit
from ..shared.latent_dict import Latent
from ..shared.loops import progress
from ..shared.passes import Passes
from ..shared.posterior import encode_posterior


class Journey(NamedTuple):
    """Where the pictures came to: each trip's pictures and figures, the last latent, the window."""

    pictures: list[Tensor]
    trips: list[Trip]
    latent: Latent
    window: Window


def travel(
    images: Tensor,
    passes: Passes,
    trips: int,
    seed: int | None,
    between: Callable[[Tensor], Tensor],
    pad: bool,
) -> Journey:
    """Send images through a VAE `trips` times; a seed draws from the posterior, None its mean.

    Figures compare the pixels that come back: the centre crop, or all of them when padded.
    """
    vae = passes.vae
    _, window = fit(images, vae, pad)
    original = images if pad else cut(images, window)
    pictures: list[Tensor] = []
    figures: list[Trip] = []
    for trip in progress(range(1, trips + 1)):
        # the first trip takes the picture as it came: the VAE crops it as it always does
        given = between(pictures[-1]) if pictures else images
        fitted, window_of_trip = fit(given, vae, pad)
        found = encode_posterior(passes, fitted)
        raw = found.mean if seed is None else drawn(found, trip_seed(seed, trip))
        decoded = of_size(passes.decode(raw), fitted)
        current = cut(decoded, window_of_trip) if pad else decoded
        figures.append(measure_trip(original, pictures[-1] if pictures else original, current))
        pictures.append(current)
    latent = assembled(raw, found, NONE, window_of_trip if pad else None, fitted)
    return Journey(pictures, figures, latent, window)


def of_size(decoded: Tensor, fitted: Tensor) -> Tensor:
    """Give decoded pictures as a batch; ValueError if they are other pictures than went in."""
    if decoded.ndim == 5:
        decoded = decoded.reshape(-1, *decoded.shape[-3:])
    if decoded.shape != fitted.shape:
        raise ValueError(
            f"expected a VAE that gives back what it gets, got {list(decoded.shape)} for "
            f"{list(fitted.shape)}: give a video VAE one picture at a time."
        )
    return decoded
