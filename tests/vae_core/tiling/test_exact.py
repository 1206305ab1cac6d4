"""Exact tiles against diffusers' own untiled decode and encode, over layouts, sizes and strips."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from vae_core.tiling import decode, encode, plan_decode, plan_encode, read_network

# Both sides sum the same products in another order: over channels and taps in a convolution, over
# rows in the statistics. A few float32 roundings of values around 1 to 10 are left.
CLOSE = 1e-5
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd": {"block_out_channels": (32, 64, 64), "layers_per_block": 2},
    "flux": {
        "block_out_channels": (32, 64),
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "uneven": {"block_out_channels": (64, 32, 96), "layers_per_block": 1},
    "no attention": {"block_out_channels": (32, 32), "mid_block_add_attention": False},
    "attention": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
    "one level": {"block_out_channels": (32,), "in_channels": 1, "out_channels": 1},
}


def built(kind: str) -> AutoencoderKL:
    levels = len(LAYOUTS[kind]["block_out_channels"])
    types = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(**{"latent_channels": 4, **types, **LAYOUTS[kind]}).eval()
        for part in vae.modules():  # norms whose channels differ
            if isinstance(part, torch.nn.GroupNorm):
                torch.nn.init.normal_(part.weight, 1, 0.3)
                torch.nn.init.normal_(part.bias, 0, 0.3)
    return vae.requires_grad_(False)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rows", [None, 1, 5])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_decoding_equals_the_untiled_one(kind, rows):
    vae = built(kind)
    network = read_network(vae)
    latent = drawn(2, network.latent_channels, 9, 7)
    plan = plan_decode(network, latent.shape, torch.float32, None, rows)
    torch.testing.assert_close(
        decode(network, latent, plan), vae.decode(latent).sample, atol=CLOSE, rtol=0
    )


@pytest.mark.parametrize("rows", [None, 1, 5])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_moments_equal_the_untiled_ones(kind, rows):
    vae = built(kind)
    network = read_network(vae)
    pixels = drawn(2, network.image_channels, 26, 21)
    plan = plan_encode(network, pixels.shape, torch.float32, None, rows)
    expected = vae.encode(pixels).latent_dist.parameters
    torch.testing.assert_close(encode(network, pixels, plan), expected, atol=CLOSE, rtol=0)
