"""Figures of faces and background against numpy and scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import structural_similarity
from torch import Tensor

from trainer.judge.regions import (
    Measure,
    box_mask,
    masked_psnr,
    masked_ssim,
    score_regions,
    sharpness,
    size_class,
)
from vae_core.compare.figures import PATCH, square
from vae_core.compare.pairs import Box
from vae_core.metrics import ssim_map


def absolute_error(x: Tensor, y: Tensor) -> Tensor:
    """A distance that can be computed by hand: [B, 3, H, W] twice -> [B]."""
    return (x - y).abs().mean((1, 2, 3))


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A photo and a damaged copy, float [H, W, 3] in [0, 1], worse on the left."""
    photo = data.astronaut()[:200, :300] / 255
    noise = np.random.default_rng(0).normal(0, 1, photo.shape)
    return (photo + noise * np.linspace(0.2, 0.02, 300)[:, None]).clip(0, 1), photo


def tensors(pair: tuple[np.ndarray, np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(image).float().permute(2, 0, 1)[None] for image in pair]


BOXES = [(10.0, 20.0, 40.0, 50.0), (30.0, 40.0, 40.0, 50.0), (150.0, 10.0, 120.0, 170.0)]


def mask_by_hand() -> np.ndarray:
    mask = np.zeros((200, 300), bool)
    for x, y, w, h in BOXES:
        mask[int(y) : int(y + h), int(x) : int(x + w)] = True
    return mask


def test_psnr_of_faces_is_over_their_pooled_pixels_each_counted_once(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    mask = mask_by_hand()
    expected = -10 * math.log10(np.square(pair[0] - pair[1])[mask].mean())
    assert masked_psnr(*tensors(pair), box_mask(BOXES, 200, 300)) == pytest.approx(expected, 1e-5)


def test_ssim_of_faces_is_over_the_map_of_the_whole_photo(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    _, full = structural_similarity(
        *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1,
        channel_axis=-1, full=True,
    )  # fmt: skip
    inner = (slice(5, -5), slice(5, -5))
    expected = full.mean(-1)[inner][mask_by_hand()[inner]].mean()
    found = masked_ssim(ssim_map(*tensors(pair)), box_mask(BOXES, 200, 300))
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_region_at_the_very_edge_has_no_ssim(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert masked_ssim(ssim_map(*tensors(pair)), box_mask([(0, 0, 4, 200)], 200, 300)) is None


def test_boxes_that_stand_out_of_the_photo_are_cut() -> None:
    mask = box_mask([(-5, -5, 10, 10), (8.4, 8.6, 50, 50)], 12, 12)
    expected = np.zeros((12, 12), bool)
    expected[:5, :5] = expected[9:, 8:] = True
    assert np.array_equal(mask.numpy(), expected)


@pytest.mark.parametrize(
    ("height", "name"),
    [(63.9, "faces_small"), (64, "faces_medium"), (159, "faces_medium"), (160, "faces_large")],
)
def test_a_face_belongs_to_a_size_by_its_height(height: float, name: str) -> None:
    assert size_class((0, 0, 500, height)) == name


def test_every_region_has_its_own_figures(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = tensors(pair)
    scores = score_regions(x, y, ssim_map(x, y), BOXES, Measure("lpips", absolute_error))
    assert list(scores) == ["faces", "faces_small", "faces_large", "background"]
    assert [score.faces for score in scores.values()] == [3, 2, 1, 0]
    outside = np.square(pair[0] - pair[1])[~mask_by_hand()].mean()
    assert scores["background"].psnr == pytest.approx(-10 * math.log10(outside), 1e-5)
    assert scores["faces_small"].psnr < scores["faces_large"].psnr
    assert scores["background"].lpips is None
    mean = (2 * scores["faces_small"].lpips + scores["faces_large"].lpips) / 3
    assert scores["faces"].lpips == pytest.approx(mean)


def test_the_distance_of_a_face_is_on_its_square_and_25_percent_more() -> None:
    photo = torch.zeros(1, 3, 200, 200)
    wrong = photo.clone()
    wrong[..., 50:150, 50:150] = 1  # a face of 80 x 60 about (100, 100) has the square 50..150
    inside = score_regions(
        wrong, photo, None, [(60, 70, 80, 60)], Measure("encoder_distance", absolute_error)
    )
    assert inside["faces"].encoder_distance == pytest.approx(2, abs=1e-5)
    assert inside["faces"].lpips is None
    wrong[..., 50:150, 50:60] = 0  # inside the margin alone
    less = score_regions(
        wrong, photo, None, [(60, 70, 80, 60)], Measure("encoder_distance", absolute_error)
    )
    assert less["faces"].encoder_distance == pytest.approx(2 * 0.9, abs=0.02)


@pytest.mark.parametrize("box", [(0, 0, 30, 30), (290, 195, 10, 5), (0, 0, 300, 200)])
def test_squares_are_moved_into_the_photo_and_not_stretched(
    pair: tuple[np.ndarray, np.ndarray], box: tuple[int, int, int, int]
) -> None:
    ramp = torch.arange(300.0).expand(1, 3, 200, 300) / 300
    cut = square(ramp, Box(*box))
    assert cut.shape == (1, 3, PATCH, PATCH)
    side = min(round(1.25 * max(box[2:])), 200)
    assert float(cut[0, 0, 64, -1] - cut[0, 0, 64, 0]) == pytest.approx(side / 300, abs=0.012)


def test_no_faces_no_regions(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = tensors(pair)
    assert score_regions(x, y, None, [], None) == {}


def test_a_face_over_the_whole_photo_leaves_no_background(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = tensors(pair)
    assert list(score_regions(x, y, None, [(0, 0, 300, 200)], None)) == ["faces", "faces_large"]


def test_sharpness_of_a_region_is_of_neighbours_inside_it(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    mask = mask_by_hand()
    energies = []
    for image in pair:
        across = np.diff(image, axis=1)[mask[:, 1:] & mask[:, :-1]]
        down = np.diff(image, axis=0)[mask[1:] & mask[:-1]]
        energies.append(np.square(across).mean() + np.square(down).mean())
    found = sharpness(*tensors(pair), box_mask(BOXES, 200, 300))
    assert found == pytest.approx(energies[0] / energies[1], rel=1e-4)
    assert score_regions(*tensors(pair), None, BOXES, None)["faces"].sharpness == found
    edge = box_mask([(10.0, 10.0, 20.0, 20.0)], 200, 300)
    inside = torch.where(edge, tensors(pair)[1], 0.0)  # the step at the edge does not count
    assert sharpness(inside, tensors(pair)[1], edge) == pytest.approx(1)


def test_a_flat_region_has_no_sharpness() -> None:
    flat = torch.zeros(1, 3, 20, 20)
    assert sharpness(flat, flat, box_mask([(2.0, 2.0, 9.0, 9.0)], 20, 20)) is None
    assert sharpness(flat, flat, box_mask([(2.0, 2.0, 1.0, 1.0)], 20, 20)) is None
