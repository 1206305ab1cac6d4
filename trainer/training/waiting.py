"""How much of a run's time goes by in waiting for the next batch."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainer.photos.batches import Batch

WORTH_SHOWING = 0.05  # share of the time: beside the bar
WORTH_SAYING = 0.1  # at the end of a run, with what helps


class TimedBatches:
    """Batches, and the share of the steps' time that was spent in waiting for them.

    It is the host's time. On a GPU, which works on while the host waits, it is the most that the
    device may have stood still. The first batch is left out: nothing can be prepared before it.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._first = True
        self._waited = self._stepped = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        began = time.monotonic()
        batch = next(self._batches)
        took = time.monotonic() - began
        if self._first:
            self._first, self._stepped = False, self._stepped - took
        else:
            self._waited += took
        return batch

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count the body's time as a step's; evaluations and checkpoints stay outside."""
        began = time.monotonic()
        yield
        self._stepped += time.monotonic() - began

    def share(self) -> float:
        """Return the share of the steps' time since the last call, in [0, 1]."""
        share = self._waited / self._stepped if self._stepped > 0 else 0.0
        self._waited = self._stepped = 0.0
        return min(1.0, share)


def share_of_run(records: Iterable[Mapping[str, Any]]) -> float:
    """Return the mean of the logged shares, each weighted by the steps that it speaks of."""
    waited, last = 0.0, 0
    for record in records:
        if record.get("wait") is not None:
            waited += record["wait"] * (record["step"] - last)
            last = record["step"]
    return waited / last if last else 0.0


def advice(share: float) -> str | None:
    """Say what helps where the input held a run up for more than a tenth of its time."""
    if share <= WORTH_SAYING:
        return None
    return f"input held the step up {share:.0%} of the time: raise --workers"
