"""A tensor on its way through the layers: what rests of it, and what is computed when it is read.

A flow is read strip by strip, any number of times as long as its sources are not given up. Putting
a layer on a flow computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from . import streams
from .moments import Moments
from .streams import Fill, Strips
from .strips import Resting


@dataclass(frozen=True)
class Need:
    """Values (not bytes) in memory while a flow is read, beside what rests.

    `held` is there all the time (rows that kernels still need, weights), `peak` for a moment.
    """

    held: int
    peak: int

    def then(self, held: int, peak: int) -> Need:
        """The need when one more layer stands behind: its strips are never there with ours."""
        return Need(self.held + held, max(self.peak, peak))


@dataclass(frozen=True)
class Flow:
    """A tensor [1, C, H, W]: `open(rows, give_up)` gives it in strips of about so many rows.

    `macs` are multiplications of one reading, `widest` the values of one row where a layer's output
    is largest. A `light` flow costs at most the convolution that enters a level to read again.
    """

    channels: int
    height: int
    width: int
    open: Callable[[int, bool], Strips]
    need: Callable[[int], Need]
    sources: tuple[Resting, ...]
    macs: int = 0
    widest: int = 0
    light: bool = True
    moments: Moments | None = None

    @property
    def row(self) -> int:
        """Values in one row."""
        return self.channels * self.width


def resting(store: Resting, channels: int, width: int, open_as: Callable, **more: object) -> Flow:
    """A flow that is read from where it rests."""
    row = channels * width

    def need(rows: int) -> Need:
        joined = row * min(rows, store.height)  # rows out of two strips are copied into one
        return Need(joined if rows < store.height else 0, joined)  # and the rest of one is held

    return Flow(channels, store.height, width, open_as, need, (store,), widest=row, **more)


def mapped(x: Flow, part: nn.Module) -> Flow:
    """1 x 1."""

    def open(rows: int, give_up: bool) -> Strips:
        return streams.mapped(x.open(rows, give_up), lambda strip: streams.pointwise(strip, part))

    return _next(x, open, part.weight.shape[0], 1)


def convolved(x: Flow, conv: nn.Conv2d, fill: Callable[[], Fill]) -> Flow:
    """3 x 3 of stride 1; `fill()` makes what the input goes through before."""

    def open(rows: int, give_up: bool) -> Strips:
        return streams.convolved(x.open(rows, give_up), conv, x.height, fill())

    return _next(x, open, conv.out_channels, 9)


def _next(x: Flow, open: Callable, channels: int, taps: int) -> Flow:
    """A layer of the same size behind a flow."""
    weights = taps * channels * x.channels
    row = channels * x.width

    def need(rows: int) -> Need:
        window = x.row * (rows + 2)
        peak = window + max(x.row, row) * rows
        return x.need(rows).then(weights + 2 * x.row, peak)

    macs = x.macs + weights * x.height * x.width
    widest = max(x.widest, row)
    return replace(
        x, channels=channels, open=open, need=need, macs=macs, widest=widest, moments=None
    )


def upsampled(x: Flow, conv: nn.Conv2d, *, folds: bool) -> Flow:
    """Twice the size; `folds` where the four 2 x 2 kernels do it."""
    channels, width = conv.out_channels, 2 * x.width
    weights = (16 if folds else 9) * channels * x.channels
    folding = 20 * channels * x.channels if folds else 0  # 9 as they are, 6 and 5 on the way

    def open(rows: int, give_up: bool) -> Strips:
        below = x.open(max(1, rows // 2), give_up)
        return streams.upsampled(below, conv, x.height, folds=folds)

    def need(rows: int) -> Need:
        below = max(1, rows // 2)
        out, window = 2 * below * channels * width, x.row * (below + 2)
        part = window + out // 4 if folds else 4 * window * 2
        peak = window + max(x.row * below, out + part, folding)
        return x.need(below).then(weights + 2 * x.row, peak)

    return replace(
        x,
        channels=channels,
        height=2 * x.height,
        width=width,
        open=open,
        need=need,
        macs=x.macs + weights * x.height * x.width * (1 if folds else 4),
        widest=max(x.widest // 2, channels * width),
        moments=None,
    )


def downsampled(x: Flow, conv: nn.Conv2d) -> Flow:
    """Half the size, rounded down."""
    channels, height, width = conv.out_channels, x.height // 2, x.width // 2
    weights = 9 * channels * x.channels

    def open(rows: int, give_up: bool) -> Strips:
        return streams.downsampled(x.open(2 * rows, give_up), conv, x.height)

    def need(rows: int) -> Need:
        window = x.row * (2 * rows + 1)
        peak = window + max(x.row * 2 * rows, channels * width * rows)
        return x.need(2 * rows).then(weights + x.row, peak)

    return replace(
        x,
        channels=channels,
        height=height,
        width=width,
        open=open,
        need=need,
        macs=x.macs + weights * height * width,
        widest=2 * x.widest,
        moments=None,
    )
