"""The sample sheet: original | base | tuned | 8x difference, a photo a row, faces enlarged."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from trainer.judge.evaluation import multiple_for
from trainer.judge.pictures import Picture, bytes_psnr, choose, open_pictures, with_model
from trainer.photos.boxes import Box
from trainer.photos.photo_set import PhotoSet
from vae_core.compare.squares import square_around
from vae_core.files import replace_file

GAIN = 8  # the difference to the original is shown this many times as strong
CELL, TALLEST = 320, 400  # width and height of a picture's place on the sheet, in pixels
GAP, HEAD, FOOT = 10, 40, 24
INSET = 0.42  # side of the enlarged face, in short sides of the cell's picture
FACE_MARGIN = 1.5  # side of what the inset shows, in sides of the face's box
PAPER, INK, FAINT = (24, 24, 27), (244, 244, 245), (161, 161, 170)


def save_sheet(
    path: Path,
    base: nn.Module,
    tuned: nn.Module,
    photos: PhotoSet,
    *,
    count: int,
    device: torch.device | str,
    eval_resolution: int,
) -> None:
    """Draw the sheet of at most `count` photos, those with faces first, into a PNG file."""
    ids = [photos.photos[i].id for i in choose(photos.photos, count)]
    pictures = open_pictures(photos, ids, eval_resolution, multiple_for(base), "val")
    pictures = with_model(pictures, "base", base, device)
    pictures = with_model(pictures, "tuned", tuned, device)
    sheet = sample_sheet(pictures)
    replace_file(path, lambda handle: sheet.save(handle, "PNG"))


def sample_sheet(
    pictures: Sequence[Picture], first: str = "base", second: str = "tuned"
) -> Image.Image:
    """Draw a sheet of photos and what two models made of them: an RGB image, a photo a row.

    A face small enough to gain by it is enlarged in a corner of each cell of its row.
    """
    rows = [_row(picture, first, second) for picture in pictures]
    width = GAP + 4 * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEAD + sum(row.height + GAP for row in rows)), PAPER)
    titles = ["original", first, second, f"{GAIN} x |{second} - original|"]
    for column, title in enumerate(titles):
        _write(sheet, (GAP + column * (CELL + GAP), 10), title, 17, INK)
    top = HEAD
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    return sheet


def difference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return |x - y| eight times as strong, cut at white: uint8 [H, W, 3]."""
    return np.minimum(np.abs(x.astype(np.int16) - y) * GAIN, 255).astype(np.uint8)


def _row(picture: Picture, first: str, second: str) -> Image.Image:
    shown = [picture.original, picture.models[first], picture.models[second]]
    shown.append(difference(shown[2], shown[0]))
    cells = [_cell(pixels, picture.largest_face) for pixels in shown]
    row = Image.new("RGB", (GAP + 4 * (CELL + GAP), cells[0].height + FOOT), PAPER)
    notes = [picture.name, *(_decibels(pixels, picture.original) for pixels in shown[1:3]), ""]
    for column, (cell, note) in enumerate(zip(cells, notes, strict=True)):
        left = GAP + column * (CELL + GAP)
        row.paste(cell, (left + (CELL - cell.width) // 2, 0))
        _write(row, (left, cell.height + 4), note, 13, FAINT)
    return row


def _decibels(x: np.ndarray, y: np.ndarray) -> str:
    value = bytes_psnr(x, y)
    return f"PSNR {value:.2f} dB" if np.isfinite(value) else "identical"


def _cell(pixels: np.ndarray, face: Box | None) -> Image.Image:
    """Reduce a picture to the cell, with its face enlarged in the lower right corner."""
    image = Image.fromarray(pixels)
    scale = min(1.0, CELL / image.width, TALLEST / image.height)
    cell = image.resize(
        tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.LANCZOS
    )
    side = round(min(cell.size) * INSET)
    if face is None or max(face[2:]) * FACE_MARGIN * scale * 1.3 > side:
        return cell
    part = square_around(face, FACE_MARGIN, image.height, image.width)
    seen = image.crop((part.left, part.top, part.right, part.bottom))
    close_up = seen.resize((side, side), Image.Resampling.BICUBIC)
    corner = (cell.width - side, cell.height - side)
    cell.paste(INK, (corner[0] - 2, corner[1] - 2, *cell.size))
    cell.paste(close_up, corner)
    return cell


def _write(
    image: Image.Image, place: tuple[int, int], text: str, size: int, ink: tuple[int, int, int]
) -> None:
    """Write one line in Pillow's own font, cut to a cell's width; what the font lacks is `?`."""
    font = ImageFont.load_default(size)
    line = text.encode("latin-1", "replace").decode("latin-1")
    if font.getlength(line) > CELL:
        while line and font.getlength(line + "...") > CELL:
            line = line[:-1]
        line += "..."
    ImageDraw.Draw(image).text(place, line, ink, font)
