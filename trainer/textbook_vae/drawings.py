"""Pictures of digits in rows with words, and of points in a plane by their class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from trainer.textbook_vae.digits import SIDE
from vae_core.drawn import drawing

GAP = 2  # pixels between digits
ZOOM = 2  # times that a digit's pixels are repeated, where there is room


class Row(NamedTuple):
    """Words, and the digits beside them: [n, 784] in [0, 1]."""

    words: str
    digits: Tensor


def strip(digits: Tensor, columns: int | None = None, zoom: int = ZOOM) -> Image.Image:
    """Lay digits [n, 784] in [0, 1] side by side, or in rows of so many columns; ink is white."""
    levels = (digits.clamp(0, 1) * 255).round().byte().view(-1, SIDE, SIDE).numpy()
    columns = columns or len(levels)
    step = SIDE + GAP
    canvas = np.full((-(-len(levels) // columns) * step - GAP, columns * step - GAP), 64, np.uint8)
    for i, level in enumerate(levels):
        top, left = i // columns * step, i % columns * step
        canvas[top : top + SIDE, left : left + SIDE] = level
    picture = Image.fromarray(canvas).convert("RGB")
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.NEAREST)


def sheet(rows: Sequence[Row]) -> Image.Image:
    """Lay rows of digits under each other, their words on the left."""
    cells = [cell for row in rows for cell in (drawing.text(row.words), strip(row.digits))]
    return drawing.grid(cells, 2)


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Tensor]]]) -> Image.Image:
    """Lay groups of digits in a table: words, then a strip per head; heads above."""
    cells = [
        cell
        for words, groups in rows
        for cell in (drawing.text(words), *(strip(digits, zoom=1) for digits in groups))
    ]
    return drawing.grid(cells, len(heads) + 1, ["", *heads], gap=6)


def save(picture: Image.Image, path: Path) -> Path:
    """Write a picture as PNG in greys, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("L").save(path, optimize=True)
    return path


def scatter(panels: Sequence[tuple[str, Tensor, Tensor]], columns: int, path: Path) -> Path:
    """Draw points [N, 2] in the colour of their class [N], a panel per (title, points, classes)."""
    from matplotlib.figure import Figure  # here, as it takes a second; and without a display

    rows = -(-len(panels) // columns)
    side = 4.6 if len(panels) == 1 else 2.8  # inches
    size = (side * columns + 0.7, side * rows)
    figure = Figure(figsize=size, dpi=80, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, points, classes) in zip(axes, panels, strict=False):
        dots = axis.scatter(*points.T.numpy(), c=classes.numpy(), cmap="tab10", s=8, vmin=0, vmax=9)
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal", adjustable="datalim")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    _name_classes(figure, dots)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _name_classes(figure: Any, dots: Any) -> None:
    handles, _ = dots.legend_elements(num=list(range(10)))
    figure.legend(handles, range(10), loc="outside right center", frameon=False)
