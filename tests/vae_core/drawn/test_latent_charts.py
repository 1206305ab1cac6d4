"""Charts of latents: where their lines lie, and that no latent breaks them."""

import math

import pytest
import torch

from vae_core.drawn import chart_frame, latent_charts
from vae_core.drawn.chart_frame import Plane, ticks
from vae_core.drawn.drawing import from_pil
from vae_core.inspect.projection import project_items


def latent(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)) * scale


def places_of(picture: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """Rows and columns whose pixels have a colour, [N, 2]."""
    return ((picture * 255 - torch.tensor(colour)).abs() < 1.5).all(-1).nonzero()


def test_a_histogram_shows_the_density_at_its_height() -> None:
    z = latent(1, 1, 256, 256)
    low, high = latent_charts.histogram_range(z, 1)
    assert (low, high) == (-3.5, 3.5)
    picture = from_pil(latent_charts.histogram_chart(z, 1, ""))
    area = places_of(picture, latent_charts.AREA)
    peak = float(latent_charts.histogram(z, low, high, latent_charts.BINS).max())
    plane = Plane(low, high, 0, 1.05 * max(peak, latent_charts.NORMAL_PEAK))
    for x in (-1.5, 1.0, 1.8):
        across, down = plane.at(x, math.exp(-x * x / 2) / math.sqrt(2 * math.pi))
        top = area[area[:, 1] == round(across)][:, 0].min().item()
        assert top == pytest.approx(down, abs=22)  # pixels: the noise of a bin, and the lines


def test_the_range_follows_the_values_and_takes_in_the_normal() -> None:
    low, high = latent_charts.histogram_range(latent(1, 4, 64, 64, scale=5), 1)
    assert low < -11.6 and high > 11.6
    assert latent_charts.histogram_range(latent(1, 4, 64, 64, scale=0.01), 1) == (-3.5, 3.5)
    low, high = latent_charts.histogram_range(latent(1, 4, 64, 64, scale=1e5), 1)
    assert low < -2e5
    low, high = latent_charts.histogram_range(torch.full((1, 1, 2, 2), 1e4), 1)
    assert low < 1e4 < high and low > 9e3


HARD = [
    torch.full((1, 1, 1, 1), math.nan),
    torch.zeros(1, 4, 2, 2),
    torch.full((2, 4, 2, 2), -1e30),
    torch.tensor([3e38, -3e38, math.inf, 0]).view(1, 4, 1, 1),
    torch.full((1, 1, 2, 2), 1e-30),
    latent(2, 40, 3, 2, 2),
]


@pytest.mark.parametrize("z", HARD, ids=range(len(HARD)))
def test_no_latent_breaks_a_chart(z) -> None:
    assert latent_charts.histogram_chart(z, 1, "title").size == chart_frame.SIZE
    pair = torch.cat([z, z * 0.5])
    assert latent_charts.map_chart(project_items(pair), "title").size == chart_frame.SIZE


def test_a_map_shows_every_item_where_it_lies() -> None:
    z = torch.zeros(3, 2, 1, 1)
    z[1, 0], z[2, 1] = 4.0, 2.0
    found = project_items(z)
    picture = latent_charts.map_chart(found, "title")
    xs, ys = found.places.unbind(1)
    plane = latent_charts._square_plane(xs.tolist(), ys.tolist())
    for x, y in found.places.tolist():
        across, down = plane.at(x, y)
        assert max(picture.getpixel((round(across), round(down)))) > 120
    a, b, c = (torch.tensor(plane.at(x, y)) for x, y in found.places.tolist())
    assert ((a - b).norm() / (a - c).norm()).item() == pytest.approx(2, rel=1e-6)


def test_axes_of_a_map_have_one_scale() -> None:
    plane = latent_charts._square_plane([0, 10], [0, 1])
    origin, right, up = (torch.tensor(plane.at(*p)) for p in ((0, 0), (1, 0), (0, 1)))
    assert (right - origin).norm().item() == pytest.approx((up - origin).norm().item())


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 8, list(range(9))), (-3.5, 3.5, [-3, -2, -1, 0, 1, 2, 3]), (0, 1, [0, 0.2, 0.4, 0.6])],
)
def test_ticks_are_round(low, high, expected) -> None:
    assert ticks(low, high)[: len(expected)] == pytest.approx(expected)
    assert 2 <= len(ticks(low, high)) <= 9


def test_line_colours_are_told_apart() -> None:
    inks = torch.tensor(latent_charts.line_colours(8)).float()
    assert torch.cdist(inks, inks).add(torch.eye(8) * 999).min() > 20


def test_a_table_has_all_its_cells() -> None:
    picture = latent_charts.table_chart([("a", "b"), ("long words", "1")], "title")
    assert picture.width > 100 and picture.height > 60


def test_a_message_stands_where_no_chart_can() -> None:
    picture = chart_frame.message_chart("title", "The map needs 2 items.")
    assert picture.size == chart_frame.SIZE
    assert len(places_of(from_pil(picture), (232, 234, 237))) > 20


@pytest.mark.parametrize("points", [([0, 10], [0, 1]), ([0, 1], [0, 10]), ([3, 3], [-1, 1])])
def test_every_point_of_a_map_lies_inside_its_frame(points) -> None:
    plane = latent_charts._square_plane(*points)
    for x, y in zip(*points, strict=True):
        assert plane.left < x < plane.right and plane.bottom < y < plane.top
