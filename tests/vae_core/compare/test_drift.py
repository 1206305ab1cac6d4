"""Drift over round trips: figures against scikit-image and numpy, texts that can be read back."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from vae_core.compare import drift
from vae_core.drawn.drift_chart import ORIGINAL, chart, span


def pictures(seed: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 9, 7, 3, generator=torch.Generator().manual_seed(seed))


def bytes_of(images: torch.Tensor) -> np.ndarray:
    return np.round(images.clamp(0, 1).numpy() * 255).astype(np.uint8)


def test_figures_are_those_of_8_bit_files() -> None:
    """Oracle: scikit-image on bytes, and numpy's means of them."""
    original, previous, current = (pictures(seed) for seed in range(3))
    trip = drift.measure_trip(original, previous, current)
    for item in range(2):
        y, before, x = (bytes_of(images[item]) for images in (original, previous, current))
        assert trip.psnr[item] == pytest.approx(peak_signal_noise_ratio(y, x), abs=1e-4)
        near = peak_signal_noise_ratio(before, x)
        assert trip.psnr_previous[item] == pytest.approx(near, abs=1e-4)
        apart = x.astype(float) / 255 - y.astype(float) / 255
        assert trip.mae[item] == pytest.approx(np.abs(apart).mean(), abs=1e-6)
        assert trip.shift[item] == pytest.approx(apart.mean((0, 1)), abs=1e-6)
    assert trip.not_finite == [0, 0]


def test_equal_pictures_are_infinitely_near() -> None:
    images = pictures(0)
    trip = drift.measure_trip(images, images, images)
    assert trip.psnr == [math.inf] * 2 and drift.mean_psnr(trip) == math.inf


def test_a_picture_without_a_number_is_counted_and_spoils_only_itself() -> None:
    current = pictures(1)
    current[1, 0, 0] = torch.tensor([math.nan, math.inf, 0.5])
    trip = drift.measure_trip(pictures(0), pictures(0), current)
    assert trip.not_finite == [0, 2]
    assert math.isfinite(trip.psnr[0]) and math.isnan(trip.psnr[1])
    assert math.isnan(drift.mean_psnr(trip))
    assert "warning: from trip 1 on there are values that are NaN: 2" in drift.in_words([trip])[-1]


def test_cutting_off_is_what_save_image_writes() -> None:
    """Oracle: the expression in ComfyUI's nodes.py, SaveImage."""
    images = pictures(3) * 1.2 - 0.1
    written = np.clip(255.0 * images.numpy(), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(drift.cut_off(images).numpy() * 255, written)
    assert drift.cut_off(images).mean() < drift.rounded(images).mean() - 0.3 / 255


def test_rounding_keeps_every_level_and_what_is_rounded() -> None:
    levels = torch.arange(256) / 255
    assert torch.equal(drift.rounded(levels), levels)
    np.testing.assert_array_equal(drift.rounded(pictures(4)).numpy() * 255, bytes_of(pictures(4)))


def test_cutting_off_keeps_what_a_file_held() -> None:
    """A picture that was read from 8 bits must not lose a level by being written again."""
    levels = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(drift.cut_off(drift.cut_off(levels)), drift.cut_off(levels))


def test_each_trip_has_a_seed_of_its_own() -> None:
    seeds = {drift.trip_seed(seed, trip) for seed in (0, 1, 2**64 - 1) for trip in range(1, 65)}
    assert len(seeds) == 3 * 64 and max(seeds) < 2**64
    assert drift.trip_seed(7, 1) == 7 and drift.trip_seed(7, 2) == drift.trip_seed(7, 2)


def test_the_table_has_a_row_per_trip_and_picture() -> None:
    original = pictures(0)
    trips = [drift.measure_trip(original, original, pictures(seed)) for seed in (0, 1, 2)]
    rows = list(csv.DictReader(io.StringIO(drift.to_csv(trips))))
    assert [(row["trip"], row["image"]) for row in rows] == [
        (str(trip), str(image)) for trip in (1, 2, 3) for image in (1, 2)
    ]
    assert rows[0]["psnr_original"] == ""  # equal pictures
    assert float(rows[5]["psnr_original"]) == pytest.approx(trips[2].psnr[1], rel=1e-6)
    assert float(rows[4]["shift_blue"]) == pytest.approx(trips[2].shift[0][2], rel=1e-6)


def test_words_name_the_first_and_the_last_trip() -> None:
    trips = [drift.measure_trip(pictures(0), pictures(0), pictures(seed)) for seed in (1, 2, 3)]
    first, last = drift.in_words(trips)
    assert first.startswith(f"after trip 1: PSNR {drift.mean_psnr(trips[0]):.2f} dB")
    assert last.startswith("after trip 3: ") and "red " in last


def test_the_chart_draws_higher_what_is_nearer() -> None:
    picture = np.asarray(chart([30.0, 25.0, 20.0], [30.0, math.nan, math.inf]))
    rows, columns = np.nonzero(
        (picture == ORIGINAL).all(-1) & (np.arange(len(picture)) > 60)[:, None]
    )
    left, right = columns < columns.mean(), columns > columns.mean()
    assert rows[left].mean() < rows[right].mean() - 50


def test_the_chart_takes_what_has_no_number() -> None:
    assert chart([math.nan], [math.inf]).size[0] >= 512
    assert span([math.nan, math.inf]) == (0.0, 4.0)
    assert span([20.2, 20.4, math.inf]) == (20.0, 24.0)
    assert span([-3.5, 31.0]) == (-4.0, 32.0)
    assert chart([31.0] * 64, [40.0] * 64).mode == "RGB"
