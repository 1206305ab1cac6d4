"""The high-frequency term: L1 of the fine detail that a small blur takes away.

A Gaussian of deviation s keeps exp(-2 (pi s f)²) of a wave of f cycles a pixel. At 1.5 pixels that
is a half of waves 8 pixels long and a hundredth of those 3 long: what is left over is the detail
that has to lie within one cell of a latent at the usual ratio of 8, which decoders smear first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = 1.5  # pixels
RADIUS = 6  # pixels: 4 deviations, beyond which a Gaussian is below 1 / 2000 of its middle


def detail_distance(x: Tensor, y: Tensor) -> Tensor:
    """Compare fine detail: reconstruction x and original y, [B, C, H, W] in [-1, 1] -> [B].

    The mean over C, H, W of |high(x) - high(y)|, high(x) = x - blur(x), in float32 also under
    autocast. As blurring is linear, the difference is what is blurred. H and W above 6.
    """
    with torch.autocast(x.device.type, enabled=False):
        apart = x.float() - y.float()
        return (apart - blur(apart)).abs().flatten(1).mean(1)


def in_words(weight: float) -> str:
    """Say how the term is reduced and weighted."""
    return (
        f"hf: L1 of what a Gaussian blur of {SIGMA:g} pixels takes away, mean over C, H, W, "
        f"float32, mean over the batch; weight {weight:g}"
    )


def blur(x: Tensor) -> Tensor:
    """Blur [..., H, W] float32 by a Gaussian of SIGMA; edges are mirrored about their last pixel.

    By two products with matrices, ten times as fast on a CPU as convolutions of one channel.
    """
    return _matrix(x.shape[-2], x.device).T @ (x @ _matrix(x.shape[-1], x.device))


def _matrix(side: int, device: torch.device) -> Tensor:
    """Give the blur along one side as [side, side]: row i is what pixel i leaves in all others."""
    taps = torch.exp(-torch.arange(-RADIUS, RADIUS + 1, device=device).square() / (2 * SIGMA**2))
    impulses = F.pad(torch.eye(side, device=device)[None], (RADIUS, RADIUS), mode="reflect")[0]
    return impulses.unfold(1, 2 * RADIUS + 1, 1) @ (taps / taps.sum())
