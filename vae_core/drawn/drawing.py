"""Pictures with words: captions, strips, grids and legends, drawn with Pillow alone.

Images are [H, W, 3] in [0, 1]; pictures are Pillow's, in RGB. Nothing here cuts or stretches a
picture: what is smaller than its cell is centred on the background, at its own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import colours

BACKGROUND = (32, 33, 36)
INK = (232, 234, 237)
FAINT = (128, 134, 139)

SPELT = {
    "×": "x",
    "σ": "sigma",
    "μ": "mu",
    "µ": "mu",
    "Δ": "delta",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
}
SPELT |= {"−": "-", "–": "-", "±": "+/-", "∞": "inf", "²": "^2", "…": "...", "°": " deg"}

SMALLEST_TEXT, LARGEST_TEXT = 12, 48  # pixels


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image [H, W, 3] or [H, W, 1] in [0, 1] to a picture; NaN is magenta."""
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"Expected an image [H, W, 3] in [0, 1], got shape {list(image.shape)}.")
    marked = colours.mark_nan(image.detach().float().cpu().expand(-1, -1, 3))
    return Image.fromarray((marked * 255).round().byte().numpy())


def from_pil(picture: Image.Image) -> Tensor:
    """Convert a picture to an image [H, W, 3] in [0, 1], float32."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255


def text_size_for(pictures: Sequence[Image.Image]) -> int:
    """Choose a text size in pixels that is readable when a strip of these is shown small."""
    side = max((max(picture.size) for picture in pictures), default=0)
    return min(max(side // 24, SMALLEST_TEXT), LARGEST_TEXT)


def text(words: str, size: int = 14, ink: tuple[int, int, int] = INK) -> Image.Image:
    """Draw words on the background, as large as they are; a line break begins a new line.

    Pillow's own font knows ASCII: signs such as σ and × are spelt out, the rest becomes "?".
    """
    font, drawable = _font(size), _drawable(words)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = probe.multiline_textbbox((0, 0), drawable or " ", font=font)
    lines = drawable.count("\n") + 1
    extent = round(right - min(left, 0)) + 2, max(round(bottom) + 2, lines * (size + 4))
    picture = Image.new("RGB", extent, BACKGROUND)
    corner = (1 - min(left, 0), 0)
    ImageDraw.Draw(picture).multiline_text(corner, drawable, fill=ink, font=font)
    return picture


def caption(picture: Image.Image, words: str, size: int | None = None) -> Image.Image:
    """Put words above a picture, centred; the result is widened where the words are longer."""
    if not words:
        return picture
    return stack([text(words, size or text_size_for([picture])), picture], gap=4)


def beside(
    pictures: Sequence[Image.Image], captions: Sequence[str] = (), gap: int = 8
) -> Image.Image:
    """Lay pictures side by side in a strip, each with its caption above."""
    return grid(pictures, len(pictures), captions, gap)


def stack(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Lay pictures one under another, centred, with no margin around them."""
    canvas = Image.new("RGB", _extent(pictures, gap), BACKGROUND)
    top = 0
    for picture in pictures:
        canvas.paste(picture, ((canvas.width - picture.width) // 2, top))
        top += picture.height + gap
    return canvas


def grid(
    pictures: Sequence[Image.Image], columns: int, captions: Sequence[str] = (), gap: int = 8
) -> Image.Image:
    """Lay pictures row by row in so many columns, each with its caption above, with a margin.

    A column is as wide as its widest picture or caption, a row as high as its highest.
    """
    if not pictures or columns < 1:
        raise ValueError(f"Expected pictures and columns, got {len(pictures)} and {columns}.")
    size = text_size_for(pictures)
    labels = [text(words, size) if words else None for words in captions]
    labels += [None] * (len(pictures) - len(labels))
    cells = [_cell(p, label) for p, label in zip(pictures, labels, strict=True)]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    widths = [max(c.width for c in cells[i::columns]) for i in range(min(columns, len(cells)))]
    heights = [(max(c.label for c in row), max(c.picture.height for c in row)) for row in rows]
    canvas = Image.new("RGB", (_spread(widths, gap), _spread(map(sum, heights), gap)), BACKGROUND)
    top = gap
    for row, (head, body) in zip(rows, heights, strict=True):
        left = gap
        for cell, width in zip(row, widths[: len(row)], strict=True):
            _paste_cell(canvas, cell, (left, top), (width, head, body))
            left += width + gap
        top += head + body + gap
    return canvas


def legend(kind: str, low: float, high: float, unit: str, height: int) -> Image.Image:
    """Draw an upright colour bar of this height in pixels, with numbers and the unit above it.

    `kind` is "sequential" or "diverging"; `low` is the number at the bottom, `high` at the top.
    """
    if kind not in colours.KINDS:
        raise ValueError(f"Expected a map among {', '.join(colours.KINDS)}, got {kind!r}.")
    size = min(max(height // 24, SMALLEST_TEXT), LARGEST_TEXT)
    title = text(unit, size, FAINT)
    length = max(height - title.height - 2 * size, 2 * size)  # room for a number at both ends
    ticks = min(max(length // (3 * size), 1), 4)
    shares = [i / ticks for i in range(ticks + 1)]
    numbers = [text(f"{low + (high - low) * share:.3g}", size) for share in shares]
    width = max(title.width, 2 * size + max(n.width for n in numbers))
    top = title.height + size
    canvas = Image.new("RGB", (width, max(height, top + length + size)), BACKGROUND)
    canvas.paste(title, (0, 0))
    canvas.paste(_bar(kind, size, length), (0, top))
    draw = ImageDraw.Draw(canvas)
    for share, number in zip(shares, numbers, strict=True):
        y = top + round((1 - share) * (length - 1))
        draw.line([(size, y), (size + size // 3, y)], fill=FAINT)
        canvas.paste(number, (2 * size - size // 4, y - number.height // 2))
    return canvas


def _bar(kind: str, width: int, length: int) -> Image.Image:
    """Draw the colours of a map, the highest at the top."""
    values = torch.linspace(1, 0, length)
    mapped = (
        colours.sequential(values) if kind == "sequential" else colours.diverging(values * 2 - 1)
    )
    return to_pil(mapped.unsqueeze(1).expand(-1, width, -1))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Load Pillow's own font; before Pillow 10.1 it has one size."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def _drawable(words: str) -> str:
    """Spell out what Pillow's own font lacks; other signs and control characters become "?"."""
    spelt = "".join(SPELT.get(c, c) for c in words)
    return "".join(c if c == "\n" or " " <= c <= "~" else "?" for c in spelt)


class _Cell(NamedTuple):
    """A picture of a grid and its caption, drawn."""

    picture: Image.Image
    words: Image.Image | None
    width: int
    label: int  # height of the caption and the space under it


def _cell(picture: Image.Image, words: Image.Image | None) -> _Cell:
    if words is None:
        return _Cell(picture, None, picture.width, 0)
    return _Cell(picture, words, max(picture.width, words.width), words.height + 4)


def _paste_cell(
    canvas: Image.Image, cell: _Cell, corner: tuple[int, int], room: tuple[int, int, int]
) -> None:
    """Put a cell at (left, top) into a room of (width, height of captions, of pictures)."""
    (left, top), (width, head, body) = corner, room
    if cell.words:
        canvas.paste(cell.words, (left + (width - cell.words.width) // 2, top))
    picture = cell.picture
    spare = (width - picture.width) // 2, (body - picture.height) // 2
    canvas.paste(picture, (left + spare[0], top + head + spare[1]))


def _extent(pictures: Sequence[Image.Image], gap: int) -> tuple[int, int]:
    height = sum(p.height for p in pictures) + gap * (len(pictures) - 1)
    return max(p.width for p in pictures), height


def _spread(sides: Iterable[int], gap: int) -> int:
    """Add up sides with a gap between them and a margin around them."""
    sides = list(sides)
    return sum(sides) + gap * (len(sides) + 1)
