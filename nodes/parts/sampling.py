"""What Latent Sample draws: from the prior, for a size in pixels, or around a latent."""

from __future__ import annotations

from typing import Any, NamedTuple

import comfy.model_management
from torch import Tensor

from ...vae_core.noise import spread as own_spread
from ...vae_core.noise import unit_noise
from ...vae_core.scaling import NONE, Scaling, apply_spread, undo_scaling
from ..shared.latent_dict import (
    STD,
    Latent,
    bounded,
    checked_number,
    marked,
    read_mark,
    read_samples,
    replaced,
    without_spread,
)
from ..shared.loops import progress

PRIOR, AROUND = "prior N(0, I)", "around the latent"
POSTERIOR = "posterior of the latent"
RAW = "raw latent"
LARGEST_SIDE, LARGEST_BATCH, MOST_FRAMES, MOST_SPREAD = 16384, 4096, 4096, 1000


class Size(NamedTuple):
    """What a prior sample is made for: its shape, and what that means in pixels."""

    shape: tuple[int, ...]
    ratio: int


def size_of(
    vae: Any | None, channels: int, ratio: int, width: int, height: int, frames: int
) -> Size:
    """Find the shape [C, (T,) h, w] of a latent for pixels: from the VAE where there is one."""
    if vae is not None:
        channels, ratio = vae.latent_channels, vae.spacial_compression_encode()
        if vae.latent_dim not in (2, 3) or getattr(vae, "extra_1d_channel", None) is not None:
            raise ValueError("expected a VAE of pictures or video, got one of audio or shapes.")
    low, high = 1, LARGEST_SIDE
    cells = [
        int(checked_number(side, name, low, high)) // int(checked_number(ratio, "ratio", 1, high))
        for name, side in (("height", height), ("width", width))
    ]
    if min(cells) < 1:
        raise ValueError(
            f"expected at least {ratio} x {ratio} pixels at ratio {ratio}, got {width} x {height}."
        )
    outer = (int(checked_number(channels, "channels", 1, 2**16)),)
    if vae is not None and vae.latent_dim == 3:
        outer += (latent_frames(vae, int(checked_number(frames, "frames", 1, MOST_FRAMES))),)
    return Size((*outer, *cells), int(ratio))


def latent_frames(vae: Any, frames: int) -> int:
    """Count the latent frames of a video, by the VAE's own formula."""
    along_time = vae.downscale_ratio[0] if isinstance(vae.downscale_ratio, tuple) else 1
    count = along_time(frames) if callable(along_time) else frames // along_time
    return max(1, int(count))


def from_prior(noise: Tensor, scaling: Scaling, keep_scaled: bool) -> Latent:
    """Make the LATENT of noise from N(0, I) in the space of a scaling."""
    here = noise.to(comfy.model_management.intermediate_device())
    if keep_scaled:
        return marked({"samples": here}, scaling)
    return {"samples": undo_scaling(here, scaling)}


def spread_of(mode: str, latent: Latent | None, std: Latent | None) -> tuple[Tensor, str]:
    """Give σ for each value of a latent, in its units, and its name."""
    if latent is None:
        raise ValueError(f"{mode!r} expects a LATENT to be connected, got none.")
    samples = read_samples(latent)
    if mode == AROUND:
        sigma = own_spread(samples)
        if (sigma == 0).any():
            raise ValueError("expected latents that vary, got a constant one: its std is 0.")
        return sigma, "the latent's own standard deviation"
    if mode != POSTERIOR:
        raise ValueError(f"expected a mode of the list, got {str(mode)[:80]!r}.")
    if std is not None:
        sigma = read_samples(std, "std")
    elif latent.get(STD) is not None:
        sigma = apply_spread(latent[STD], read_mark(latent) or NONE)
    else:
        raise ValueError(
            "the posterior expects a std, got none: connect that of VAE Encode (Scaled)."
        )
    if sigma.shape != samples.shape:
        raise ValueError(
            f"expected samples and std of one shape, got {list(samples.shape)} and "
            f"{list(sigma.shape)}."
        )
    if not (sigma >= 0).all():
        raise ValueError("expected std from 0 up, got others or NaN: this VAE has no posterior.")
    return sigma.float().to(samples.device), "σ of the posterior"


def around(latent: Latent, sigma: Tensor, count: int, seed: int) -> Latent:
    """Draw `count` latents around each item: item 0's first; [B, C, ...] -> [B * count, C, ...].

    Draw k of the item with batch_index i has noise i * count + k, whichever items stand beside it.
    """
    samples, index = latent["samples"], latent.get("batch_index")
    shape = (len(samples) * count, *samples.shape[1:])
    draws = None if index is None else [i * count + k for i in index for k in range(count)]
    bounded((max(len(samples) * count, 1 + max(draws or [0])), *shape[1:]), "latents")
    noise = unit_noise("gaussian", shape, seed, draws, each=progress).to(samples.device)
    source = [item for item in range(len(samples)) for _ in range(count)]
    drawn = samples.float()[source] + sigma[source] * noise
    kept = without_spread(latent)
    return replaced(kept, drawn.to(samples.dtype), None if count == 1 else source)
