"""The layers of diffusers' encoder and decoder of an AutoencoderKL."""

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

_ENDS = {"conv_in", "mid_block", "conv_norm_out", "conv_act", "conv_out"}
_RESIDUAL = {"norm1", "conv1", "norm2", "conv2", "nonlinearity"}


def encoder_layers(encoder: nn.Module) -> Iterator[Layer]:
    """List the layers from pixels to moments before the quant convolution."""
    check_parts(encoder, _ENDS | {"down_blocks"}, name="an encoder")
    yield Convolution(conv_of(encoder.conv_in, 3, name="conv_in"))
    for block in encoder.down_blocks:
        yield from _blocks(block, "downsamplers")
        for sampler in block.downsamplers or ():
            check_parts(sampler, {"conv"}, name="a downsampler")
            yield Downsampling(conv_of(sampler.conv, 3, stride=2, name="a downsampler"))
    yield from _blocks(encoder.mid_block)
    yield _closing(encoder)


def decoder_layers(decoder: nn.Module) -> Iterator[Layer]:
    """List the layers from a latent after the post-quant convolution to pixels."""
    check_parts(decoder, _ENDS | {"up_blocks"}, name="a decoder")
    yield Convolution(conv_of(decoder.conv_in, 3, name="conv_in"))
    yield from _blocks(decoder.mid_block)
    for block in decoder.up_blocks:
        yield from _blocks(block, "upsamplers")
        for sampler in block.upsamplers or ():
            check_parts(sampler, {"conv"}, name="an upsampler")
            yield Upsampling(conv_of(sampler.conv, 3, name="an upsampler"))
    yield _closing(decoder)


def _blocks(block: nn.Module, sampler: str | None = None) -> Iterator[Layer]:
    """Residual blocks and attentions in turn; a middle block has one residual block more."""
    allowed = {"attentions", sampler} if sampler else {"attentions"}
    check_parts(block, {"resnets"}, allowed, name="a block of an AutoencoderKL")
    residuals = [_residual(part) for part in block.resnets]
    attends = [part for part in getattr(block, "attentions", None) or () if part is not None]
    attentions = [_attention(part) for part in attends]
    if sampler is None:
        yield residuals.pop(0)
        for attention, residual in zip(attentions or [None], residuals, strict=True):
            yield from (part for part in (attention, residual) if part is not None)
        return
    for number, residual in enumerate(residuals):
        yield residual
        yield from attentions[number : number + 1]


def _residual(part: nn.Module) -> Residual:
    check_parts(part, _RESIDUAL, {"dropout", "conv_shortcut"}, name="a residual block")
    if not isinstance(part.nonlinearity, nn.SiLU) or part.output_scale_factor != 1:
        raise UnknownNetwork(
            f"Expected residual blocks with SiLU and no scale, got {part.nonlinearity} "
            f"and a scale of {part.output_scale_factor}."
        )
    shortcut = getattr(part, "conv_shortcut", None)
    return Residual(
        norm_of(part.norm1, name="norm1"),
        conv_of(part.conv1, 3, name="conv1"),
        norm_of(part.norm2, name="norm2"),
        conv_of(part.conv2, 3, name="conv2"),
        None if shortcut is None else conv_of(shortcut, 1, name="conv_shortcut"),
    )


def _attention(part: nn.Module) -> Attention:
    check_parts(part, {"group_norm", "to_q", "to_k", "to_v", "to_out"}, name="an attention")
    scale = (part.heads, part.rescale_output_factor, part.residual_connection)
    if scale != (1, 1, True):
        raise UnknownNetwork(
            "Expected an attention of one head that adds its input unscaled, got heads, scale "
            f"and residual connection of {scale}."
        )
    return Attention(
        norm_of(part.group_norm, name="group_norm"),
        map_of(part.to_q, name="to_q"),
        map_of(part.to_k, name="to_k"),
        map_of(part.to_v, name="to_v"),
        map_of(part.to_out[0], name="to_out"),
    )


def _closing(side: nn.Module) -> Closing:
    norm = norm_of(side.conv_norm_out, name="conv_norm_out")
    return Closing(norm, conv_of(side.conv_out, 3, name="conv_out"))
