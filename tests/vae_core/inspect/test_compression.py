"""Values and bytes of pictures and latents, counted by hand."""

import math

import pytest

from vae_core.inspect import compression
from vae_core.inspect.compression import Row, square, table


def test_stable_diffusion_by_hand() -> None:
    row = square(512, 8, 4)
    assert (row.pixel_values, row.latent_values) == (786_432, 16_384)
    assert (row.bytes32, row.bytes16) == (65_536, 32_768)
    assert row.ratios == (48, 12, 24)


@pytest.mark.parametrize(
    ("ratio", "channels", "expected"),
    [(8, 4, 48), (8, 16, 12), (4, 3, 16), (32, 128, 24), (1, 3, 1)],
)
def test_the_ratio_is_the_vae_s(ratio, channels, expected) -> None:
    rows = table(ratio, channels)
    assert [row.ratios[0] for row in rows] == [expected] * 5
    assert [row.ratios[1] for row in rows] == [expected / 4] * 5


def test_a_side_that_is_no_multiple_is_cropped_as_core_does() -> None:
    row = square(256, 14, 8)
    assert (row.pixel_values, row.latent_values) == (3 * 252**2, 8 * 18**2)
    assert "cropped to 252" in row.name


def test_an_unknown_ratio_is_not_made_up() -> None:
    row = Row("this latent", None, 16_384)
    assert all(math.isnan(ratio) for ratio in row.ratios)
    text = "\n".join(compression.lines([row]))
    assert "not known" in text and "65,536" in text
    assert "x)" not in text and "nan" not in text


def test_lines_name_sizes_and_ratios() -> None:
    lines = compression.lines(table(8, 4))
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert lines[2].startswith("512 x 512 px")
    for part in ("786,432", "16,384 (48x)", "65,536 (12x)", "32,768 (24x)"):
        assert part in lines[2]
    assert "2048 x 2048 px" in lines[5]
