"""The strip of a pair: original, reconstruction, difference, heat map; and the region enlarged.

No picture is cut or stretched. Pictures over LARGEST pixels are shown smaller, evenly, so that the
strip of a large batch fits into memory; the captions say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..compare import diff
from ..compare.figures import PairFigures
from ..compare.pairs import Box, Pair
from . import colours, drawing

LARGEST = 1536  # pixels, the longer side of a picture in the strip
SMALLEST_INSET = 256  # pixels, the longer side of an enlarged region
AROUND = 0.125  # what an inset shows around its box, on each side
BOX_COLOUR = (0, 229, 160)


class Shown(NamedTuple):
    """The pictures of a pair, as images [H, W, 3] in [0, 1], and its heat map."""

    original: Tensor
    reconstruction: Tensor
    absolute: Tensor
    heat: diff.HeatMap


def shown(pair: Pair, heat: diff.HeatMap, gain: float) -> Shown:
    """Prepare the pictures of a pair."""
    original, reconstruction = (
        colours.mark_nan(picture[0].movedim(0, -1)) for picture in (pair.y, pair.x)
    )
    return Shown(original, reconstruction, diff.absolute(pair.x, pair.y, gain), heat)


def strip(
    pictures: Shown, figures: PairFigures, gain: float, net: str | None, notes: Sequence[str] = ()
) -> Image.Image:
    """Draw the strip of a pair; `net` names the network of LPIPS, notes stand below."""
    panels = [drawing.to_pil(image) for image in pictures[:3]]
    share = min(1.0, LARGEST / max(panels[0].size))
    heat = _resized(drawing.to_pil(diff.heat_colours(pictures.heat)), share)
    row = [_framed(_resized(panel, share), figures.box, share) for panel in panels]
    row.append(_with_legend(_framed(heat, figures.box, share), pictures.heat))
    rows = [drawing.beside(row, _captions(figures, gain, net, pictures.heat))]
    if figures.box:
        rows.append(_insets(panels, row[0], figures, gain, net))
    if share < 1:
        notes = [*notes, f"shown at {share:.0%} of its size"]
    if notes:
        rows.append(drawing.text("\n".join(notes), drawing.text_size_for(row), drawing.FAINT))
    return drawing.stack(rows, gap=4)


def heat_picture(heat: diff.HeatMap) -> Image.Image:
    """Draw a heat map at its own size with its legend to the right."""
    return _with_legend(drawing.to_pil(diff.heat_colours(heat)), heat)


def same_size(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Widen the background of pictures until all are of one size, so that they make a batch."""
    size = max(p.width for p in pictures), max(p.height for p in pictures)
    canvases = []
    for picture in pictures:
        canvas = Image.new("RGB", size, drawing.BACKGROUND)
        canvas.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
        canvases.append(canvas)
    return canvases


def to_batch(pictures: Sequence[Image.Image]) -> Tensor:
    """Turn pictures into images [B, H, W, 3] in [0, 1], float32."""
    return torch.stack([drawing.from_pil(picture) for picture in same_size(pictures)])


def _captions(figures: PairFigures, gain: float, net: str | None, heat: diff.HeatMap) -> list[str]:
    whole = figures.whole
    if figures.identical:
        closeness = "identical"
    else:
        closeness = f"PSNR {_said(whole.psnr, '.2f')} dB, SSIM {_said(whole.ssim, '.3f')}"
    difference = f"difference x {gain:g}: mean {_said(whole.mae, '.4f')}"
    measured = f"LPIPS {net} {_said(whole.lpips, '.4f')}" if net else ""
    names = [measured if heat.kind == "lpips" else diff.UNITS[heat.kind], measured]
    named = ", ".join(dict.fromkeys(filter(None, names)))
    return ["original", f"reconstruction: {closeness}", difference, f"heat map: {named}"]


def _insets(
    panels: Sequence[Image.Image],
    frame: Image.Image,
    figures: PairFigures,
    gain: float,
    net: str | None,
) -> Image.Image:
    """Draw the region of all three pictures, enlarged alike."""
    edges = _around(figures.box, panels[0].size)
    wide, high = edges[2] - edges[0], edges[3] - edges[1]
    room = [max(side, SMALLEST_INSET) for side in frame.size]
    times = min(room[0] / wide, room[1] / high)
    parts = [_resized(panel.crop(edges), times) for panel in panels]
    inside = figures.inside
    closeness = f"PSNR {_said(inside.psnr, '.2f')} dB, SSIM {_said(inside.ssim, '.3f')}"
    closeness += f", LPIPS {net} {_said(inside.lpips, '.4f')}" if net else ""
    return drawing.beside(
        parts, [f"mask's box x {times:.3g}", f"inside: {closeness}", f"difference x {gain:g}"]
    )


def _around(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Widen a box a little, within a picture of (width, height): left, top, right, bottom."""
    extra_x, extra_y = math.ceil(box.width * AROUND), math.ceil(box.height * AROUND)
    return (
        max(0, box.left - extra_x),
        max(0, box.top - extra_y),
        min(size[0], box.left + box.width + extra_x),
        min(size[1], box.top + box.height + extra_y),
    )


def _framed(picture: Image.Image, box: Box | None, share: float) -> Image.Image:
    """Draw a box around a region, just outside of it where there is room."""
    if box is None:
        return picture
    framed, thick = picture.copy(), max(1, max(picture.size) // 200)
    left, top = round(box.left * share) - thick, round(box.top * share) - thick
    right = round((box.left + box.width) * share) + thick - 1
    bottom = round((box.top + box.height) * share) + thick - 1
    edges = (
        max(0, left),
        max(0, top),
        min(picture.width - 1, right),
        min(picture.height - 1, bottom),
    )
    ImageDraw.Draw(framed).rectangle(edges, outline=BOX_COLOUR, width=thick)
    return framed


def _with_legend(picture: Image.Image, heat: diff.HeatMap) -> Image.Image:
    """Put the legend of a heat map to its right."""
    legend = drawing.legend("sequential", 0.0, heat.highest, diff.UNITS[heat.kind], picture.height)
    gap = legend.height // 48 + 4
    size = picture.width + gap + legend.width, max(picture.height, legend.height)
    canvas = Image.new("RGB", size, drawing.BACKGROUND)
    canvas.paste(picture, (0, (size[1] - picture.height) // 2))
    canvas.paste(legend, (picture.width + gap, (size[1] - legend.height) // 2))
    return canvas


def _resized(picture: Image.Image, times: float) -> Image.Image:
    """Resize a picture evenly; enlarged ones keep their pixels' edges soft but true."""
    if times == 1:
        return picture
    size = tuple(max(1, round(side * times)) for side in picture.size)
    return picture.resize(size, Image.Resampling.BICUBIC if times > 1 else Image.Resampling.LANCZOS)


def _said(value: float | None, digits: str) -> str:
    return "-" if value is None else f"{value:{digits}}"
