"""A distance whose gradient is computed at once: the same values, with less memory held."""

import pytest
import torch
from torch import Tensor

from trainer.judge.at_once import PIXELS_AT_ONCE, gradient_at_once
from trainer.training.live_bytes import LiveBytes
from vae_core.lpips import lpips, prepare
from vae_core.lpips_weights import weight_shapes


def pictures(batch: int, side: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((batch, 3, side, side), generator=generator) * 2 - 1


def squeeze_distance(x: Tensor, y: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    shapes = weight_shapes("squeeze").items()
    state = {name: torch.rand(shape, generator=generator) / 20 for name, shape in shapes}
    return lpips(prepare(state), "squeeze", x, y)


@pytest.mark.parametrize(("batch", "side"), [(1, 32), (5, 256)])
def test_values_and_gradients_are_those_of_the_distance(batch: int, side: int) -> None:
    x, y = pictures(batch, side, 0), pictures(batch, side, 1)
    weights = torch.linspace(-1, 2, batch)
    plain, wrapped = (x.clone().requires_grad_() for _ in range(2))
    expected = squeeze_distance(plain, y)
    got = gradient_at_once(squeeze_distance)(wrapped, y)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    torch.testing.assert_close(wrapped.grad, plain.grad, rtol=1e-4, atol=1e-9)
    assert wrapped.grad.abs().sum() > 0


def test_without_gradient_none_is_computed() -> None:
    seen = []

    def distance(x: Tensor, y: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return (x - y).square().mean(dim=(1, 2, 3))

    gradient_at_once(distance)(pictures(2, 16, 0), pictures(2, 16, 1))
    assert seen == [False]


def test_only_the_gradient_is_held_and_pictures_are_taken_a_few_at_a_time() -> None:
    side = 256
    few = PIXELS_AT_ONCE // side**2
    peaks = []
    for batch in (few, 3 * few):
        x, y = pictures(batch, side, 0).requires_grad_(), pictures(batch, side, 1)
        with LiveBytes() as live:
            distances = gradient_at_once(squeeze_distance)(x, y)
            held = x.numel() * 4 + distances.numel() * 4
            assert live.now <= held * 1.01
        peaks.append(live.peak - held)
    assert peaks[1] < 1.3 * peaks[0]
