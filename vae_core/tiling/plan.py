"""What a pass over a picture takes, counted before it starts, and how it keeps within a budget.

The layers are put on flows as when they compute (blocks.walk), by a sweeper that only counts. So a
plan and the pass that follows it cannot differ in their steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import torch

from .counting import Choice, Sweep, count
from .layers import Program
from .network import Network

STRIP = 2**20  # values in the largest strip where the budget allows it: 4 MiB in float32
STRIP_ELSEWHERE = 2**22  # on other devices than a CPU, which one strip has to fill
SPARE = 1.25  # multiplications that saving memory may cost where no budget is given


class TooLittleMemory(ValueError):
    """A budget that no plan keeps within; `least` are the bytes that are enough.

    With `rows`, that many rows to a strip were asked for, and other strips may do with less.
    """

    def __init__(self, least: int, budget: int, rows: int | None = None) -> None:
        strips = "" if rows is None else f" in strips of {rows} rows"
        way_out = "take a smaller picture" if rows is None else "leave the rows to the plan"
        super().__init__(
            f"Expected a budget of at least {ceil(least / 2**20)} MiB for a picture of this size"
            f"{strips}, got {budget // 2**20} MiB: allow more, or {way_out}."
        )
        self.least = least


@dataclass(frozen=True)
class Step:
    """One sweep: rows per strip of what it gives, and whether that comes to rest."""

    rows: int
    rests: bool


@dataclass(frozen=True)
class Plan:
    """How a picture is decoded or encoded; bytes are what the pass adds, the weights not counted.

    `resting_bytes` and `work_bytes` are those at the worst moment: what rests, the result included,
    and what is on its way. With `rest_on`, what rests lies on that device, and `budget` holds for
    the result and `work_bytes` alone.
    """

    shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: torch.dtype
    steps: tuple[Step, ...]
    folds: bool
    resting_bytes: int
    work_bytes: int
    budget_bytes: int
    macs: int
    budget: int | None
    rest_on: torch.device | None

    @property
    def fits(self) -> bool:
        """Whether it keeps within its budget; a plan that does not is never handed out."""
        return self.budget is None or self.budget_bytes <= self.budget

    @property
    def peak_bytes(self) -> int:
        """Bytes at the worst moment, wherever they lie."""
        return self.resting_bytes + self.work_bytes

    @property
    def recomputed(self) -> int:
        """Sweeps that only gather statistics: what they computed is computed again."""
        return sum(not step.rests for step in self.steps[:-1])


def plan_decode(
    network: Network,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    budget: int | None,
    rows: int | None = None,
    rest_on: torch.device | None = None,
) -> Plan:
    """Plan the decoding of a latent of `shape` [B, c, h, w] within `budget` bytes.

    Without a budget as little rests as a quarter more multiplications allow. `rows` fixes the rows
    of all strips. Raises TooLittleMemory, which names the least budget.
    """
    _check(shape, network.latent_channels, 1, "a latent")
    return _plan(network.decoder, tuple(shape), dtype, budget, rows, rest_on)


def plan_encode(
    network: Network,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    budget: int | None,
    rows: int | None = None,
    rest_on: torch.device | None = None,
) -> Plan:
    """Plan the encoding of pixels of `shape` [B, C, H, W]; as `plan_decode` otherwise."""
    _check(shape, network.image_channels, network.ratio, "pixels")
    return _plan(network.encoder, tuple(shape), dtype, budget, rows, rest_on)


def _check(shape: tuple[int, ...], channels: int, least: int, name: str) -> None:
    if len(shape) != 4 or shape[1] != channels or min(shape[2:]) < least or shape[0] < 1:
        raise ValueError(
            f"Expected {name} of shape [B, {channels}, H, W] with sides of at least {least}, "
            f"got {list(shape)}."
        )


def _plan(
    program: Program,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    budget: int | None,
    rows: int | None,
    rest_on: torch.device | None,
) -> Plan:
    folds = dtype == torch.float32  # summed weights would be rounded in half precision
    least = []
    for choice in _choices(program, rows, folds=folds):
        plans = [
            _as_plan(sweeps, shape, out_shape, dtype, folds, budget, rest_on)
            for sweeps, out_shape in _rising(program, shape, choice)
        ]
        if budget is None:
            cheap = [plan for plan in plans if plan.macs <= SPARE * plans[0].macs]
            return min(cheap, key=lambda plan: plan.budget_bytes)
        if fitting := [plan for plan in plans if plan.fits]:
            return min(fitting, key=lambda plan: plan.macs)
        least += [plan.budget_bytes for plan in plans]
    raise TooLittleMemory(min(least), budget, rows)


def _choices(program: Program, rows: int | None, *, folds: bool) -> Iterator[Choice]:
    """From the largest strips down to single rows."""
    device = program[0].conv.weight.device.type
    strip = STRIP if device in ("cpu", "meta") else STRIP_ELSEWHERE
    if rows is not None:
        yield Choice(strip, rows, folds)
        return
    while strip:
        yield Choice(strip, None, folds)
        strip //= 4


def _rising(
    program: Program, shape: tuple[int, ...], choice: Choice
) -> Iterator[tuple[list[Sweep], tuple[int, ...]]]:
    """Count with all at rest, then again and again with one less at the worst moment."""
    while True:
        sweeps, out = count(program, shape, choice)
        yield sweeps, (shape[0], out.channels, out.height, out.width)
        number = max(range(len(sweeps)), key=lambda index: sweeps[index].peak)
        free = [each for each in (*sweeps[number].read, number) if _may_go(sweeps[each])]
        if not free:
            return
        gone = max(free, key=lambda index: sweeps[index].made)
        choice = replace(choice, recomputed=choice.recomputed | {gone})


def _may_go(sweep: Sweep) -> bool:
    return sweep.rests and sweep.may_pass


def _as_plan(
    sweeps: list[Sweep],
    shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    dtype: torch.dtype,
    folds: bool,
    budget: int | None,
    rest_on: torch.device | None,
) -> Plan:
    result = out_shape[0] * out_shape[1] * out_shape[2] * out_shape[3]
    worst = max(sweeps, key=lambda sweep: sweep.peak)
    values = worst.peak if rest_on is None else max(sweep.work for sweep in sweeps)
    return Plan(
        shape=shape,
        out_shape=out_shape,
        dtype=dtype,
        steps=tuple(Step(sweep.rows, sweep.rests) for sweep in sweeps),
        folds=folds,
        resting_bytes=(worst.resting + result) * dtype.itemsize,
        work_bytes=worst.work * dtype.itemsize,
        budget_bytes=(values + result) * dtype.itemsize,
        macs=shape[0] * sum(sweep.macs for sweep in sweeps),
        budget=budget,
        rest_on=rest_on,
    )
