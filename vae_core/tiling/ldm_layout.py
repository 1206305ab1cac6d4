"""The layers of ComfyUI's encoder and decoder, named as in the first latent diffusion code."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .layers import (
    Attention,
    Closing,
    Convolution,
    Downsampling,
    Layer,
    Residual,
    UnknownNetwork,
    Upsampling,
    check_parts,
    conv_of,
    map_of,
    norm_of,
)

_ENDS = {"conv_in", "mid", "norm_out", "conv_out"}
_RESIDUAL = {"norm1", "conv1", "norm2", "conv2"}


def encoder_layers(encoder: nn.Module) -> Iterator[Layer]:
    """List the layers from pixels to moments before the quant convolution."""
    check_parts(encoder, _ENDS | {"down"}, name="an encoder")
    yield Convolution(conv_of(encoder.conv_in, 3, name="conv_in"))
    for level in encoder.down:
        yield from _level(level, "downsample")
        if hasattr(level, "downsample"):
            check_parts(level.downsample, {"conv"}, name="a downsampler")
            yield Downsampling(conv_of(level.downsample.conv, 3, stride=2, name="a downsampler"))
    yield from _middle(encoder.mid)
    yield _closing(encoder)


def decoder_layers(decoder: nn.Module) -> Iterator[Layer]:
    """List the layers from a latent after the post-quant convolution to pixels."""
    check_parts(decoder, _ENDS | {"up"}, name="a decoder")
    if getattr(decoder, "tanh_out", False) or getattr(decoder, "give_pre_end", False):
        raise UnknownNetwork("Expected a decoder that ends in a convolution, got one with tanh.")
    yield Convolution(conv_of(decoder.conv_in, 3, name="conv_in"))
    yield from _middle(decoder.mid)
    for level in reversed(decoder.up):
        yield from _level(level, "upsample")
        if hasattr(level, "upsample"):
            yield _upsampling(level.upsample)
    yield _closing(decoder)


def _upsampling(part: nn.Module) -> Upsampling:
    check_parts(part, {"conv"}, name="an upsampler")
    if (factor := getattr(part, "scale_factor", 2.0)) != 2.0:
        raise UnknownNetwork(f"Expected upsampling by 2 in height and width, got {factor}.")
    return Upsampling(conv_of(part.conv, 3, name="an upsampler"))


def _level(level: nn.Module, sampler: str) -> Iterator[Layer]:
    check_parts(level, {"block", "attn"}, {sampler}, name="a level of an AutoencoderKL")
    for number, part in enumerate(level.block):
        yield _residual(part)
        yield from map(_attention, level.attn[number : number + 1])


def _middle(mid: nn.Module) -> Iterator[Layer]:
    check_parts(mid, {"block_1", "block_2"}, {"attn_1"}, name="a middle of an AutoencoderKL")
    yield _residual(mid.block_1)
    if hasattr(mid, "attn_1"):
        yield _attention(mid.attn_1)
    yield _residual(mid.block_2)


def _residual(part: nn.Module) -> Residual:
    check_parts(part, _RESIDUAL, {"swish", "dropout", "nin_shortcut"}, name="a residual block")
    shortcut = getattr(part, "nin_shortcut", None)
    return Residual(
        norm_of(part.norm1, name="norm1"),
        conv_of(part.conv1, 3, name="conv1"),
        norm_of(part.norm2, name="norm2"),
        conv_of(part.conv2, 3, name="conv2"),
        None if shortcut is None else conv_of(shortcut, 1, name="nin_shortcut"),
    )


def _attention(part: nn.Module) -> Attention:
    check_parts(part, {"norm", "q", "k", "v", "proj_out"}, name="an attention")
    norm = norm_of(part.norm, name="norm")
    maps = (map_of(getattr(part, name), name=name) for name in ("q", "k", "v", "proj_out"))
    return Attention(norm, *maps)


def _closing(side: nn.Module) -> Closing:
    norm = norm_of(side.norm_out, name="norm_out")
    return Closing(norm, conv_of(side.conv_out, 3, name="conv_out"))
