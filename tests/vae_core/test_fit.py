"""Pictures whose sides are no multiple of the ratio: nothing lost, nothing invented."""

import pytest
import torch

from vae_core.fit import cut, describe_window, padded


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (1, 7), (16, 5)])
@pytest.mark.parametrize("multiple", [1, 8])
def test_padding_is_cut_off_again(size: tuple[int, int], multiple: int) -> None:
    images = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    grown, window = padded(images, multiple)
    assert all(side % multiple == 0 for side in grown.shape[1:3])
    assert torch.equal(cut(grown, window), images)
    assert grown.shape[1] - size[0] < multiple and grown.shape[2] - size[1] < multiple


def test_padding_repeats_the_edges() -> None:
    images = torch.arange(6.0).view(1, 2, 3, 1)
    grown, window = padded(images, 4)
    assert window == (1, 0, 2, 3)
    rows = [[0, 1, 2, 2], [0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert grown[0, ..., 0].tolist() == rows


@pytest.mark.parametrize("window", [(0, 0, 9, 8), (1, 0, 8, 8), (0, 5, 8, 4), (-1, 0, 4, 4)])
def test_a_window_beyond_the_picture_is_refused(window) -> None:
    with pytest.raises(ValueError, match="got 8 x 8"):
        cut(torch.zeros(1, 8, 8, 3), window)


def test_a_window_is_told_in_words() -> None:
    assert describe_window((0, 0, 5, 7), 5, 7) == "all 7 x 5 pixels"
    assert "columns 2 to 5 and rows 1 to 3" in describe_window((1, 2, 3, 4), 8, 8)
