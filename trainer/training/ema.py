"""An exponential moving average of the trained weights, kept in float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter]


class Ema:
    """Average of named parameters; `decay` 0 means no averaging: the shadow is the newest weight.

    The warm-up min(decay, (1 + n) / (10 + n)) after n updates lets a short run forget where it
    began (Polyak averaging as TensorFlow's `ExponentialMovingAverage(num_updates=...)` does it).
    """

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow: dict[str, Tensor] = {
            name: parameter.detach().float().clone() for name, parameter in parameters.items()
        }

    def update(self, parameters: Parameters) -> None:
        """Take one step towards the weights: to be called after real optimizer steps only."""
        self.updates += 1
        rate = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.decay else 0.0
        weights = [parameters[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1.0 - rate)

    @contextmanager
    def applied(self, parameters: Parameters) -> Iterator[None]:
        """Put the averaged weights into the model for the length of a `with` block."""
        kept = {name: parameters[name].detach().clone() for name in self.shadow}
        copy_into(parameters, self.shadow)
        try:
            yield
        finally:
            copy_into(parameters, kept)


@torch.no_grad()
def copy_into(parameters: Parameters, values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters in place by the values of the same names."""
    for name, value in values.items():
        parameters[name].copy_(value)
