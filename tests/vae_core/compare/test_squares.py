"""The square around a box stays in the picture and keeps the box in its middle where it can."""

import pytest

from vae_core.compare.squares import Square, square_around


@pytest.mark.parametrize(
    ("box", "margin", "size", "expected"),
    [
        ((40, 20, 20, 10), 1.0, (100, 100), Square(40, 15, 20)),
        ((40, 20, 20, 10), 1.5, (100, 100), Square(35, 10, 30)),
        ((0, 0, 10, 20), 2.0, (100, 100), Square(0, 0, 40)),
        ((90, 95, 10, 5), 1.0, (100, 100), Square(90, 90, 10)),
        ((0, 0, 50, 80), 2.0, (90, 60), Square(0, 10, 60)),
        ((3, 4, 0.2, 0.2), 1.0, (10, 10), Square(3, 4, 1)),
    ],
)
def test_squares(box, margin, size, expected) -> None:
    found = square_around(box, margin, *size)
    assert found == expected
    assert found.right <= size[1] and found.bottom <= size[0]
