"""Colour maps: the order of values survives, NaN is seen, OKLab is the published one."""

import pytest
import torch

from vae_core.drawn import colours

# OKLab of the corners of sRGB, as CSS Color 4's test suite has them
KNOWN = {
    (1.0, 1.0, 1.0): (1.0, 0.0, 0.0),
    (1.0, 0.0, 0.0): (0.62796, 0.22486, 0.12585),
    (0.0, 1.0, 0.0): (0.86644, -0.23389, 0.17950),
    (0.0, 0.0, 1.0): (0.45201, -0.03246, -0.31153),
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("rgb", KNOWN)
def test_oklab_as_published(rgb: tuple[float, ...]) -> None:
    lab = colours.oklab(torch.tensor(rgb))
    torch.testing.assert_close(lab, torch.tensor(KNOWN[rgb]), atol=2e-4, rtol=0)


def test_oklab_and_back() -> None:
    image = torch.rand(7, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(colours.srgb(colours.oklab(image)), image, atol=1e-4, rtol=0)


def test_sequential_map_rises_in_lightness() -> None:
    lightness = colours.oklab(colours.sequential(torch.linspace(0, 1, 256)))[:, 0]
    assert (lightness.diff() > 0).all()
    assert lightness[0] < 0.2 and lightness[-1] > 0.95


def test_diverging_map_is_grey_at_zero_and_equally_dark_on_both_sides() -> None:
    mapped = colours.diverging(torch.linspace(-1, 1, 257))
    lightness = colours.oklab(mapped)[:, 0]
    assert mapped[128].max() - mapped[128].min() < 1 / 255
    torch.testing.assert_close(lightness, lightness.flip(0), atol=5e-3, rtol=0)
    assert (lightness[:129].diff() > 0).all()
    assert mapped[0].argmax() == 2 and mapped[-1].argmax() == 0  # blue below, red above


@pytest.mark.parametrize("colour", [colours.sequential, colours.diverging])
def test_maps_of_strange_values(colour) -> None:  # noqa: ANN001
    values = torch.tensor([[float("nan"), float("inf")], [-float("inf"), 5.0]])
    before = values.clone()
    mapped = colour(values)
    assert mapped.shape == (2, 2, 3)
    assert mapped[0, 0].tolist() == list(colours.NAN_COLOUR)
    assert torch.equal(mapped[0, 1], mapped[1, 1])
    assert torch.equal(mapped[1, 0], colour(torch.tensor(-1.0)))
    torch.testing.assert_close(values, before, equal_nan=True)


def test_maps_of_half_precision_and_of_nothing() -> None:
    assert colours.sequential(torch.rand(3, dtype=torch.float16)).dtype == torch.float32
    assert colours.sequential(torch.zeros(0, 4)).shape == (0, 4, 3)


def test_nan_is_marked_in_the_whole_pixel() -> None:
    image = torch.tensor([[0.5, float("nan"), 0.5], [2.0, -1.0, 0.5]])
    assert colours.mark_nan(image).tolist() == [[1.0, 0.0, 1.0], [1.0, 0.0, 0.5]]
