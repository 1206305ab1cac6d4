"""Strips: a picture's rows in pieces [1, C, rows, W], channels last, read and given up in order.

Channels last makes rows lie one after another: a piece of a strip is a view, never a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Reader:
    """Takes any number of rows at a time from strips of any height, and gives them up."""

    def __init__(self, strips: Iterable[Tensor] = ()) -> None:
        self._strips = iter(strips)
        self._waiting: deque[Tensor] = deque()

    def put(self, strip: Tensor) -> None:
        """Lay a strip behind those that wait."""
        self._waiting.append(strip)

    def pieces(self, rows: int) -> Iterator[Tensor]:
        """Give `rows` rows piece by piece, none of them copied."""
        while rows > 0:
            if not self._waiting:
                self.put(next(self._strips))
            strip = self._waiting.popleft()
            if strip.shape[2] > rows:
                self._waiting.appendleft(strip[:, :, rows:])
                strip = strip[:, :, :rows]
            rows -= strip.shape[2]
            yield strip

    def take(self, rows: int) -> Tensor:
        """Give `rows` rows in one strip."""
        found = list(self.pieces(rows))
        return found[0] if len(found) == 1 else torch.cat(found, 2)


@dataclass(eq=False)
class Resting:
    """A tensor [1, C, H, W] that rests as strips, on the device where it was made or another.

    `row` counts the values of one row that take memory: none where the strips are a caller's own.
    """

    height: int
    row: int
    device: torch.device | None = None
    strips: deque[Tensor] = field(default_factory=deque)

    def add(self, strip: Tensor) -> None:
        """Lay the next rows to rest."""
        self.strips.append(strip if self.device is None else strip.to(self.device))

    def read(self, rows: int, give_up: bool, like: Tensor) -> Iterator[Tensor]:
        """Give `rows` rows at a time, in the dtype and on the device of `like`; the last are fewer.

        With `give_up` each strip is freed as soon as its last row was read.
        """
        reader = Reader(_popped(self.strips) if give_up else self.strips)
        for top in range(0, self.height, rows):
            taken = reader.take(min(rows, self.height - top))
            found = [taken.to(like, memory_format=torch.channels_last)]
            del taken
            yield found.pop()


def _popped(strips: deque[Tensor]) -> Iterator[Tensor]:
    while strips:
        yield strips.popleft()
