"""The sample sheet: what stands where, by its pixels."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderKL
from PIL import Image
from skimage import data

from trainer.judge.pictures import Picture, choose, choose_telling, open_pictures, with_model
from trainer.judge.samples import CELL, GAP, HEAD, PAPER, difference, sample_sheet, save_sheet
from trainer.judge.scores import PhotoScore
from trainer.photos.photo_set import Photo
from trainer.photos.sources import open_photos


def picture(name: str = "cat.png", **fields: object) -> Picture:
    """A picture whose versions are told apart by one grey each, 64 x 48."""
    original, base, tuned = (np.full((48, 64, 3), level, np.uint8) for level in (100, 60, 110))
    return Picture("val", name, name, original, models={"base": base, "tuned": tuned}, **fields)


def test_the_difference_is_eight_times_as_strong_and_cut_at_white() -> None:
    x = np.array([[[100, 90, 200]]], np.uint8)
    y = np.array([[[103, 100, 100]]], np.uint8)
    assert difference(x, y).tolist() == [[[24, 80, 255]]]
    assert np.array_equal(difference(x, y), difference(y, x))


def test_a_row_is_original_base_tuned_difference() -> None:
    sheet = np.asarray(sample_sheet([picture(), picture()]))
    middle = [GAP + column * (CELL + GAP) + CELL // 2 for column in range(4)]
    row = sheet[HEAD + 24, middle]
    assert row.tolist() == [[100] * 3, [60] * 3, [110] * 3, [80] * 3]
    assert sheet.shape[0] > 2 * 48 and (sheet[-1] == PAPER).all()


def test_small_photos_are_not_enlarged_and_large_ones_are_reduced_whole() -> None:
    photo = data.astronaut()[:, :400]
    large = Picture("val", "a", "a", photo, models={"base": photo, "tuned": photo})
    sheet = sample_sheet([large])
    assert sheet.height - HEAD < 512 and sheet.width == GAP + 4 * (CELL + GAP)
    expected = Image.fromarray(photo).resize((312, 400), Image.Resampling.LANCZOS)
    left = GAP + (CELL - 312) // 2
    shown = sheet.crop((left, HEAD, left + 312, HEAD + 400))
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(expected)).mean() < 1


def test_a_small_face_is_enlarged_in_the_corner_of_its_row() -> None:
    photo = np.zeros((256, 320, 3), np.uint8)
    photo[100:120, 50:70] = 255
    face = Picture("val", "a", "a", photo, ((50, 100, 20, 20),), {"base": photo, "tuned": photo})
    plain = np.asarray(sample_sheet([Picture("val", "a", "a", photo, (), face.models)]))
    inset = np.asarray(sample_sheet([face]))
    corner = (HEAD + 256 - 50, GAP + 320 - 50)  # the middle of the inset
    assert plain[corner].tolist() == [0, 0, 0]
    assert inset[corner].tolist() == [255, 255, 255]
    large = Picture("val", "a", "a", photo, ((50, 20, 200, 200),), face.models)
    assert np.array_equal(np.asarray(sample_sheet([large])), plain)


@pytest.mark.parametrize("name", ["名前.png", "x" * 300, "", "a\nb", "\\ud800"])
def test_any_name_can_stand_on_a_sheet(name: str) -> None:
    assert sample_sheet([picture(name)]).width == GAP + 4 * (CELL + GAP)


def test_photos_with_faces_come_first() -> None:
    faces = [None, (), ((0, 0, 9, 9),), (), ((0, 0, 9, 9),)]
    photos = [Photo(str(i), str(i), 64, 64, boxes) for i, boxes in enumerate(faces)]
    assert choose(photos, 3) == [2, 4, 0]
    assert choose(photos, 99) == [2, 4, 0, 1, 3]


def test_the_report_shows_what_gained_and_lost_most_and_some_between() -> None:
    first = [PhotoScore(str(i), "", psnr=20.0) for i in range(100)]
    second = [PhotoScore(str(i), "", psnr=20.0 + i) for i in range(100)]
    chosen = choose_telling(first, second, 12)
    assert chosen[:4] == ["99", "98", "97", "96"]
    assert chosen[-6:] == ["5", "4", "3", "2", "1", "0"]
    assert len(chosen) == len(set(chosen)) == 12
    chosen = choose_telling(first, second, 30)
    assert chosen[:11] == [str(i) for i in range(99, 89, -1)] + ["89"]
    assert chosen[-10:] == [str(i) for i in range(9, -1, -1)]
    assert len(chosen) == len(set(chosen)) == 30
    assert choose_telling(first[:3], second, 12) == ["2", "1", "0"]


def test_the_file_is_a_plain_png_of_pixels_alone(tiny_vae: AutoencoderKL, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = Image.fromarray(data.chelsea()).resize((96, 64))
    exif = Image.Exif()
    exif[0x010F] = "camera of somebody"
    photo.save(folder / "cat.jpg", exif=exif)
    Image.fromarray(data.coffee()).resize((64, 96)).save(folder / "coffee.png")
    photos = open_photos(str(folder), 8)
    (folder / "coffee.png").unlink()  # one less to show, no error
    path = tmp_path / "step_000500.png"
    save_sheet(path, tiny_vae, tiny_vae, photos, count=8, device="cpu", eval_resolution=64)
    sheet = Image.open(path)
    assert sheet.format == "PNG" and sheet.mode == "RGB" and not sheet.info
    assert b"somebody" not in path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()].count("step_000500.png") == 1
    pictures = open_pictures(photos, [p.id for p in photos.photos], 64, 8, "val")
    shown = with_model(with_model(pictures, "base", tiny_vae, "cpu"), "tuned", tiny_vae, "cpu")
    assert np.array_equal(np.asarray(sheet), np.asarray(sample_sheet(shown)))
