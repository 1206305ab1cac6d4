"""Easing: how a journey from 0 to 1 speeds up and slows down.

Every curve is a plain function of a float in [0, 1], rises all the way, and gives exactly 0 at 0
and exactly 1 at 1.
"""

import math
from collections.abc import Callable

Curve = Callable[[float], float]


def ease(t: float, name: str) -> float:
    """Bend a share of the way: t in [0, 1] -> [0, 1], by the curve of that name in EASINGS.

    Raises ValueError for another name. Formulas: Penner, "Programming Macromedia Flash MX" (2002),
    chapter 7, http://robertpenner.com/easing/; smoothstep: 3t² - 2t³.
    """
    if name not in EASINGS:
        raise ValueError(f"Expected an easing out of {', '.join(EASINGS)}, got {name!r}.")
    return t if t in (0, 1) else EASINGS[name](t)


def _in_and_out(first_half: Curve) -> Curve:
    """Speed up as first_half does, then slow down as its mirror image."""
    return lambda t: first_half(2 * t) / 2 if t < 0.5 else 1 - first_half(2 - 2 * t) / 2


def _out(inwards: Curve) -> Curve:
    """Turn a curve that starts slowly into its mirror image, which ends slowly."""
    return lambda t: 1 - inwards(1 - t)


def _sine(t: float) -> float:
    return 2 * math.sin(math.pi / 4 * t) ** 2  # 1 - cos(πt / 2), without its cancellation near 0


def _cubic(t: float) -> float:
    return t**3


EASINGS: dict[str, Curve] = {
    "linear": lambda t: t,
    "smoothstep": lambda t: t * t * (3 - 2 * t),
    "sine in": _sine,
    "sine out": _out(_sine),
    "sine in-out": lambda t: math.sin(math.pi / 2 * t) ** 2,
    "cubic in": _cubic,
    "cubic out": _out(_cubic),
    "cubic in-out": _in_and_out(_cubic),
}
