"""What Latent Noise does between its sockets: draw, find the space, put in, assemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...vae_core.noise import added, mixed, spread, unit_noise
from ...vae_core.scaling import NONE, Scaling
from ..shared.latent_dict import Latent, bounded, read_mark, replaced, without_spread
from ..shared.loops import progress
from .noise_inputs import ADD_STD, ADD_UNITS, KINDS, NO_FAMILY, scaling_for


def drawn(
    kind: str, latent: Tensor, seed: int, batch_index: Sequence[int] | None, gain: float
) -> Tensor:
    """Draw the noise of each item where its latent is: one for `batch_index` as core's samplers."""
    last = len(latent) if batch_index is None else 1 + max((*batch_index, 0))
    bounded((last, *latent.shape[1:]), "noise up to the last batch_index")
    noise = unit_noise(KINDS.get(kind, kind), latent.shape, seed, batch_index, gain, progress)
    return noise.to(latent.device)


def space_of(latent: Latent, mode: str, label: str, channels: int, model: Any | None) -> Scaling:
    """Say what turns the latent into a model latent: nothing when adding, or when it is one."""
    if mode in (ADD_STD, ADD_UNITS) or label == NO_FAMILY or read_mark(latent) is not None:
        return NONE
    return scaling_for(label, channels, model)


def noised(
    latent: Tensor, noise: Tensor, factor: Tensor, mode: str, space: Scaling, source: list[int]
) -> Tensor:
    """Put noise into latents [B, C, ...]: -> [B * S, C, ...], as the mode says."""
    if mode == ADD_STD:
        std = spread(latent)
        if (std == 0).any() and factor.any():
            raise ValueError(
                "expected latents that vary, got a constant one, whose standard deviation is 0: "
                f"choose {ADD_UNITS!r}."
            )
        return added(latent[source], (noise * std)[source], factor)
    if mode == ADD_UNITS:
        return added(latent[source], noise[source], factor)
    return mixed(latent[source], noise[source], factor, space)


def assembled(latent: Latent, samples: Tensor, source: list[int]) -> Latent:
    """Make the LATENT; the posterior's spread no longer belongs to it."""
    kept = without_spread(latent)
    same = len(samples) == len(latent["samples"])
    return replaced(kept, samples.to(latent["samples"].dtype), None if same else source)


def bare(latent: Latent) -> Latent:
    """What goes along with noise alone: neither mark nor masks."""
    return {key: latent[key] for key in ("samples", "batch_index") if key in latent}
