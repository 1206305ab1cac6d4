"""Muon: momentum whose direction is made orthogonal, matrix by matrix; AdamW for the rest.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/. A convolution [O, I, h, w] is the matrix [O, I h w] of
its patches. Updates have the size that AdamW's usually have (J. Liu et al., "Muon is scalable for
LLM training", 2025, section 2.2), so that learning rates stand for the same.
"""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
LIKE_ADAMW = 0.2  # root mean square of AdamW's updates, in learning rates, as usually seen
# Of in- and output: what touches pixels, latents, or adapters of low rank goes to AdamW, as Muon's
# author does with the first and the last layer.
LEAST_CHANNELS = 17
QUINTIC = (3.4445, -4.7750, 2.0315)  # brings singular values to about 1, from 0.7 to 1.2
ITERATIONS = 5
EPSILON = 1e-8  # AdamW's, and of norms


def is_hidden(weight: Tensor) -> bool:
    """Whether a weight is one of the matrices between hidden layers, which Muon is for."""
    return weight.ndim > 1 and min(weight.shape[:2]) >= LEAST_CHANNELS


class Muon(torch.optim.Optimizer):
    """Muon for matrices between hidden layers, one moment each; AdamW for biases and both ends."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        """Keep weights in any floating type; `betas` are AdamW's."""
        super().__init__(weights, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Apply the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                change = _muon if is_hidden(weight) else _adamw
                weight.sub_(change(weight, self.state[weight], group), alpha=group["lr"])


def _muon(weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return the change of a matrix for a learning rate of 1, and advance its momentum."""
    momentum = state.setdefault("momentum", torch.zeros_like(weight))
    momentum.lerp_(weight.grad, 1 - MOMENTUM)
    ahead = weight.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's
    return orthogonal(ahead).view(weight.shape) * LIKE_ADAMW * sqrt(max(ahead.shape))


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix [N, M] near 1, 0 stays 0 (Newton-Schulz)."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=EPSILON)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _adamw(weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return AdamW's change for a learning rate of 1, and advance its moments."""
    first = state.setdefault("first", torch.zeros_like(weight))
    second = state.setdefault("second", torch.zeros_like(weight))
    step = state["step"] = state.get("step", 0) + 1
    keep, keep_square = group["betas"]
    first.lerp_(weight.grad, 1 - keep)
    second.lerp_(weight.grad.square(), 1 - keep_square)
    size = (second / (1 - keep_square**step)).sqrt() + EPSILON
    return first / (1 - keep**step) / size
