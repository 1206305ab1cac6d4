"""What ComfyUI's VAE knows and does not hand out: the spread of its posterior."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .passes import Passes


class Posterior(NamedTuple):
    """A picture's posterior in raw units, [B, C, h, w]; `std` is None where there is none."""

    mean: Tensor
    std: Tensor | None
    logvar: Tensor | None
    why_none: str


def encode_posterior(passes: Passes, images: Tensor) -> Posterior:
    """Encode images [B, H, W, 3] in [0, 1], and watch the moments.

    The mean of a whole pass is exactly what ComfyUI's VAE Encode gives. The moments are read as
    they pass, so that memory, offload and batches stay ComfyUI's business.
    """
    with _watched(passes.vae) as seen:
        mean = passes.encode(images)
    if not seen:
        return Posterior(mean, None, None, "this kind of VAE has no gaussian posterior")
    # a whole pass that ran out of memory half way has left some before those of the tiles
    moments = torch.cat([part.float() for part in seen])[-len(mean) :]
    if moments.shape[1] != 2 * mean.shape[1] or moments.shape[2:] != mean.shape[2:]:
        return Posterior(mean, None, None, "the picture was encoded in tiles, for want of memory")
    # the clamp is the LDM code's own: beyond it σ is not what the VAE was trained with
    logvar = moments.chunk(2, dim=1)[1].clamp(-30.0, 20.0).to(mean.device)
    return Posterior(mean, (0.5 * logvar).exp(), logvar, "")


@contextmanager
def _watched(vae: Any):
    """Collect the moments [b, 2C, h, w] that go into an AutoencoderKL's posterior."""
    seen: list[Tensor] = []
    model = getattr(vae, "first_stage_model", None)
    step = getattr(model, "regularization", None)
    # FLUX.2's VAE folds and normalises its latents afterwards: their spread is another one
    is_gaussian = type(step).__name__ == "DiagonalGaussianRegularizer"
    if not is_gaussian or getattr(model, "bn", None) is not None:
        yield seen
        return
    hook = step.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().cpu()))
    try:
        yield seen
    finally:
        hook.remove()
