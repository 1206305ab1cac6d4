"""What benchmarks/tile_pictures.py measures and draws; ComfyUI itself has no part in it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.tile_pictures import EXACT, TILED, WHOLE, compared, difference, opened, sheet


@pytest.fixture
def truth() -> torch.Tensor:
    """A picture [1, 128, 192, 3] of middling values."""
    return 0.3 + 0.4 * torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(0))


def test_a_shift_of_one_square_is_found_where_the_mean_hides_it(truth: torch.Tensor) -> None:
    shifted = truth.clone()
    shifted[:, 64:, 64:128, 1] += 3 / 255
    shifted[:, 64:, 128:, 1] -= 3 / 255
    whole, tiled = compared("decode", truth, {WHOLE: truth, TILED: shifted})
    assert tiled["shift to whole"] == "+0.00 +0.00 +0.00"
    assert tiled["square"] == pytest.approx(3, abs=1e-4)
    assert tiled["largest"] == pytest.approx(3, abs=1e-4)
    assert tiled["dB to whole"] == pytest.approx(tiled["dB to photo"]) == pytest.approx(48.1, abs=1)
    assert whole["square"] == 0 and whole["dB to whole"] is None


def test_errors_are_enlarged_around_grey(truth: torch.Tensor) -> None:
    shown = difference(truth + 2 / 255, truth, 10)
    assert shown.shape == truth.shape[1:]
    torch.testing.assert_close(shown, torch.full_like(shown, 0.5 + 20 / 255), atol=1e-5, rtol=0)
    assert (difference(truth, truth, 10) == 0.5).all()


def test_the_sheet_has_a_column_for_each_way(truth: torch.Tensor) -> None:
    two = sheet(truth[0][None], {WHOLE: truth, EXACT: truth}, 10)
    three = sheet(truth[0][None], {WHOLE: truth, TILED: truth, EXACT: truth}, 10)
    assert three.width > 1.4 * two.width and three.height == two.height


def test_a_photo_is_brought_to_the_size_that_is_asked_for(tmp_path: Path) -> None:
    Image.new("L", (40, 30), 255).save(tmp_path / "photo.png")
    photo = opened(tmp_path / "photo.png", 64)
    assert photo.shape == (1, 64, 64, 3) and photo.min() == 1
