"""A distance whose gradient is computed together with it, a few pictures at a time.

LPIPS' weights are frozen and a picture's distance depends on that picture alone. So its gradient
can be had at once, long before the decoder's turn comes in backward, and what is kept until then
is one tensor of the picture's size. The activations of one handful of pictures exist at a time,
whatever the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIXELS_AT_ONCE = 512 * 512  # one picture at 512 px, sixteen at 128 px

Distance = Callable[[Tensor, Tensor], Tensor]


def gradient_at_once(distance: Distance) -> Distance:
    """Wrap a distance of pixels [B, C, H, W] twice -> [B]: same values and gradient, less memory.

    The gradient reaches the first argument alone, and only once.
    """

    def measured(x: Tensor, y: Tensor) -> Tensor:
        return _AtOnce.apply(distance, x, y)

    return measured


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Distance, x: Tensor, y: Tensor) -> Tensor:
        few = max(1, PIXELS_AT_ONCE // (x.shape[2] * x.shape[3]))
        differentiate = _with_gradient if ctx.needs_input_grad[1] else _alone
        pairs = zip(x.split(few), y.split(few), strict=True)
        parts = [differentiate(distance, *pair) for pair in pairs]
        distances, gradients = zip(*parts, strict=True)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(distances)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outward: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, outward.view(-1, 1, 1, 1) * gradient, None


def _with_gradient(distance: Distance, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Measure some pictures, and how their distances change with their pixels."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        distances = distance(x, y)
        (gradient,) = torch.autograd.grad(distances.sum(), x)
    return distances.detach(), gradient


def _alone(distance: Distance, x: Tensor, y: Tensor) -> tuple[Tensor, None]:
    return distance(x, y), None
