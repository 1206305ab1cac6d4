"""Charts of latents: the histogram of their values, the map of a batch, and a table.

All channels share one set of axes; nothing is left out without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..inspect.inspection import histogram
from ..inspect.projection import Projection
from . import colours
from .chart_frame import (
    MARGINS,
    SIZE,
    Colour,
    Plane,
    blank,
    label,
    list_keys,
    message_chart,
    reduced,
    write,
)
from .drawing import BACKGROUND, FAINT, INK, text
from .latent_pictures import value_range

BINS = 96
NORMAL_PEAK = 1 / math.sqrt(2 * math.pi)
NORMAL_REACH = 3.5  # standard deviations of N(0, 1) that are shown beside a latent of like size
NAMED_LINES = 16
NAMED_POINTS = 40
AREA = (74, 78, 84)
DASH = 16  # pixels of the larger canvas


def histogram_range(latent: Tensor, clip: float) -> tuple[float, float]:
    """Choose a histogram's range: the percentile range, a quarter wider at each end.

    It takes in N(0, 1) unless the latent's values lie on quite another scale.
    """
    low, high = value_range(latent, clip)
    width = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-6)
    low, high = low - width / 4, high + width / 4
    if high - low < 100 and low < NORMAL_REACH and high > -NORMAL_REACH:
        return min(low, -NORMAL_REACH), max(high, NORMAL_REACH)
    return low, high


def histogram_chart(latent: Tensor, clip: float, title: str) -> Image.Image:
    """Draw the densities of [B, C, ...]: all values as an area, channels as lines, N(0, 1) dashed.

    `clip` is the percentage of values left out of the range at each end, before it is widened.
    """
    low, high = histogram_range(latent, clip)
    lines = histogram(latent, low, high, BINS)
    whole = histogram(latent.reshape(1, 1, -1), low, high, BINS)[0]
    peak = float(torch.cat([lines.flatten(), whole]).max())
    # N(0, 1) would press a much flatter latent to the ground: then its tip is left out
    plane = Plane(low, high, 0, 1.05 * max(peak, min(NORMAL_PEAK, 6 * peak)) or 1.0)
    canvas, draw = blank()
    centres = [low + (index + 0.5) * (high - low) / BINS for index in range(BINS)]
    area = [(low, 0), *zip(centres, whole.tolist(), strict=True), (high, 0)]
    draw.polygon([plane.zoomed(x, y) for x, y in area], fill=AREA)
    inks = line_colours(len(lines))
    for densities, ink in zip(lines.tolist(), inks, strict=True):
        points = [plane.zoomed(x, y) for x, y in zip(centres, densities, strict=True)]
        draw.line(points, fill=ink, width=3, joint="curve")
    _draw_normal(draw, plane)
    picture = reduced(canvas)
    label(picture, plane, title, "value", "density")
    names = [f"channel {index}" for index in range(len(lines))][:NAMED_LINES]
    more = [f"and {len(lines) - NAMED_LINES} more"] if len(lines) > NAMED_LINES else []
    keys = [*zip(names, inks, strict=False), *[(words, FAINT) for words in more]]
    list_keys(picture, [("all values", FAINT), *keys, ("N(0, 1), dashed", INK)])
    return picture


def map_chart(projection: Projection, title: str) -> Image.Image:
    """Draw batch items as numbered points, joined in their order; both axes have one scale."""
    places = [(i, x, y) for i, (x, y) in enumerate(projection.places.tolist()) if x == x]
    if not places:
        return message_chart(title, "No item has finite values only.")
    plane = _square_plane([x for _, x, _ in places], [y for _, _, y in places])
    canvas, draw = blank()
    draw.line([plane.zoomed(x, y) for _, x, y in places], fill=AREA, width=3)
    count = len(projection.places)
    shades = colours.sequential(torch.linspace(0.35, 0.95, count)).mul(255).round().int().tolist()
    for index, x, y in places:
        across, down = plane.zoomed(x, y)
        box = (across - 9, down - 9, across + 9, down + 9)
        draw.ellipse(box, fill=tuple(shades[index]), outline=BACKGROUND)
    picture = reduced(canvas)
    shares = [f"{share:.1%}" if share == share else "no" for share in projection.shares.tolist()]
    across, upward = (f"component {i + 1} ({share} of variance)" for i, share in enumerate(shares))
    label(picture, plane, title, across, upward)
    step = math.ceil(count / NAMED_POINTS)
    for index, x, y in places[::step]:
        across, down = plane.at(x, y)
        write(picture, str(index), (round(across) + 6, round(down) - 16))
    return picture


def table_chart(rows: Sequence[Sequence[str]], title: str) -> Image.Image:
    """Draw a table; the first row is its head, the first column is set to the left."""
    cells = [
        [text(words, 18, INK if line else FAINT) for words in row] for line, row in enumerate(rows)
    ]
    widths = [max(cell.width for cell in column) for column in zip(*cells, strict=True)]
    height = max(cell.height for row in cells for cell in row) + 10
    head = text(title, 18)
    extent = max(sum(widths) + 32 * len(widths), head.width + 32), height * (len(rows) + 1) + 24
    picture = Image.new("RGB", extent, BACKGROUND)
    picture.paste(head, (16, 12))
    for line, row in enumerate(cells, 1):
        left = 16
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            picture.paste(cell, (left + (width - cell.width if column else 0), 12 + line * height))
            left += width + 32
    return picture


def line_colours(count: int) -> list[Colour]:
    """Choose colours that are told apart: hues a golden angle apart, of one lightness in OKLab."""
    angles = torch.arange(count) * math.pi * (3 - math.sqrt(5))
    light = 0.74 + 0.06 * torch.cos(torch.arange(count) * math.pi)
    lab = torch.stack([light, 0.13 * angles.cos(), 0.13 * angles.sin()], 1)
    return [tuple(c) for c in colours.srgb(lab).clamp(0, 1).mul(255).round().int().tolist()]


def _square_plane(xs: Sequence[float], ys: Sequence[float]) -> Plane:
    """Lay a plane around points with one scale for both axes."""
    across = SIZE[0] - MARGINS[0] - MARGINS[2]
    upward = SIZE[1] - MARGINS[1] - MARGINS[3]
    scale = max((max(xs) - min(xs)) / across, (max(ys) - min(ys)) / upward) * 1.2
    scale = max(scale, 1e-9 * max(map(abs, [*xs, *ys]))) or 1 / across
    x, y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    width, height = scale * across / 2, scale * upward / 2
    return Plane(x - width, x + width, y - height, y + height)


def _draw_normal(draw: ImageDraw.ImageDraw, plane: Plane) -> None:
    """Draw the density of N(0, 1), in dashes of equal length, where it lies inside the plane."""
    steps = [plane.left + i * (plane.right - plane.left) / 960 for i in range(961)]
    curve = [(x, NORMAL_PEAK * math.exp(-min(x * x / 2, 700))) for x in steps]
    walked = 0.0
    for start, end in zip(curve, curve[1:], strict=False):
        ends = [plane.zoomed(*start), plane.zoomed(*end)]
        if walked % (2 * DASH) < DASH and max(start[1], end[1]) <= plane.top:
            draw.line(ends, fill=INK, width=3)
        walked += math.dist(*ends)
