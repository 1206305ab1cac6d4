"""Timelines: between which two keys each frame of a sequence lies, and how far from the first.

Keys are counted from 0. Shares of a way are floats in [0, 1).
"""

from typing import NamedTuple

from .easing import ease

PATHS = ("once", "loop", "ping-pong")
SPANS = ("each step", "whole path")
SNAP = 1e-12  # this little before a key is the key: a sine of π/4 is not exact


class Step(NamedTuple):
    """Where a frame lies: `share` of the way from key `start` to key `end`; 0 is `start` itself."""

    start: int
    end: int
    share: float


def timeline(
    keys: int, frames: int, path: str = "once", easing: str = "linear", span: str = "each step"
) -> list[Step]:
    """Lay frames evenly along keys, then bend the way by an easing.

    once: from the first key to the last, both included: `frames` steps. A key in between is a
    frame where frames - 1 is a multiple of keys - 1.
    loop: on from the last key back to the first, which is not repeated: `frames` steps; every key
    is a frame where `frames` is a multiple of `keys`.
    ping-pong: as once, then back without repeating either end: 2 * frames - 2 steps.
    The easing acts between each two neighbours (span "each step") or once over all ("whole path").
    Raises ValueError for fewer than two keys or frames, and for an unknown path, span or easing.
    """
    if keys < 2 or frames < 2:
        raise ValueError(f"Expected at least 2 keys and 2 frames, got {keys} and {frames}.")
    check_choice("path", path, PATHS)
    check_choice("span", span, SPANS)
    closed = path == "loop"
    ways, parts = (keys, frames) if closed else (keys - 1, frames - 1)
    positions = [_position(i, parts, ways, easing, span) for i in range(frames)]
    steps = [_step(position, keys, closed) for position in positions]
    return steps + steps[-2:0:-1] if path == "ping-pong" else steps


def _position(i: int, parts: int, ways: int, easing: str, span: str) -> tuple[int, float]:
    """Find the frame i of `parts` on its way: which of the `ways`, and the share of it."""
    if span == "each step":
        way, rest = divmod(i * ways, parts)  # in whole numbers: keys are met exactly
        return way, ease(rest / parts, easing)
    place = ease(i / parts, easing) * ways
    return int(place), place - int(place)


def _step(position: tuple[int, float], keys: int, closed: bool) -> Step:
    way, share = position
    if share > 1 - SNAP:
        way, share = way + 1, 0.0
    end = (way + 1) % keys if closed else min(way + 1, keys - 1)
    return Step(way % keys, end, share)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError, naming the choices, for a value that is none of them."""
    if value not in choices:
        raise ValueError(f"Expected a {name} out of {', '.join(choices)}, got {value!r}.")
