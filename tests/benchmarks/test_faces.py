"""Faces at a height: what is seen of a photo, the window that is shown, and the whole commands."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.face_pictures import SHOWN, cell
from benchmarks.face_windows import Face, named_place, open_faces, round_trip, view_at, window
from trainer.errors import UserError

PHOTO = Image.effect_noise((600, 400), 80).convert("RGB").resize((1200, 800))


def face(box=(500.0, 200.0, 160.0, 200.0), photo=PHOTO) -> Face:
    return Face("noise", box, lambda: photo)


@pytest.mark.parametrize("height", [16, 50, 200])
def test_a_face_is_reduced_to_its_height_and_lies_where_its_box_says(height):
    photo = Image.new("RGB", PHOTO.size)
    photo.paste((255, 255, 255), (500, 200, 660, 400))
    picture, (x, y, w, h) = view_at(face(photo=photo), height)
    assert h == pytest.approx(height) and w == pytest.approx(height * 0.8)
    bright = picture[..., 0] > 127
    assert bright.any(1).sum() == pytest.approx(h, abs=1)
    assert np.argmax(bright.any(1)) == pytest.approx(y, abs=1)
    assert np.argmax(bright.any(0)) == pytest.approx(x, abs=1)


def test_enough_is_seen_around_a_face_and_no_more_than_there_is():
    assert view_at(face(), 100).picture.shape == (256, 256, 3)
    assert view_at(face(), 200).picture.shape == (400, 400, 3)
    assert view_at(face(), 20).picture.shape == (80, 120, 3)


def test_a_finer_grid_sees_the_same_part_of_the_photo():
    once, twice = view_at(face(), 60), view_at(face(), 60, 2.0)
    assert twice.picture.shape[0] == 2 * once.picture.shape[0]
    assert twice.box == pytest.approx([2 * side for side in once.box])
    size = once.picture.shape[1::-1]
    reduced = np.array(Image.fromarray(twice.picture).resize(size, Image.Resampling.LANCZOS))
    assert np.abs(reduced.astype(int) - once.picture).mean() < 2


def test_no_face_is_enlarged():
    with pytest.raises(ValueError, match="not enlarged"):
        view_at(face(), 201)
    with pytest.raises(ValueError, match="not enlarged"):
        view_at(face(), 120, 2.0)


def test_sides_that_a_vae_does_not_take_are_padded_and_cut_off(tiny_vae):
    picture = np.asarray(PHOTO)[:29, :43].copy()
    padded = np.pad(picture, ((0, 3), (0, 5), (0, 0)), "edge")
    found = round_trip(tiny_vae, picture, 8)
    assert found.shape == (1, 3, 29, 43)
    assert found.equal(round_trip(tiny_vae, padded, 8)[..., :29, :43])


def test_a_window_is_shown_pixel_by_pixel():
    view = view_at(face(), 48)
    rows, columns = window(view)
    part = view.picture[rows, columns]
    assert part.shape[:2] == (60, 48)
    shown = np.asarray(cell(view.picture, view, "words"))
    factor = SHOWN // 60
    assert (shown[:SHOWN:factor, : 48 * factor : factor] == part).all()


def test_the_packaged_faces_are_where_their_boxes_say(assets):
    file = str(assets / "models" / "face_detection_yunet_2023mar.onnx")
    found = {
        one.name: one.box for part in ("train", "val") for one in open_faces(f"demo:{part}", file)
    }
    for one in open_faces("packaged", None):
        assert one.box == pytest.approx(found[one.name], abs=1.5)
        assert one.photo.size in ((512, 512), (512, 600))


def test_vaes_go_by_short_names():
    assert named_place("ours=runs/a/export/vae.safetensors")[0] == "ours"
    assert named_place("runs/a/export/vae.safetensors")[0] == "a"
    assert named_place("models/taesd") == ("taesd", "models/taesd")
    assert named_place("bundled:kl-f8-small")[0] == "bundled:kl-f8-small"


def test_photos_without_known_faces_are_an_error(photo_folder):
    with pytest.raises(UserError, match="--face-detector-weights"):
        next(open_faces(str(photo_folder), None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "picture", "rows"),
    [
        ("face_pictures", "--heights 24 48 --output", "faces.png", 2 * 2 * 2),
        ("face_heights", "--cells 2 4 --plot", "heights.png", 2 * 2),
        ("finer_grid", "--height 24", None, 2 * 5 + 2),
    ],
)
def test_a_command_prints_a_table_and_draws(
    name, flags, picture, rows, tiny_base, project, tmp_path
):
    script, file = project / "benchmarks" / f"{name}.py", tmp_path / "figures.json"
    drawn = [tmp_path / picture] if picture else []
    vaes = ("--vae", f"one={tiny_base}", "--vae", f"two={tiny_base}")
    command = [sys.executable, script, *vaes, *flags.split(), *drawn, "--json", file]
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(file.read_text())["rows"]
    assert len(found) == rows and len(ended.stdout.splitlines()) == rows + 1
    assert all(Image.open(path).width > 300 for path in map(Path, drawn))
