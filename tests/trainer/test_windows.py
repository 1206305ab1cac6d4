"""Random windows of a batch: even, inside, the same for both pictures, and differentiable."""

import torch

from tests.trainer.test_losses import draw, pixels, step
from trainer.judge.perceptual import encoder_features
from trainer.training.windows import corners, cut


def test_corners_are_spread_evenly_over_the_room() -> None:
    found = corners(draw(20_000, 4, 3, 3), 4)
    assert found.shape == (20_000, 2) and found.dtype == torch.int64
    for side in found.T:
        shares = torch.bincount(side, minlength=5) / len(side)
        assert len(shares) == 5 and (shares - 0.2).abs().max() < 0.015
    assert abs(float(torch.corrcoef(found.T.double())[0, 1])) < 0.03


def test_corners_follow_from_the_noise_alone_and_without_room_are_zero() -> None:
    noise = draw(6, 4, 3, 3)
    assert torch.equal(corners(noise, 9), corners(noise[[0, 1, 2, 3, 4, 5]], 9))
    assert torch.equal(corners(noise[3:], 9), corners(noise, 9)[3:])
    assert corners(noise, 0).abs().sum() == 0
    assert corners(torch.full((1, 1, 1, 1), 40.0), 7).tolist() == [[7, 7]]


def test_a_window_is_a_slice_and_its_gradient_lands_where_it_was_cut() -> None:
    x = draw(3, 2, 9, 7).requires_grad_()
    corner = torch.tensor([[0, 0], [4, 2], [5, 3]])
    window = cut(x, corner, 4)
    expected = [x[i, :, t : t + 4, s : s + 4] for i, (t, s) in enumerate(corner.tolist())]
    assert torch.equal(window, torch.stack(expected))
    window.sum().backward()
    assert x.grad.sum() == window.numel() and x.grad[1, :, 4:8, 2:6].all()


def test_lpips_sees_the_same_window_of_both(tiny_vae) -> None:
    perceptual = encoder_features(tiny_vae, "cpu")
    seen = []
    measured = perceptual.distance
    spying = type(perceptual)(
        *(perceptual.name, False, 2), lambda x, y: seen.append((x, y)) or measured(x, y)
    )
    x, noise = pixels(), draw(2, 4, 10, 10)
    whole = step(tiny_vae, spying, lpips_weight=0.1)(x, noise)
    part = step(tiny_vae, spying, lpips_weight=0.1, lpips_crop=12)(x, noise)
    corner = corners(noise, x.shape[2] - 12)
    assert torch.equal(seen[1][0], cut(seen[0][0], corner, 12))
    assert torch.equal(seen[1][1], cut(x, corner, 12))
    assert part["rec"] == whole["rec"] and part["distance"] != whole["distance"]
