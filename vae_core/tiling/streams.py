"""Layers over streams of strips: each takes an iterator of rows and gives one.

A 3 x 3 convolution keeps the last two rows that it saw, so nothing is computed twice, and lags one
row behind its input. A generator holds no strip that it has given on: it pops what it yields out of
a list, so that only strips on their way take memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .moments import Moments
from .strips import Reader

Strips = Iterator[Tensor]
Fill = Callable[[Tensor, Tensor], object]  # writes into a piece of a window what a strip becomes


class Normalised:
    """Fills a window with silu(GroupNorm(x)), or without silu, once the statistics are known."""

    def __init__(self, norm: nn.GroupNorm, moments: Moments, *, silu: bool = True) -> None:
        self._norm, self._moments, self._silu = norm, moments, silu
        self._affine: tuple[Tensor, Tensor] | None = None

    def __call__(self, window: Tensor, strip: Tensor) -> Tensor:
        """Write into `window`; the arithmetic is in float32, as in the untiled GroupNorm."""
        if self._affine is None:
            self._affine = self._moments.affine(self._norm, strip)
        scale, shift = self._affine
        torch.addcmul(shift, strip, scale, out=window)
        return F.silu(window, inplace=True) if self._silu else window


def windows(
    strips: Strips,
    height: int,
    *,
    top: int = 1,
    sides: tuple[int, int] = (0, 0),
    step: int = 1,
    fill: Fill = Tensor.copy_,
) -> Iterator[list[Tensor]]:
    """Give what a kernel of three rows needs: the new rows behind those that it still needs.

    `height` counts the rows of the whole input: above it stand `top` rows of zeros, below it one,
    at its sides as many columns. The kernel moves by `step` rows. Each window comes in a list, to
    be popped where it is used.
    """
    held, seen = None, 0
    for strip in strips:
        rows = strip.shape[2]
        seen += rows
        if held is None:
            held = strip.new_zeros((1, strip.shape[1], top, sum(sides) + strip.shape[3]))
        window = _window(held, strip, sides, below=int(seen == height), fill=fill)
        del strip
        done = max(0, (window.shape[2] - 3) // step + 1) * step
        held = window[:, :, done:].clone(memory_format=torch.channels_last)
        found = [window]
        del window
        if done:
            yield found


def _window(held: Tensor, strip: Tensor, sides: tuple[int, int], below: int, fill: Fill) -> Tensor:
    """The held rows, the strip and `below` rows of zeros, between columns of zeros."""
    start, rows, width = held.shape[2], strip.shape[2], strip.shape[3]
    shape = (1, strip.shape[1], start + rows + below, held.shape[3])
    window = blank(strip, shape)
    window[:, :, :start] = held
    fill(window[:, :, start : start + rows, sides[0] : sides[0] + width], strip)
    window[:, :, start:, : sides[0]] = 0
    window[:, :, start:, sides[0] + width :] = 0
    window[:, :, start + rows :] = 0
    return window


def convolved(strips: Strips, conv: nn.Conv2d, height: int, fill: Fill = Tensor.copy_) -> Strips:
    """3 x 3 of stride 1 with one zero pixel around; `fill` is what its input goes through."""
    kept: tuple[Tensor, Tensor | None] | None = None
    for found in windows(strips, height, fill=fill):
        kept = kept or parameters(conv, found[0])
        yield F.conv2d(found.pop(), *kept, padding=(0, 1))


def downsampled(strips: Strips, conv: nn.Conv2d, height: int) -> Strips:
    """3 x 3 of stride 2, with one zero row below and one zero column at the right."""
    kept: tuple[Tensor, Tensor | None] | None = None
    for found in windows(strips, height, top=0, sides=(0, 1), step=2):
        kept = kept or parameters(conv, found[0])
        yield F.conv2d(found.pop(), *kept, stride=2)


def upsampled(strips: Strips, conv: nn.Conv2d, height: int, *, folds: bool) -> Strips:
    """Every pixel 2 x 2, then 3 x 3 with one zero pixel around.

    Of the nine pixels under the kernel only four differ: each of the four pixels that one becomes
    is a 2 x 2 convolution whose weights are sums of the nine, at 4/9 of the work. So it is done
    where `folds` is set; else pixels are doubled.
    """
    kept: list[Tensor] | None = None
    bias: Tensor | None = None
    for found in windows(strips, height, sides=(1, 1)):
        if kept is None:
            weight, bias = parameters(conv, found[0])
            kept = folded(weight) if folds else [weight]
            del weight
        larger = _interleaved if folds else _doubled
        yield larger(found.pop(), kept, bias)


def folded(weight: Tensor) -> list[Tensor]:
    """3 x 3 weights on a doubled picture as four of 2 x 2 on the picture, by row and column."""
    return [
        kernel.contiguous(memory_format=torch.channels_last)
        for half in _halves(weight, 2)
        for kernel in _halves(half, 3)
    ]


def _halves(weight: Tensor, axis: int) -> Iterator[Tensor]:
    """Three taps as two, for the first and the second of two pixels: a, b + c and a + b, c."""
    first, second, third = weight.unbind(axis)
    yield torch.stack([first, second + third], axis)
    yield torch.stack([first + second, third], axis)


def _interleaved(window: Tensor, kernels: list[Tensor], bias: Tensor | None) -> Tensor:
    rows, width = window.shape[2] - 2, window.shape[3] - 2
    shape = (1, kernels[0].shape[0], 2 * rows, 2 * width)
    out = blank(window, shape)
    for number, kernel in enumerate(kernels):
        down, right = divmod(number, 2)
        part = window[:, :, down : down + rows + 1, right : right + width + 1]
        out[:, :, down::2, right::2] = F.conv2d(part, kernel, bias)
    return out


def _doubled(window: Tensor, kernels: list[Tensor], bias: Tensor | None) -> Tensor:
    """As the untiled pass does it; of the doubled halo one row and column a side is needed."""
    [weight] = kernels
    larger = window.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, 1:-1, 1:-1]
    return F.conv2d(larger.contiguous(memory_format=torch.channels_last), weight, bias)


def pointwise(strip: Tensor, part: nn.Module) -> Tensor:
    """A map of each pixel's channels, held as a 1 x 1 convolution or a linear layer."""
    weight, bias = parameters(part, strip)
    return F.conv2d(strip, weight.reshape(*weight.shape[:2], 1, 1), bias)


def mapped(strips: Strips, of: Callable[[Tensor], Tensor]) -> Strips:
    """Each strip through a function."""
    for strip in strips:
        found = [strip]
        del strip
        yield of(found.pop())


def added(main: Strips, beside: Reader, shortcut: nn.Conv2d | None) -> Strips:
    """Add a block's input, or its shortcut, to the rows that come out of the block, in place."""
    for strip in main:
        top = 0
        for piece in beside.pieces(strip.shape[2]):
            below = top + piece.shape[2]
            strip[:, :, top:below] += piece if shortcut is None else pointwise(piece, shortcut)
            top = below
            del piece
        found = [strip]
        del strip
        yield found.pop()


def noted(strips: Strips, reader: Reader) -> Strips:
    """Give strips on, and lay them down for a second reader."""
    for strip in strips:
        reader.put(strip)
        found = [strip]
        del strip
        yield found.pop()


def parameters(part: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight, channels last, and bias, where and as the strip is."""
    bias = None if part.bias is None else part.bias.detach().to(like)
    weight = part.weight.detach().to(like)
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight, bias


def blank(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor, channels last."""
    form = torch.channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=form)
