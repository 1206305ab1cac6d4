"""Photos through a VAE and back: large ones in exact tiles, the same picture in less memory."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.vae.autoencoder import decode, encode
from vae_core import tiling

# Pixels on the long side. SD's untiled decoder takes 3 KiB a pixel: 12 GiB at 2,048 x 2,048, more
# than many cards have; a photo of half the sides asks for a quarter of it, and is left as it is.
LARGE = 2000


class Tiles(NamedTuple):
    """How a photo goes through a VAE and back in exact tiles."""

    network: tiling.Network
    encoding: tiling.Plan
    decoding: tiling.Plan

    @property
    def peak_bytes(self) -> int:
        """The most bytes that either way holds beside weights and the photo itself."""
        moments = math.prod(self.encoding.out_shape) * self.encoding.dtype.itemsize
        return max(self.encoding.peak_bytes, moments + self.decoding.peak_bytes)


def plan_tiles(vae: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> Tiles | None:
    """Plan the way of pixels [B, C, H, W]; None where they go whole.

    So do small ones, and all through a VAE that tiles do not know: TAESD, or one with adapters.
    """
    if max(shape[-2:]) < LARGE:
        return None
    try:
        network = tiling.read_network(vae)
    except tiling.UnknownNetwork:
        return None
    encoding = tiling.plan_encode(network, tuple(shape), dtype, None)
    latent = (shape[0], network.latent_channels, *encoding.out_shape[-2:])
    return Tiles(network, encoding, tiling.plan_decode(network, latent, dtype, None))


def round_trip(vae: nn.Module, pixels: Tensor) -> Tensor:
    """Decode the posterior's mode of pixels [B, C, H, W] in [-1, 1]: as many, not clamped."""
    tiles = plan_tiles(vae, pixels.shape, pixels.dtype)
    if tiles is None:
        return decode(vae, encode(vae, pixels).mean)
    moments = tiling.encode(tiles.network, pixels, tiles.encoding)
    return tiling.decode(tiles.network, moments.chunk(2, dim=1)[0], tiles.decoding)
