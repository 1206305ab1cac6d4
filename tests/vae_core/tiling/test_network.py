"""An AutoencoderKL read by structure: what is known shares its weights, all else is refused."""

import copy

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn

from vae_core.tiling import UnknownNetwork, read_network
from vae_core.tiling.layers import Attention, Downsampling, Residual, Upsampling


def count(program, kind) -> int:
    return sum(isinstance(layer, kind) for layer in program)


def test_layers_are_the_modules_own(built):
    vae = built("sd")
    network = read_network(vae)
    assert (network.ratio, network.latent_channels, network.image_channels) == (4, 4, 3)
    assert network.decoder[0].conv is vae.post_quant_conv
    assert network.encoder[-1].conv is vae.quant_conv
    assert [count(network.decoder, kind) for kind in (Residual, Attention, Upsampling)] == [
        11,
        1,
        2,
    ]
    assert [count(network.encoder, kind) for kind in (Residual, Downsampling)] == [8, 2]
    used = {id(weight) for weight in vae.parameters()}
    layers = (*network.encoder, *network.decoder)
    parts = [part for layer in layers for part in vars(layer).values() if part is not None]
    assert {id(weight) for part in parts for weight in part.parameters()} == used


def without(name):
    return lambda vae: delattr(vae, name)


def more(vae):
    vae.decoder.up_blocks[0].resnets[0].time_stack = nn.Identity()


def another_activation(vae):
    vae.encoder.mid_block.resnets[0].nonlinearity = nn.Mish()


def larger_kernel(vae):
    vae.decoder.conv_in = nn.Conv2d(4, 64, 5, padding=2)


def circular(vae):
    vae.decoder.conv_in.padding_mode = "circular"


def two_heads(vae):
    vae.decoder.mid_block.attentions[0].heads = 2


def another_norm(vae):
    vae.decoder.conv_norm_out = nn.BatchNorm2d(32)


def latent_norm(vae):
    vae.bn = nn.BatchNorm2d(16)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (without("decoder"), "decoder"),
        (more, "time_stack"),
        (another_activation, "Mish"),
        (larger_kernel, "3 x 3"),
        (circular, "circular"),
        (two_heads, "one head"),
        (another_norm, "BatchNorm2d"),
        (latent_norm, "bn"),
    ],
)
def test_what_would_compute_otherwise_is_refused(built, change, word):
    vae = copy.deepcopy(built("sd"))
    change(vae)
    with pytest.raises(UnknownNetwork, match=word):
        read_network(vae)


@pytest.mark.parametrize("vae", [AutoencoderTiny(), nn.Linear(1, 1)], ids=["tiny", "linear"])
def test_other_modules_are_refused_in_one_sentence(vae):
    with torch.no_grad(), pytest.raises(UnknownNetwork, match=r"^Expected .*got a \w+ with"):
        read_network(vae)
