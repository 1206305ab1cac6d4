"""Drawing: pictures keep their pixels, words fit, numbers stand at a legend."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from vae_core.drawn import colours, drawing


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def contains(whole: Image.Image, part: Image.Image) -> bool:
    """Whether a picture stands in another, pixel for pixel."""
    big, small = np.asarray(whole), np.asarray(part)
    height, width = small.shape[:2]
    tops, lefts = np.nonzero((big == small[0, 0]).all(-1))
    return any(
        np.array_equal(big[top : top + height, left : left + width], small)
        for top, left in zip(tops, lefts, strict=True)
    )


def test_images_survive_the_way_to_pillow_and_back() -> None:
    image = torch.randint(0, 256, (9, 7, 3), generator=torch.Generator().manual_seed(0)) / 255
    assert torch.equal(drawing.from_pil(drawing.to_pil(image)), image)
    assert drawing.to_pil(image).size == (7, 9)


def test_nan_is_magenta_and_the_rest_is_clamped() -> None:
    image = torch.tensor([[[0.2, float("nan"), 0.2], [2.0, -1.0, float("inf")]]])
    assert drawing.from_pil(drawing.to_pil(image)).tolist() == [[[1, 0, 1], [1, 0, 1]]]


def test_wrong_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected an image \[H, W, 3\].*\[3, 4, 5\]"):
        drawing.to_pil(torch.zeros(3, 4, 5))


def test_a_strip_holds_every_picture_whole() -> None:
    pictures = [picture(40, 30), picture(8, 90, 1), picture(200, 3, 2), picture(1, 1, 3)]
    strip = drawing.beside(pictures, ["original", "a caption far longer than it", "", "c"])
    assert all(contains(strip, p) for p in pictures)
    assert contains(strip, drawing.text("original", drawing.text_size_for(pictures)))


@pytest.mark.parametrize("columns", [1, 2, 3, 9])
def test_a_grid_holds_every_picture_whole(columns: int) -> None:
    pictures = [picture(20 + 7 * i, 50 - 9 * i, i) for i in range(5)]
    assert all(contains(drawing.grid(pictures, columns, ["x"]), p) for p in pictures)
    assert all(contains(drawing.stack(pictures), p) for p in pictures)
    assert contains(drawing.caption(pictures[0], "one"), pictures[0])


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected pictures and columns, got 0 and 2"):
        drawing.grid([], 2)


def test_words_are_drawn_inside_their_picture() -> None:
    drawn = np.asarray(drawing.text("gQ|", 24)).astype(int)
    border = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
    assert np.abs(drawn - drawing.BACKGROUND).max() > 100
    assert np.abs(border - drawing.BACKGROUND).max() < 60
    assert drawing.text("two\nlines", 24).height > drawing.text("two", 24).height


@pytest.mark.parametrize(
    "words", ["", "σ × 2 → ∞", "脸部", "a\tb\x00\x1b[31m", "\u202e<img src=x>"]
)
@pytest.mark.parametrize("old_pillow", [False, True])
def test_any_words_can_be_drawn(words: str, old_pillow: bool, monkeypatch) -> None:  # noqa: ANN001
    """Pillow before 10.1 has only the font that takes no size."""
    if old_pillow:
        plain = ImageFont.load_default_imagefont()
        monkeypatch.setattr(drawing.ImageFont, "load_default", lambda: plain)
    assert min(drawing.text(words).size) >= 1
    assert min(drawing.legend("diverging", -1, 1, words, 100).size) >= 1


def test_signs_that_the_font_lacks_are_spelt_out() -> None:
    assert drawing.text("2 × σ").tobytes() == drawing.text("2 x sigma").tobytes()


@pytest.mark.parametrize("kind", colours.KINDS)
@pytest.mark.parametrize("height", [100, 512, 2048])
def test_a_legend_has_its_height_and_its_colours(kind: str, height: int) -> None:
    drawn = drawing.legend(kind, -1.0, 1.0, "dB", height)
    column = drawing.from_pil(drawn)[:, 2]
    top, bottom = getattr(colours, kind)(torch.tensor([1.0, -1.0 if kind == "diverging" else 0.0]))
    assert drawn.height == height
    rows = [(column - end).abs().amax(1).argmin().item() for end in (top, bottom)]
    assert (column[rows] - torch.stack([top, bottom])).abs().max() < 0.01
    assert rows[0] < height / 3 and rows[1] > height * 2 / 3


def test_a_legend_of_an_unknown_map_is_refused() -> None:
    with pytest.raises(ValueError, match="sequential, diverging, got 'jet'"):
        drawing.legend("jet", 0, 1, "", 100)
