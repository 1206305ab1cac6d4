"""Shapes that are no digits, drawn as coarse as the digits are and with as much ink."""

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from trainer.textbook_vae.digits import enlarged

CANVAS = 224  # pixels a side that shapes are drawn on before they are reduced
STROKES = range(14, 74, 6)  # pixels: the widths among which ink is matched

Points = list[tuple[float, float]]


def _around(corners: int, inner: float = 1.0) -> Points:
    """Give corners on a circle of radius 1, every second one drawn in to `inner`."""
    turns = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
    radii = [inner if i % 2 else 1.0 for i in range(corners)]
    return [(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)]


SQUARE = [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
# strokes of each shape, as lines through points in [-1, 1]
SHAPES: dict[str, list[Points]] = {
    "square": [[*SQUARE, SQUARE[0]]],
    "triangle": [[*_around(3), _around(3)[0]]],
    "star": [[*_around(10, 0.45), _around(10, 0.45)[0]]],
    "cross": [[(-0.9, -0.9), (0.9, 0.9)], [(-0.9, 0.9), (0.9, -0.9)]],
    "plus": [[(-1, 0), (1, 0)], [(0, -1), (0, 1)]],
    "stripes": [[(-0.9, y), (0.9, y)] for y in (-0.8, 0.0, 0.8)],
    "arrow": [[(-1, 0), (1, 0)], [(0.3, -0.7), (1, 0), (0.3, 0.7)]],
    "zigzag": [[(-1, 0.6), (-0.5, -0.6), (0, 0.6), (0.5, -0.6), (1, 0.6)]],
}


def draw_shapes(digits: Tensor, side: int, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Draw a shape for each digit [N, 784], kinds in turn: [N, 784] in [0, 1], and the kinds.

    `side`: the pixels a side that the digits came with, to which shapes are reduced before they
    are enlarged as the digits were. Place and size are drawn from the seed; the stroke is as wide
    as gives the digit's own ink, else ink alone would tell them apart.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = [list(SHAPES)[i % len(SHAPES)] for i in range(len(digits))]
    inks = digits.mean(1).tolist()
    drawn = [
        _draw(SHAPES[kind], side, ink, generator) for kind, ink in zip(kinds, inks, strict=True)
    ]
    return enlarged(np.stack(drawn)), kinds


def _draw(strokes: list[Points], side: int, ink: float, generator: torch.Generator) -> np.ndarray:
    """Draw a shape whose mean level is next to `ink`, a share of white."""
    size, x, y = torch.rand(3, generator=generator).tolist()
    radius = CANVAS * (0.28 + 0.1 * size)
    place = _placing(radius, CANVAS / 2 + 16 * (x - 0.5), CANVAS / 2 + 16 * (y - 0.5))
    lines = [[place(point) for point in stroke] for stroke in strokes]
    drawn = [_inked(lines, side, width) for width in STROKES]
    return min(drawn, key=lambda levels: abs(levels.mean() / 255 - ink))


def _inked(lines: list[Points], side: int, width: int) -> np.ndarray:
    canvas = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(canvas)
    for points in lines:
        pen.line(points, fill=255, width=width, joint="curve")
    return np.array(canvas.resize((side, side), Image.BOX))


def _placing(
    radius: float, x: float, y: float
) -> Callable[[tuple[float, float]], tuple[float, float]]:
    return lambda point: (x + radius * point[0], y + radius * point[1])
