"""Directions on a sphere: the angle between two vectors, and the shortest turn between them.

Vectors lie along the last axis: [..., n]. All functions compute in the dtype that they are given
(float64 is meant), and broadcast.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Arc(NamedTuple):
    """A turn from a unit vector: `aside` is the unit vector at a right angle that it turns to."""

    start: Tensor  # [..., n]
    aside: Tensor  # [..., n]; zero where there is nothing to turn to
    angle: Tensor  # [..., 1], radians in [0, π]


def directions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Scale two vectors to length 1: [..., n] twice -> the same shapes, broadcast where needed.

    A zero vector has no direction and takes the other's; two zeros stay zero.
    """
    norm_a, norm_b = norm(a), norm(b)
    unit_a = a / torch.where(norm_a == 0, 1, norm_a)
    unit_b = b / torch.where(norm_b == 0, 1, norm_b)
    return torch.where(norm_a == 0, unit_b, unit_a), torch.where(norm_b == 0, unit_a, unit_b)


def norm(x: Tensor) -> Tensor:
    """Measure the lengths of vectors: [..., n] -> [..., 1]."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def arc(start: Tensor, end: Tensor) -> Arc:
    """Find the shortest turn between unit vectors [..., n].

    Opposite vectors have no shortest turn: theirs goes through `right_angle(start)`.
    The angle is Kahan's 2 atan2(|a - b|, |a + b|), exact for small and for flat angles alike,
    where the arc cosine of a dot product loses half its digits: "How Futile are Mindless
    Assessments of Roundoff in Floating-Point Computation?" (2006), section 12.
    """
    angle = 2 * torch.atan2(norm(start - end), norm(start + end))
    across = end - (start * end).sum(-1, keepdim=True) * start
    length = norm(across)
    aside = across / torch.where(length == 0, 1, length)
    opposite = are_opposite(start, end)
    return Arc(start, torch.where(opposite, right_angle(start), aside), angle)


def turned(turn: Arc, t: float) -> Tensor:
    """Go a share t in [0, 1] along a turn: -> unit vectors [..., n].

    cos(tθ) a + sin(tθ) a⊥ is slerp, sin((1 - t)θ)/sin θ a + sin(tθ)/sin θ b, without its division:
    Shoemake, "Animating rotation with quaternion curves" (1985),
    https://doi.org/10.1145/325165.325242
    """
    return (t * turn.angle).cos() * turn.start + (t * turn.angle).sin() * turn.aside


def are_opposite(a: Tensor, b: Tensor) -> Tensor:
    """Tell unit vectors that point opposite ways, up to rounding: [..., n] twice -> [..., 1]."""
    return norm(a + b) < 4 * torch.finfo(a.dtype).eps ** 0.5


def right_angle(x: Tensor) -> Tensor:
    """Give a unit vector at a right angle to each unit vector: [..., n] -> [..., n].

    (x0, x1, x2, x3, ...) -> (-x1, x0, -x3, x2, ...): always the same one, and spread over the
    vector as x itself is. Zero where n is 1: a single number can only pass through zero.
    """
    even = x.shape[-1] // 2 * 2
    swapped = torch.zeros_like(x)
    swapped[..., 0:even:2] = -x[..., 1:even:2]
    swapped[..., 1:even:2] = x[..., 0:even:2]
    length = norm(swapped)
    if even:  # x lies along the odd one out at the end: the first axis is at a right angle to it
        swapped[..., :1] = torch.where(length == 0, 1, swapped[..., :1])
    return swapped / torch.where(length == 0, 1, length)
