"""Pictures that tests send through VAEs."""

import torch


def picture(height: int, width: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    """Smooth pictures [count, height, width, 3] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 5, 5, generator=generator)
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    return large.clamp(0, 1).movedim(1, -1).contiguous()
