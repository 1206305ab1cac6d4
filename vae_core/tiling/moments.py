"""The two numbers of each group that GroupNorm needs, gathered exactly from strips."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Moments:
    """Mean and variance of each channel, strip by strip; joined at the end in float64.

    Each strip's own are computed in float32 around the strip's own mean, as the untiled GroupNorm
    computes them, and joined by Chan's formula: what is left of rounding is what a strip's own sums
    leave.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._means: list[Tensor] = []
        self._variances: list[Tensor] = []

    def add(self, strip: Tensor) -> None:
        """Take in a strip [1, C, rows, W]."""
        mean, variance = _of_channels(strip.float())
        self._rows.append(strip.shape[2])
        self._means.append(mean)
        self._variances.append(variance)

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
        means, variances = (
            torch.stack(parts).cpu().double().view(shape)
            for parts in (self._means, self._variances)
        )
        mean = (weights * means).sum(0).mean(-1, keepdim=True)
        spread = variances + (means - mean).square()
        return mean, (weights * spread).sum(0).mean(-1, keepdim=True)


def _of_channels(strip: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel; on a CPU by the kernel that is fast with channels last."""
    if strip.device.type == "cpu":
        return torch.batch_norm_update_stats(strip, None, None, 0.0)
    variance, mean = torch.var_mean(strip, dim=(0, 2, 3), correction=0)
    return mean, variance
