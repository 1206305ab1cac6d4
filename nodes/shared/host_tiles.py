"""ComfyUI's own tiles, with the sizes that its nodes for tiled decoding and encoding begin with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

TILE, OVERLAP = 512, 64  # pixels
FRAMES, COMMON_FRAMES = 64, 8  # of a video


def decode_in_tiles(vae: Any, latent: Tensor) -> Tensor:
    """Decode as VAE Decode (Tiled) does."""
    ratio, along_time = vae.spacial_compression_decode(), vae.temporal_compression_decode()
    frames = common = None
    if along_time is not None:
        frames = max(2, FRAMES // along_time)
        common = max(1, min(frames // 2, COMMON_FRAMES // along_time))
    side = TILE // ratio
    return vae.decode_tiled(
        latent, tile_x=side, tile_y=side, overlap=OVERLAP // ratio, tile_t=frames, overlap_t=common
    )


def encode_in_tiles(vae: Any, images: Tensor) -> Tensor:
    """Encode as VAE Encode (Tiled) does."""
    return vae.encode_tiled(
        images,
        tile_x=TILE,
        tile_y=TILE,
        overlap=OVERLAP,
        tile_t=FRAMES,
        overlap_t=COMMON_FRAMES,
    )
