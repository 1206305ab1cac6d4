"""A contact sheet of the faces that were found: false ones are seen at a glance."""

import math
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from trainer.photos.boxes import Box
from trainer.photos.photo_set import PhotoSet
from trainer.photos.scan import Progress
from trainer.photos.skips import SkippedPhoto
from vae_core.files import replace_file

CELL, FOOT, GAP, HEAD = 96, 16, 6, 34  # pixels
COLUMNS = 16
MOST = 320  # cells
MARGIN = 1.6  # side of a cell's square, in sides of the face's box
BANDS_PER_OCTAVE = 2  # of heights, from which cells are taken in turn
PAPER, INK, FRAME = (24, 24, 27), (212, 212, 216), (250, 204, 21)


class Cell(NamedTuple):
    """A face to show: the photo's place in its set, its box there, its score if one is known."""

    photo: int
    box: Box
    score: float | None


def save_face_sheet(
    path: Path, photos: PhotoSet, cells: list[Cell], progress: Progress | None = None
) -> None:
    """Draw the sheet into a JPEG or PNG file, by the name's end, written whole or not at all."""
    chosen = choose_cells(cells, MOST)
    sheet = draw_sheet(photos, chosen, len(cells), progress)
    kind = {"quality": 90} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    form = "JPEG" if kind else "PNG"
    replace_file(path, lambda handle: sheet.save(handle, form, **kind))


def choose_cells(cells: list[Cell], most: int) -> list[Cell]:
    """Choose `most` cells at most, evenly over the heights (on a logarithmic scale), by height.

    Of each band of heights in turn one is taken, those spread evenly within it, so that a few odd
    sizes show beside a thousand portraits.
    """
    bands: dict[int, list[Cell]] = defaultdict(list)
    for cell in sorted(cells, key=_height):
        bands[math.floor(BANDS_PER_OCTAVE * math.log2(_height(cell)))].append(cell)
    left, chosen = most, []
    for i, band in enumerate(sorted(bands.values(), key=len)):  # what small bands leave goes on
        count = min(len(band), left // (len(bands) - i))
        chosen += [band[len(band) * k // count] for k in range(count)]
        left -= count
    return sorted(chosen, key=_height)


def _height(cell: Cell) -> float:
    return cell.box[3]


def draw_sheet(
    photos: PhotoSet, cells: list[Cell], total: int, progress: Progress | None = None
) -> Image.Image:
    """Draw cells row by row, with heights in pixels and scores beneath, as an RGB image.

    A photo that can no longer be read leaves its cells empty.
    """
    rows = -(-len(cells) // COLUMNS)
    size = (GAP + COLUMNS * (CELL + GAP), HEAD + rows * (CELL + FOOT + GAP))
    sheet = Image.new("RGB", size, PAPER)
    _write(sheet, (GAP, 9), f"{len(cells):,} of {total:,} faces, by height in pixels; score", 14)
    by_photo: dict[int, list[int]] = defaultdict(list)
    for place, cell in enumerate(cells):
        by_photo[cell.photo].append(place)
    for done, (photo, places) in enumerate(by_photo.items(), start=1):
        _paste_faces(sheet, photos, photo, {place: cells[place] for place in places})
        if progress:
            progress(done, len(by_photo))
    return sheet


def _paste_faces(sheet: Image.Image, photos: PhotoSet, photo: int, cells: dict[int, Cell]) -> None:
    """Decode a photo once and paste its faces."""
    try:
        image = photos.image(photo)
    except SkippedPhoto:
        image = None
    for place, cell in cells.items():
        row, column = divmod(place, COLUMNS)
        left, top = GAP + column * (CELL + GAP), HEAD + row * (CELL + FOOT + GAP)
        if image:
            sheet.paste(close_up(image, cell.box), (left, top))
        score = "" if cell.score is None else f"  {cell.score:.2f}"
        _write(sheet, (left, top + CELL + 2), f"{_height(cell):.0f}{score}", 11)


def close_up(image: Image.Image, box: Box) -> Image.Image:
    """Cut out a face with its surroundings, framed: [CELL, CELL]; black where the photo ends."""
    x, y, w, h = box
    side = MARGIN * max(w, h)
    left, top = x + w / 2 - side / 2, y + h / 2 - side / 2
    scale = CELL / side
    right, bottom = min(image.width, left + side), min(image.height, top + side)
    within = (max(0.0, left), max(0.0, top), right, bottom)
    size = tuple(max(1, round((within[i + 2] - within[i]) * scale)) for i in (0, 1))
    cell = Image.new("RGB", (CELL, CELL))
    part = image.resize(size, Image.Resampling.BICUBIC, box=within)
    cell.paste(part, (round((within[0] - left) * scale), round((within[1] - top) * scale)))
    frame = [(x - left) * scale, (y - top) * scale, (x + w - left) * scale, (y + h - top) * scale]
    ImageDraw.Draw(cell).rectangle(frame, outline=FRAME)
    return cell


def _write(image: Image.Image, place: tuple[int, int], text: str, size: int) -> None:
    ImageDraw.Draw(image).text(place, text, INK, ImageFont.load_default(size))
