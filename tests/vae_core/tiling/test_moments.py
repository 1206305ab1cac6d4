"""Statistics gathered from strips, against float64 by hand."""

import pytest
import torch

from vae_core.tiling.moments import Moments


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("heights", [[24], [1, 2, 21], [7, 7, 7, 3]])
def test_scale_and_shift_are_those_of_the_whole_tensor(mean, heights):
    """A mean of a thousand times the spread: squares summed as they are would lose it."""
    draw = torch.Generator().manual_seed(0)
    whole = mean + torch.randn(1, 8, 24, 30, generator=draw) * torch.linspace(0.5, 2, 24)[:, None]
    whole += torch.arange(8.0)[:, None, None] + torch.linspace(0, 3, 24)[:, None]
    norm = torch.nn.GroupNorm(2, 8, eps=1e-6)
    torch.nn.init.normal_(norm.weight, generator=draw)
    torch.nn.init.normal_(norm.bias, generator=draw)
    moments = Moments()
    for strip in whole.contiguous(memory_format=torch.channels_last).split(heights, 2):
        moments.add(strip)
    scale, shift = moments.affine(norm, whole)
    expected = norm.double()(whole.double())
    # in float64, so that only the statistics are in question; the shift is rounded once
    found = scale.double() * whole.double() + shift.double()
    assert (found - expected).abs().max() < 1e-6 * (10 + mean)


def test_long_sums_keep_their_digits():
    """16,384 values far from 0, as decoders have them: plain sums in float32 lose 1e-4 of them."""
    draw = torch.Generator().manual_seed(0)
    whole = 30 + torch.randn(1, 32, 128, 128, generator=draw)
    norm = torch.nn.GroupNorm(32, 32)
    moments = Moments()
    moments.add(whole.contiguous(memory_format=torch.channels_last))
    scale, shift = moments.affine(norm, whole)
    found = scale.double() * whole.double() + shift.double()
    assert (found - norm.double()(whole.double())).abs().max() < 1e-5
