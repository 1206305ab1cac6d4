"""All layers put on a flow: where a GroupNorm needs statistics, a sweeper gathers them.

A sweeper runs through a flow's strips, and decides whether the flow comes to rest there or is
computed again when it is read next. One sweeper computes, another only counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import flows, streams
from .flows import Flow, Need
from .layers import (
    Attention,
    Closing,
    Convolution,
    Downsampling,
    Layer,
    Program,
    Residual,
    Upsampling,
)
from .streams import Normalised, Strips
from .strips import Reader

SCORES = 2**24  # values of the score matrix where no kernel does without: 64 MiB in float32


class Sweeper(Protocol):
    """What runs through the strips of a flow: to compute them, or to count what that takes."""

    folds: bool  # upsampling by four 2 x 2 kernels

    def settle(self, flow: Flow, *, must_rest: bool, give_up: bool = True) -> Flow:
        """Gather a flow's moments and lay it to rest, or not unless it must.

        Without `give_up` the sources stay. A flow that has its moments comes back as it is.
        """


def walk(program: Program, x: Flow, sweeper: Sweeper) -> Flow:
    """Put a program's layers on a flow; what is left to compute is in the flow that comes back."""
    for layer in program:
        x = _put(layer, x, sweeper)
    return x


def _put(layer: Layer, x: Flow, sweeper: Sweeper) -> Flow:
    match layer:
        case Convolution(conv) if conv.kernel_size == (1, 1):
            return flows.mapped(x, conv)
        case Convolution(conv):
            return flows.convolved(x, conv, lambda: Tensor.copy_)
        case Upsampling(conv):
            return flows.upsampled(_rested(x, sweeper), conv, folds=sweeper.folds)
        case Downsampling(conv):
            return flows.downsampled(x, conv)
        case Residual():
            return _residual(layer, x, sweeper)
        case Attention():
            return _attention(layer, _rested(x, sweeper), sweeper)
        case Closing(norm, conv):
            x = sweeper.settle(x, must_rest=not x.light)
            return flows.convolved(x, conv, lambda: Normalised(norm, x.moments))
    raise TypeError(f"Expected a layer of an AutoencoderKL, got {layer}.")


def _rested(x: Flow, sweeper: Sweeper) -> Flow:
    """At rest, where reading it again would compute blocks again."""
    return x if x.light and x.moments else sweeper.settle(x, must_rest=True)


def _residual(layer: Residual, x: Flow, sweeper: Sweeper) -> Flow:
    x = sweeper.settle(x, must_rest=not x.light)

    def first() -> Normalised:
        return Normalised(layer.norm1, x.moments)

    virtual = flows.convolved(x, layer.conv1, first)
    h = sweeper.settle(virtual, must_rest=False, give_up=False)
    again = h.open is virtual.open
    out = flows.convolved(h, layer.conv2, lambda: Normalised(layer.norm2, h.moments))

    def open(rows: int, give_up: bool) -> Strips:
        if again:
            beside = Reader()
            strips = streams.noted(x.open(rows, give_up), beside)
            strips = streams.convolved(strips, layer.conv1, x.height, first())
        else:
            beside, strips = Reader(x.open(rows, give_up)), h.open(rows, give_up)
        fill = Normalised(layer.norm2, h.moments)
        strips = streams.convolved(strips, layer.conv2, x.height, fill)
        return streams.added(strips, beside, layer.shortcut)

    def need(rows: int) -> Need:
        if not again:
            return _beside(x.need(rows), out.need(rows)).then(0, 2 * out.row * rows)
        waiting = x.row * (rows + 2)  # the input, until the convolutions have caught up
        return out.need(rows).then(waiting, 2 * out.row * rows)

    return replace(
        out,
        open=open,
        need=need,
        sources=x.sources if again else (*x.sources, *h.sources),
        macs=out.macs + (0 if again else x.macs) + _shortcut_macs(layer, x),
        light=False,
    )


def _beside(one: Need, other: Need) -> Need:
    return Need(one.held + other.held, max(one.peak, other.peak))


def _shortcut_macs(layer: Residual, x: Flow) -> int:
    if layer.shortcut is None:
        return 0
    return x.channels * layer.conv2.out_channels * x.height * x.width


def _attention(layer: Attention, x: Flow, sweeper: Sweeper) -> Flow:
    """Keys and values of all pixels rest; queries come in strips."""

    def normal() -> Callable[[Tensor], Tensor]:
        fill = Normalised(layer.norm, x.moments, silu=False)
        return lambda strip: fill(torch.empty_like(strip), strip)

    def keys_and_values(rows: int, give_up: bool) -> Strips:
        norm, maps = normal(), (layer.key, layer.value)

        def both(strip: Tensor) -> Tensor:
            found = norm(strip)
            return torch.cat([streams.pointwise(found, part) for part in maps], 1)

        return streams.mapped(x.open(rows, give_up), both)

    pixels = x.height * x.width
    known = replace(
        x,
        channels=2 * x.channels,
        open=keys_and_values,
        need=lambda rows: x.need(rows).then(2 * x.channels**2, 6 * x.row * rows),
        macs=2 * x.channels**2 * pixels,
        moments=None,
    )
    known = sweeper.settle(known, must_rest=True, give_up=False)

    def open(rows: int, give_up: bool) -> Strips:
        norm = normal()
        keys, values = _pixels(torch.cat(list(known.open(rows, give_up)), 2)).chunk(2, -1)

        def attend(strip: Tensor) -> Tensor:
            queries = _pixels(streams.pointwise(norm(strip), layer.query))
            found = _attended(queries, keys, values)
            found = found.view(1, strip.shape[2], x.width, -1).permute(0, 3, 1, 2)
            return streams.pointwise(found, layer.out).add_(strip)

        return streams.mapped(x.open(rows, give_up), attend)

    def need(rows: int) -> Need:
        return x.need(rows).then(2 * x.row * x.height + 2 * x.channels**2, 6 * x.row * rows)

    macs = 2 * x.channels * pixels * (x.channels + pixels)
    sources = (*x.sources, *known.sources)
    return replace(x, open=open, need=need, macs=macs, sources=sources, light=False, moments=None)


def _pixels(strip: Tensor) -> Tensor:
    """[1, C, rows, W], channels last, as [1, 1, rows * W, C]: a view."""
    return strip.permute(0, 2, 3, 1).reshape(1, 1, -1, strip.shape[1])


def _attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one head, by a kernel that keeps no scores, or else a few queries at a time."""
    attend = F.scaled_dot_product_attention
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            return attend(queries, keys, values)
    except RuntimeError as error:
        if "kernel" not in str(error):
            raise
    chunks = queries.split(max(1, SCORES // keys.shape[2]), 2)
    return torch.cat([attend(chunk, keys, values) for chunk in chunks], 2)
