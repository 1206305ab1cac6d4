"""What each latent channel of an image VAE carries: decibels lost where it is set to zero."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.judge.evaluation import as_pixels, multiple_for, view
from trainer.options.config import resolve_vae
from trainer.photos.sources import open_photos
from trainer.vae.autoencoder import decode, encode
from trainer.vae.base import load_base
from vae_core.images import to_unit
from vae_core.metrics import psnr

PHOTOS = ("demo:train", "demo:val")  # what packages carry
SIDE = 256  # pixels on the short side
VAE = "bundled:kl-f8-small"


def channels() -> list[str]:
    """Measure the bundled VAE on the demo's photos: the mean PSNR, whole and without a channel."""
    vae = load_base(resolve_vae(VAE)).vae
    losses = torch.stack([_losses(vae, pixels) for pixels in photos_as_pixels(vae, PHOTOS, SIDE)])
    whole, *without = losses.mean(0).tolist()
    lines = [f"{VAE.removeprefix('bundled:')}, {len(losses)} photos: {whole:.2f} dB"]
    for channel, found in enumerate(without):
        lines.append(f"without channel {channel}: {found - whole:+.2f} dB")
    return lines


def photos_as_pixels(vae: nn.Module, specs: Sequence[str], side: int) -> list[Tensor]:
    """Open sets of photos as a VAE takes them, [1, C, H, W] each, reduced to a short side."""
    sets = [open_photos(spec, side) for spec in specs]
    images = [photos.image(index) for photos in sets for index in range(len(photos))]
    return [as_pixels(vae, view(image, None, side, multiple_for(vae))[0]) for image in images]


@torch.inference_mode()
def _losses(vae: nn.Module, pixels: Tensor) -> Tensor:
    """Measure a photo [1, C, H, W]: PSNR whole, then without each channel, in dB."""
    latent = encode(vae, pixels).mean
    latents = [latent, *(without(latent, channel) for channel in range(latent.shape[1]))]
    y = to_unit(pixels)
    return torch.cat([psnr(to_unit(decode(vae, some)), y) for some in latents])


def without(latent: Tensor, channel: int) -> Tensor:
    """Set one channel of a latent [B, C, h, w] to zero; the input is not written to."""
    kept = torch.ones(latent.shape[1])
    kept[channel] = 0
    return latent * kept[:, None, None]
