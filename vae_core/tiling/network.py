"""An AutoencoderKL as a list of layers, read by structure; the weights stay the module's own.

Two modules have this shape, diffusers' AutoencoderKL and ComfyUI's own. A submodule that is not
known by name is a refusal, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from . import diffusers_layout, ldm_layout
from .layers import (
    Convolution,
    Downsampling,
    Layer,
    Program,
    UnknownNetwork,
    Upsampling,
    check_parts,
    conv_of,
)

_BESIDE = {"quant_conv", "post_quant_conv", "regularization"}


@dataclass(frozen=True)
class Network:
    """Both directions of a VAE: pixels [B, C, H, W] to moments, latent [B, c, h, w] to pixels."""

    encoder: Program
    decoder: Program
    ratio: int
    latent_channels: int
    image_channels: int


def read_network(vae: nn.Module) -> Network:
    """Read diffusers' or ComfyUI's AutoencoderKL; raises UnknownNetwork for any other module."""
    check_parts(vae, {"encoder", "decoder"}, _BESIDE, name="an AutoencoderKL")
    layout = diffusers_layout if hasattr(vae.encoder, "down_blocks") else ldm_layout
    encoder = (*layout.encoder_layers(vae.encoder), *_pointwise(vae, "quant_conv"))
    decoder = (*_pointwise(vae, "post_quant_conv"), *layout.decoder_layers(vae.decoder))
    latent, image = decoder[0].conv.in_channels, encoder[0].conv.in_channels
    return Network(encoder, decoder, _ratio(encoder, decoder), latent, image)


def _pointwise(vae: nn.Module, name: str) -> Iterator[Layer]:
    if (conv := getattr(vae, name, None)) is not None:
        yield Convolution(conv_of(conv, 1, name=name))


def _ratio(encoder: Program, decoder: Program) -> int:
    down = sum(isinstance(layer, Downsampling) for layer in encoder)
    up = sum(isinstance(layer, Upsampling) for layer in decoder)
    if down != up:
        raise UnknownNetwork(
            "Expected an encoder that halves a picture as often as the decoder doubles it, got "
            f"{down} and {up} times."
        )
    return 2**up
