"""The two numbers of each group that GroupNorm needs, gathered exactly from strips."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Moments:
    """Mean and variance of each channel, strip by strip; joined at the end in float64.

    Each strip's own are computed in float32 around the strip's own mean, and joined by Chan's
    formula.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._found: list[Tensor] = []

    def add(self, strip: Tensor) -> None:
        """Take in a strip [1, C, rows, W]."""
        self._rows.append(strip.shape[2])
        self._found.append(_of_channels(strip.float()))

    def affine(self, norm: nn.GroupNorm, like: Tensor) -> tuple[Tensor, Tensor]:
        """GroupNorm as scale and shift of each channel: two float32 tensors [1, C, 1, 1]."""
        mean, variance = self._of_groups(norm.num_groups)
        gamma, beta = (
            part.detach().to("cpu", like.dtype).double() for part in (norm.weight, norm.bias)
        )
        per_group = (norm.num_groups, -1)
        scale = gamma.view(per_group) * (variance + norm.eps).rsqrt()
        shift = beta.view(per_group) - mean * scale
        shape = (1, -1, 1, 1)
        return tuple(part.float().reshape(shape).to(like.device) for part in (scale, shift))

    def _of_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance [groups, 1] in float64: within strips and channels, and between."""
        weights = torch.tensor(self._rows, dtype=torch.float64)
        weights = (weights / weights.sum())[:, None, None]
        shape = (len(self._rows), groups, -1)
        found = torch.stack(self._found, 1).cpu().double()  # where float64 is always to be had
        near, off, square = (part.view(shape) for part in found)
        means, variances = near + off, square - off.square()
        mean = (weights * means).sum(0).mean(-1, keepdim=True)
        spread = variances + (means - mean).square()
        return mean, (weights * spread).sum(0).mean(-1, keepdim=True)


def _of_channels(strip: Tensor) -> Tensor:
    """Mean of each channel, what that is off by, and the mean square around it; [3, C] in float32.

    torch.batch_norm_update_stats is some times faster, but its mean is wrong in the fifth digit of
    the spread where it lies three spreads from 0: in a whole decode seven times the error.
    """
    pixels = strip.permute(0, 2, 3, 1).reshape(-1, strip.shape[1])  # a view: channels last
    near = pixels.mean(0)
    around = pixels - near
    return torch.stack([near, around.mean(0), around.square_().mean(0)])
