"""A bar for work that comes before a run, and the stop that is raised from it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from trainer.training.interrupts import Interrupts
from trainer.training.meter import refresh_seconds


@contextmanager
def ticks(what: str, stop: Interrupts) -> Iterator[Callable[[int, int], None]]:
    """Show a bar that a call moves to (done, total); a stop is raised from that call."""
    with tqdm(desc=what, leave=False, delay=1, mininterval=refresh_seconds()) as bar:

        def tick(done: int, total: int) -> None:
            stop.check()
            bar.total = total
            bar.update(done - bar.n)

        yield tick
