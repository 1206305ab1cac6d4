"""What a loss sees of faces: weights of pixels, and windows as evaluation cuts them."""

import pytest
import torch
from torch import Tensor

from trainer.judge.perceptual import Perceptual
from trainer.judge.regions import Region, square
from trainer.photos.boxes import Box
from trainer.training.face_terms import (
    MOST_WINDOWS,
    FaceWindow,
    face_windows,
    mean_over_pictures,
    pixel_weights,
    resample,
)
from trainer.training.losses import TrainStep, pixel_loss
from trainer.vae.autoencoder import build
from vae_core.compare.squares import Square

SIDE = 64
FACE: Box = (16, 8, 24, 32)
TINY = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def l2_distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().flatten(1).mean(1)


def test_weights_have_the_mean_one_and_rise_smoothly_at_the_edge() -> None:
    weights = pixel_weights([[FACE], [], [FACE, (40, 40, 10, 10)]], SIDE, SIDE, strength=3)
    assert weights.shape == (3, 1, SIDE, SIDE)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(3))
    assert (weights[1] == 1).all()
    inside, outside = weights[0, 0, 24, 28], weights[0, 0, 60, 60]
    assert inside / outside == pytest.approx(4, rel=0.03)
    edge = weights[0, 0, 24, 15:17].mean() / outside  # half way up, on the edge itself
    assert edge == pytest.approx(2.5, rel=0.03)
    steps = weights[0, 0, 24].diff().abs().max() / outside
    assert steps < 1  # of a height of 3


def test_weights_move_gradient_to_faces_and_keep_its_size() -> None:
    y = torch.zeros(1, 3, SIDE, SIDE)
    sums = {}
    for strength in (0, 4):
        x = torch.ones(1, 3, SIDE, SIDE, requires_grad=True)
        weights = pixel_weights([[FACE]], SIDE, SIDE, strength) if strength else None
        pixel_loss("l1", x, y, weights).sum().backward()
        face = x.grad[..., 12:36, 20:36].mean()
        sums[strength] = (float(x.grad.sum()), float(face / x.grad[..., 50:, 50:].mean()))
    assert sums[4][0] == pytest.approx(sums[0][0], rel=1e-5)
    assert sums[0][1] == pytest.approx(1)
    assert sums[4][1] == pytest.approx(5, rel=0.1)  # the box's edge is soft


@pytest.mark.parametrize("kind", ["l1", "mse", "charbonnier", "bce"])
def test_even_weights_change_no_loss(kind: str) -> None:
    x, y = draw(2, 3, 8, 8).clamp(-1, 1), draw(2, 3, 8, 8, seed=1).clamp(-1, 1)
    torch.testing.assert_close(
        pixel_loss(kind, x, y, torch.ones(2, 1, 8, 8)), pixel_loss(kind, x, y)
    )


@pytest.mark.parametrize(
    "box", [FACE, (0, 0, 20, 12), (50, 44, 14, 20), (2, 2, 60, 60), (9, 9, 3, 2)]
)
def test_windows_are_those_of_evaluation(box: Box) -> None:
    """The evaluation's own function is the oracle, on a picture that needs no clamp."""
    picture = 0.4 + 0.05 * draw(1, 3, SIDE, SIDE)
    found = resample(picture, face_windows([[box]], SIDE, SIDE))
    torch.testing.assert_close(found, square(picture, Region(*box)))


def test_of_many_faces_some_are_seen_the_same_every_time() -> None:
    boxes = [(x, y, 8.0, 8.0) for x in range(0, 60, 12) for y in range(0, 60, 12)]
    shifted = [(x + 0.5, y, w, h) for x, y, w, h in boxes]
    windows = face_windows([boxes, [FACE], [], shifted], SIDE, SIDE)
    assert [w.picture for w in windows] == [0] * MOST_WINDOWS + [1] + [3] * MOST_WINDOWS
    assert face_windows([boxes, [FACE], [], shifted], SIDE, SIDE) == windows
    places = {w.square for n in range(40) for w in face_windows([[*boxes[n % 25 :], FACE]], 64, 64)}
    assert len(places) > 15


def test_pictures_weigh_the_same_whatever_they_show() -> None:
    windows = [FaceWindow(picture, Square(0, 0, 8)) for picture in (0, 0, 2)]
    found = mean_over_pictures(torch.tensor([1.0, 3.0, 10.0]), windows, pictures=4)
    assert float(found) == pytest.approx((2 + 10) / 4)


def test_a_batch_is_the_mean_of_its_halves() -> None:
    """So accumulation and several processes give the gradient of the joined batch."""
    step = face_step(face_weight=2.0, face_lpips_weight=0.5)
    inputs = draw(4, 3, SIDE, SIDE).clamp(-1, 1), draw(4, 4, SIDE // 2, SIDE // 2, seed=1)
    faces = [[FACE, (40, 40, 12, 12)], [], [FACE], [(0, 0, 30, 30)]]
    whole = step(*inputs, None, faces)
    halves = [step(*(x[s] for x in inputs), None, faces[s]) for s in (slice(0, 2), slice(2, 4))]
    for name in ("loss", "rec", "face_distance"):
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(whole[name], mean, rtol=1e-5, atol=1e-7)


def face_step(**weights: float) -> TrainStep:
    torch.manual_seed(0)
    perceptual = Perceptual("encoder-features", False, 8, l2_distance)
    vae = build(TINY).eval()
    for name, p in vae.named_parameters():
        p.requires_grad_(name.startswith(("decoder", "post_quant")))
    return TrainStep(vae, perceptual, "mse", 1.0, 0.0, 0.0, False, **weights)


def test_the_face_term_sends_gradient_from_faces_alone() -> None:
    x = draw(1, 3, SIDE, SIDE).requires_grad_()
    windows = face_windows([[FACE]], SIDE, SIDE)
    l2_distance(resample(x, windows), torch.zeros(1, 3, 128, 128)).sum().backward()
    left, top, side = windows[0].square
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[top : top + side, left : left + side] = True
    assert (x.grad[0, 0][inside] != 0).all() and not x.grad[0, :, ~inside].any()


def test_the_face_term_reaches_the_decoder() -> None:
    step = face_step(face_lpips_weight=0.5)
    step.rec_weight = 0.0
    inputs = draw(1, 3, SIDE, SIDE).clamp(-1, 1), draw(1, 4, SIDE // 2, SIDE // 2, seed=1)
    step(*inputs, None, [[FACE]])["loss"].backward()
    assert all(p.grad.any() for p in step.vae.decoder.parameters() if p.ndim > 1)


def test_a_batch_without_faces_trains_all_the_same() -> None:
    step = face_step(face_weight=2.0, face_lpips_weight=0.5)
    inputs = draw(2, 3, SIDE, SIDE).clamp(-1, 1), draw(2, 4, SIDE // 2, SIDE // 2, seed=1)
    for faces in (None, [[], []]):
        terms = step(*inputs, None, faces)
        assert terms["face_distance"] == 0 and terms["loss"].isfinite()
        torch.testing.assert_close(terms["loss"], terms["rec"])
        terms["loss"].backward()
