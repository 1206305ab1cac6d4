"""Random square windows of a batch, one a picture: what LPIPS sees of large crops."""

import torch
from torch import Tensor


def corners(noise: Tensor, room: int) -> Tensor:
    """Draw whole numbers 0 .. room, evenly: noise [B, C, h, w] from N(0, I) -> [B, 2].

    They follow from the noise that a sample has anyway, its first and its last value, and so, as
    it does, from seed, epoch and photo alone. The host waits for nothing.
    """
    ends = noise.detach().float().flatten(1)[:, [0, -1]]
    even = (1 + torch.erf(ends / 2**0.5)) / 2  # the normal distribution's own function: [0, 1]
    return (even * (room + 1)).long().clamp(max=room)


def cut(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """Cut a window out of each picture: [B, C, H, W], corners [B, 2] -> [B, C, side, side]."""
    steps = torch.arange(side, device=x.device)
    down, across = (corner[:, i, None] + steps for i in range(2))
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return x[batch, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)
