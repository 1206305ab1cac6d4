"""Loops that a user sees advance and can cancel."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

import comfy.model_management
import comfy.utils

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
    """Give the items one by one; the node's bar advances after each.

    A cancelled run ends before the next item, with ComfyUI's own exception.
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    bar = comfy.utils.ProgressBar(count or 1)
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)


def strips() -> Callable[[int, int], None]:
    """Give what work that counts itself calls with (done, total): the bar moves in hundredths.

    A cancelled run ends in the call, with ComfyUI's own exception.
    """
    bar = comfy.utils.ProgressBar(100)

    def report(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(100 * done // max(1, total))

    return report
