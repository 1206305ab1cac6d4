"""Real AutoencoderKLs of several layouts, small, with norms whose channels differ."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

LAYOUTS: dict[str, dict[str, Any]] = {
    "sd": {"block_out_channels": (32, 64, 64), "layers_per_block": 2},
    "flux": {
        "block_out_channels": (32, 64),
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "uneven": {"block_out_channels": (64, 32, 96)},
    "no attention": {"block_out_channels": (32, 32), "mid_block_add_attention": False},
    "attention": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
    "one level": {"block_out_channels": (32,), "in_channels": 1, "out_channels": 1},
}


@cache
def _built(kind: str) -> AutoencoderKL:
    levels = len(LAYOUTS[kind]["block_out_channels"])
    types = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(**{"latent_channels": 4, **types, **LAYOUTS[kind]}).eval()
        for part in vae.modules():
            if isinstance(part, torch.nn.GroupNorm):
                torch.nn.init.normal_(part.weight, 1, 0.3)
                torch.nn.init.normal_(part.bias, 0, 0.3)
    return vae.requires_grad_(False)


@pytest.fixture(scope="session")
def built() -> Callable[[str], AutoencoderKL]:
    """A function that gives the VAE of a layout; it is shared, so it is not to be changed."""
    return _built


@pytest.fixture(scope="session")
def drawn() -> Callable[..., torch.Tensor]:
    """A function that draws a tensor of a shape from a fixed seed."""
    return lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(1))
