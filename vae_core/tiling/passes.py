"""Decoding and encoding by a plan: strip by strip, from where a tensor rests to where one shall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .blocks import walk
from .flows import Flow, resting
from .layers import Program
from .moments import Moments
from .network import Network
from .plan import Plan
from .streams import Strips
from .strips import Resting

Progress = Callable[[int, int], None]


def decode(
    network: Network, latent: Tensor, plan: Plan, progress: Progress | None = None
) -> Tensor:
    """Decode a latent [B, c, h, w] to pixels [B, C, H, W] as the untiled decoder gives them.

    Computes where the latent lies, in the plan's dtype. `progress(done, total)` is called after
    each strip, and what it raises stops the work. Raises ValueError if the plan is for another
    shape.
    """
    return _run(network.decoder, latent, plan, progress)


def encode(
    network: Network, pixels: Tensor, plan: Plan, progress: Progress | None = None
) -> Tensor:
    """Encode pixels [B, C, H, W] to moments [B, 2c, h, w], mean and log of the variance.

    As `decode` otherwise.
    """
    return _run(network.encoder, pixels, plan, progress)


def _run(program: Program, given: Tensor, plan: Plan, progress: Progress | None) -> Tensor:
    if tuple(given.shape) != plan.shape:
        raise ValueError(
            f"Expected a tensor of the shape that was planned for, {list(plan.shape)}, "
            f"got {list(given.shape)}: plan again."
        )
    out = torch.empty(plan.out_shape, dtype=plan.dtype, device=given.device)
    report = _Report(plan, progress)
    with torch.no_grad():
        for sample, place in zip(given.split(1), out, strict=True):
            _one(program, sample, plan, report, place)
    return out


def _one(program: Program, sample: Tensor, plan: Plan, report: _Report, place: Tensor) -> None:
    sweeper = _Computing(plan, report, sample)
    _, channels, height, width = sample.shape
    store = Resting(height, 0)
    store.add(sample)
    flow = walk(program, sweeper.reading(store, channels, width), sweeper)
    top = 0
    for strip in sweeper.last(flow):
        below = top + strip.shape[2]
        place[:, top:below] = strip[0]
        top = below
        del strip


class _Report:
    """Progress in multiplications, of which each strip brings its share."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self._progress, self._done, self._total = progress, 0.0, plan.macs

    def add(self, macs: float) -> None:
        self._done += macs
        if self._progress:
            self._progress(min(round(self._done), self._total), self._total)


class _Computing:
    """The sweeper that computes, by the plan's steps in their order."""

    def __init__(self, plan: Plan, report: _Report, sample: Tensor) -> None:
        self.folds = plan.folds
        self._steps = iter(plan.steps)
        self._report, self._rest_on = report, plan.rest_on
        self._like = sample.new_empty(0, dtype=plan.dtype)

    def reading(self, store: Resting, channels: int, width: int) -> Flow:
        """The flow that reads a store."""

        def open(rows: int, give_up: bool) -> Strips:
            return store.read(rows, give_up, self._like)

        return resting(store, channels, width, open)

    def settle(self, flow: Flow, *, must_rest: bool, give_up: bool = True) -> Flow:
        """Sweep once for the moments; what comes out rests where the plan says so."""
        if flow.moments is not None:
            return flow
        moments, step = Moments(), next(self._steps)
        store = Resting(flow.height, flow.row, self._rest_on)
        for strip in self._strips(flow, step.rows, give_up and step.rests):
            moments.add(strip)
            if step.rests:
                store.add(strip)
            del strip
        flow = self.reading(store, flow.channels, flow.width) if step.rests else flow
        return replace(flow, moments=moments)

    def last(self, flow: Flow) -> Strips:
        """The sweep that gives the result."""
        return self._strips(flow, next(self._steps).rows, True)

    def _strips(self, flow: Flow, rows: int, give_up: bool) -> Strips:
        for strip in flow.open(rows, give_up):
            self._report.add(flow.macs * strip.shape[2] / flow.height)
            found = [strip]
            del strip
            yield found.pop()
