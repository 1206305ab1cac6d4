"""The contact sheet: which faces it shows, and that it shows them framed in place."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.judge.face_sheet import (
    CELL,
    COLUMNS,
    FRAME,
    GAP,
    HEAD,
    Cell,
    choose_cells,
    close_up,
    save_face_sheet,
)
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos


def cell(height: float, photo: int = 0) -> Cell:
    return Cell(photo, (0.0, 0.0, 10.0, height), 0.9)


def test_odd_sizes_show_beside_many_of_one_size() -> None:
    cells = [cell(250 + i / 10) for i in range(1000)] + [cell(12), cell(30), cell(31)]
    chosen = choose_cells(cells, 50)
    assert len(chosen) == 50
    assert [c.box[3] for c in chosen[:3]] == [12, 30, 31]
    assert [c.box[3] for c in chosen] == sorted(c.box[3] for c in chosen)
    assert chosen[-1].box[3] - chosen[3].box[3] > 90  # spread over the thousand
    assert choose_cells(cells, 2000) == sorted(cells, key=lambda c: c.box[3])
    assert choose_cells([], 50) == []


def test_a_face_is_framed_where_it_is_even_at_the_edge() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[0:20, 180:200] = (0, 0, 255)  # the face: a blue square in the corner
    seen = np.asarray(close_up(Image.fromarray(pixels), (180, 0, 20, 20)))
    assert seen.shape == (CELL, CELL, 3)
    blue = np.argwhere(seen[..., 2] > 200)
    frame = np.argwhere((seen == FRAME).all(-1))
    assert abs(blue.min(0) - frame.min(0)).max() <= 2 and abs(blue.max(0) - frame.max(0)).max() <= 2
    assert 0.55 < (frame.max(0) - frame.min(0)).min() / CELL < 0.7


@pytest.mark.parametrize("name", ["faces.jpg", "faces.png"])
def test_the_sheet_is_written_and_a_lost_photo_leaves_a_gap(
    photo_folder: Path, tmp_path: Path, name: str
) -> None:
    photos: PhotoSet = open_photos(str(photo_folder), 8)
    lost = dataclasses.replace(photos, keys=["gone.png", *photos.keys[1:]])
    cells = [Cell(0, (10.0, 10.0, 20.0, 20.0), None), Cell(1, (10.0, 10.0, 20.0, 30.0), 0.9)]
    cells += [Cell(2, (10.0, 10.0, 20.0, 40.0), 0.9)] * COLUMNS
    save_face_sheet(tmp_path / name, lost, cells)
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format == ("JPEG" if name.endswith("jpg") else "PNG")
        seen = np.asarray(sheet.convert("RGB"))
    assert seen.shape[0] > HEAD + 2 * CELL  # two rows
    first, second = (
        seen[HEAD : HEAD + CELL, GAP + i * (CELL + GAP) :][:, :CELL].std() for i in (0, 1)
    )
    assert first < 5 < second
    assert [path.name for path in tmp_path.iterdir()] == [name]
