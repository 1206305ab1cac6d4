"""The sweeper that only counts: what each sweep of a pass rests, works with and computes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from .blocks import walk
from .flows import Flow, resting
from .layers import Program
from .moments import Moments
from .strips import Resting


@dataclass(frozen=True)
class Choice:
    """What a plan is free to choose: the largest strip, in values or rows; what is recomputed."""

    strip: int
    rows: int | None
    folds: bool
    recomputed: Set[int] = frozenset()


@dataclass(frozen=True)
class Sweep:
    """One sweep in values (not bytes): what rests at its worst moment, and what is on its way."""

    rows: int
    rests: bool
    may_pass: bool  # what it gives may be computed again instead of resting
    made: int
    resting: int
    work: int
    macs: int
    read: tuple[int, ...]  # the sweeps whose results this one reads

    @property
    def peak(self) -> int:
        """Values at the worst moment."""
        return self.resting + self.work


def count(program: Program, shape: tuple[int, ...], choice: Choice) -> tuple[list[Sweep], Flow]:
    """Count the sweeps over one sample of a batch [B, C, H, W], and say what comes out of it."""
    sweeper = _Counting(choice)
    _, channels, height, width = shape
    flow = walk(program, sweeper.reading(Resting(height, 0), channels, width), sweeper)
    sweeper.last(flow)
    return sweeper.sweeps, flow


class _Counting:
    def __init__(self, choice: Choice) -> None:
        self.folds = choice.folds
        self.sweeps: list[Sweep] = []
        self._choice = choice
        self._made: dict[Resting, int] = {}  # which sweep made a store
        # strips in memory while statistics are gathered: it and its distance from the mean, which
        # are in float32 also where the strip is in half precision, and folding is for float32
        self._gathering = 2 if choice.folds else 5

    def reading(self, store: Resting, channels: int, width: int) -> Flow:
        """A flow that can only be counted."""
        return resting(store, channels, width, _never)

    def settle(self, flow: Flow, *, must_rest: bool, give_up: bool = True) -> Flow:
        """Count the sweep that would gather the moments."""
        if flow.moments is not None:
            return flow
        number = len(self.sweeps)
        rests = must_rest or number not in self._choice.recomputed
        made = flow.row * flow.height if rests else 0
        self._add(flow, made, not must_rest, give_up and rests, gathers=True)
        if rests:
            store = Resting(flow.height, flow.row)
            self._made[store] = number
            flow = self.reading(store, flow.channels, flow.width)
        return replace(flow, moments=Moments())

    def last(self, flow: Flow) -> None:
        """Count the sweep that gives the result; the result itself is counted elsewhere."""
        self._add(flow, 0, False, True, gathers=False)

    def _add(self, flow: Flow, made: int, may_pass: bool, give_up: bool, *, gathers: bool) -> None:
        before = sum(store.row * store.height for store in flow.sources)
        rows = min(flow.height, self._choice.rows or max(1, self._choice.strip // flow.widest))
        need = flow.need(rows)
        moments = 3 * flow.channels * -(-flow.height // rows)
        peak = need.peak if not gathers else max(need.peak, self._gathering * flow.row * rows)
        self.sweeps.append(
            Sweep(
                rows=rows,
                rests=bool(made),
                may_pass=may_pass,
                made=made,
                resting=max(before, made) if give_up else before + made,
                work=need.held + peak + moments,
                macs=flow.macs,
                read=tuple(self._made[store] for store in flow.sources if store in self._made),
            )
        )


def _never(rows: int, give_up: bool) -> None:
    raise TypeError("Expected a flow of a pass, got one that was only counted.")
