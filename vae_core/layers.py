"""Every tensor of an architecture, by name and shape, without building it.

The shapes are those of diffusers' AutoencoderKL and AutoencoderTiny; a test compares them with
the models themselves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]


def kl_shapes(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    """List an AutoencoderKL's tensors: {name: shape}."""
    shapes = {**_kl_encoder(architecture), **_kl_decoder(architecture)}
    latent = architecture["latent_channels"]
    if architecture["use_quant_conv"]:
        shapes |= _conv("quant_conv", 2 * latent, 2 * latent, 1)
    if architecture["use_post_quant_conv"]:
        shapes |= _conv("post_quant_conv", latent, latent, 1)
    return shapes


def tiny_shapes(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    """List an AutoencoderTiny's tensors: {name: shape}."""
    return {**_tiny_encoder(architecture), **_tiny_decoder(architecture)}


def _kl_encoder(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    widths, count = architecture["block_out_channels"], architecture["layers_per_block"]
    shapes = _conv("encoder.conv_in", architecture["in_channels"], widths[0])
    width = widths[0]
    for level, new in enumerate(widths):
        place = f"encoder.down_blocks.{level}"
        attends = architecture["down_block_types"][level].startswith("Attn")
        shapes |= _level(place, width, new, count, attends)
        if level < len(widths) - 1:
            shapes |= _conv(f"{place}.downsamplers.0.conv", new, new)
        width = new
    shapes |= _middle("encoder", width, architecture["mid_block_add_attention"])
    shapes |= _norm("encoder.conv_norm_out", width)
    return shapes | _conv("encoder.conv_out", width, 2 * architecture["latent_channels"])


def _kl_decoder(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    widths = list(reversed(architecture["block_out_channels"]))
    count = architecture["layers_per_block"] + 1
    shapes = _conv("decoder.conv_in", architecture["latent_channels"], widths[0])
    shapes |= _middle("decoder", widths[0], architecture["mid_block_add_attention"])
    width = widths[0]
    for level, new in enumerate(widths):
        place = f"decoder.up_blocks.{level}"
        attends = architecture["up_block_types"][level].startswith("Attn")
        shapes |= _level(place, width, new, count, attends)
        if level < len(widths) - 1:
            shapes |= _conv(f"{place}.upsamplers.0.conv", new, new)
        width = new
    shapes |= _norm("decoder.conv_norm_out", width)
    return shapes | _conv("decoder.conv_out", width, architecture["out_channels"])


def _level(place: str, width: int, new: int, count: int, attends: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for index in range(count):
        shapes |= _resnet(f"{place}.resnets.{index}", new if index else width, new)
        if attends:
            shapes |= _attention(f"{place}.attentions.{index}", new)
    return shapes


def _middle(side: str, width: int, attends: bool) -> dict[str, Shape]:
    shapes = _resnet(f"{side}.mid_block.resnets.0", width, width)
    shapes |= _resnet(f"{side}.mid_block.resnets.1", width, width)
    return shapes | (_attention(f"{side}.mid_block.attentions.0", width) if attends else {})


def _resnet(place: str, width: int, new: int) -> dict[str, Shape]:
    shapes = {**_norm(f"{place}.norm1", width), **_conv(f"{place}.conv1", width, new)}
    shapes |= {**_norm(f"{place}.norm2", new), **_conv(f"{place}.conv2", new, new)}
    return shapes | (_conv(f"{place}.conv_shortcut", width, new, 1) if width != new else {})


def _attention(place: str, width: int) -> dict[str, Shape]:
    shapes = _norm(f"{place}.group_norm", width)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes |= {f"{place}.{part}.weight": (width, width), f"{place}.{part}.bias": (width,)}
    return shapes


def _norm(place: str, width: int) -> dict[str, Shape]:
    return {f"{place}.weight": (width,), f"{place}.bias": (width,)}


def _conv(place: str, width: int, new: int, side: int = 3, bias: bool = True) -> dict[str, Shape]:
    weight = {f"{place}.weight": (new, width, side, side)}
    return weight | ({f"{place}.bias": (new,)} if bias else {})


def _tiny_encoder(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    widths = architecture["encoder_block_out_channels"]
    shapes, index = {}, 0
    for level, blocks in enumerate(architecture["num_encoder_blocks"]):
        width = widths[level]
        source = width if level else architecture["in_channels"]
        shapes |= _conv(f"encoder.layers.{index}", source, width, bias=not level)
        shapes |= _tiny_blocks("encoder", range(index + 1, index + 1 + blocks), width)
        index += 1 + blocks
    return shapes | _conv(f"encoder.layers.{index}", widths[-1], architecture["latent_channels"])


def _tiny_decoder(architecture: Mapping[str, Any]) -> dict[str, Shape]:
    widths, counts = architecture["decoder_block_out_channels"], architecture["num_decoder_blocks"]
    shapes = _conv("decoder.layers.0", architecture["latent_channels"], widths[0])
    index = 2  # 1 is the activation
    for level, blocks in enumerate(counts):
        shapes |= _tiny_blocks("decoder", range(index, index + blocks), widths[level])
        last = level == len(counts) - 1
        index += blocks + (0 if last else 1)  # an upsampling has no weights but a number
        new = architecture["out_channels"] if last else widths[level]
        shapes |= _conv(f"decoder.layers.{index}", widths[level], new, bias=last)
        index += 1
    return shapes


def _tiny_blocks(side: str, places: Sequence[int], width: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for place in places:
        for part in (0, 2, 4):
            shapes |= _conv(f"{side}.layers.{place}.conv.{part}", width, width)
    return shapes
