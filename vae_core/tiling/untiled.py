"""What the whole pass over a picture takes, when nothing is cut into strips."""

from __future__ import annotations

from typing import Literal

import torch

from .layers import Attention, Closing, Convolution, Downsampling, Layer, Residual, Upsampling
from .network import Network


def untiled_bytes(
    network: Network,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    direction: Literal["decode", "encode"],
    *,
    scores: bool = False,
) -> int:
    """Bytes at the worst moment of the module's own pass over an input [B, C, H, W].

    Counted for diffusers' module, which holds a block's input, its normalised form and what SiLU
    makes of that side by side; ComfyUI's works in place and takes up to a third less. `scores`
    where attention writes out how each pixel of the latent weighs each other, as ComfyUI's does on
    a CPU: two such tables, which grow with the fourth power of a picture's side.
    """
    program = network.decoder if direction == "decode" else network.encoder
    channels, pixels, worst, entry = shape[1], float(shape[2] * shape[3]), 0.0, 0
    for layer in program:
        need, after, scale = _values(layer, channels)
        need += 2 * pixels if scores and isinstance(layer, Attention) else 0
        worst = max(worst, (need + entry) * pixels)
        of_level = isinstance(layer, Residual | Attention)
        entry = (entry or channels) if of_level else 0  # diffusers holds what enters a level
        channels, pixels = after, pixels * scale
    return int(worst * shape[0] * dtype.itemsize)


def _values(layer: Layer, x: int) -> tuple[float, int, float]:
    """Values per pixel of the input at the worst moment; channels and pixels, by factor, after."""
    match layer:
        case Upsampling(conv):  # the input, doubled in both directions, and the result
            return 5 * x + 4 * conv.out_channels, conv.out_channels, 4
        case Downsampling(conv):  # the input, padded, and the result
            return 2 * x + conv.out_channels / 4, conv.out_channels, 1 / 4
        case Residual(conv1=conv, shortcut=shortcut):  # at the end: input, block, sum and quotient
            h = conv.out_channels
            return max(3 * x, 2 * x + h, x + (4 if shortcut else 3) * h), h, 1
        case Attention():  # the input, normalised, queries, keys, values, result
            return 6 * x, x, 1
        case Convolution(conv) | Closing(conv=conv):
            before = x if isinstance(layer, Convolution) else 3 * x
            return max(before, x + conv.out_channels), conv.out_channels, 1
    raise TypeError(f"Expected a layer of an AutoencoderKL, got {layer}.")
