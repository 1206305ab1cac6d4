"""Faces in whole runs: from the index or the detector, kept in the run's folder; or none at all."""

import json
from pathlib import Path

import pytest

from tests.trainer.runs import assert_whole, forget_processes
from trainer.evaluate import main
from trainer.options.config import resolve_vae
from trainer.photos.face_finder import FaceFinder, Found
from trainer.photos.face_index import FaceIndex, Faces, Making, read_index
from trainer.photos.sources import open_photos
from trainer.training import session

SHORT = ("--max-steps", 1, "--sample-photos", 0)
# At its ratio of 8 a sheet of 512 px has 64 x 64 cells; at 2, attention would take a minute.
BUNDLED = "bundled:kl-f8-small"
SHEETS_AT_EASE = ("--vae", BUNDLED)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list:
    """The photos that runs train on and measure."""
    real, kept = session.make_run, []

    def make_run(config, accelerator, base, photos, *rest):
        kept.append(photos)
        return real(config, accelerator, base, photos, *rest)

    monkeypatch.setattr(session, "make_run", make_run)
    return kept


@pytest.fixture
def index(photo_folder: Path, tmp_path: Path) -> Path:
    """An index that knows eight of the twelve photos, one face in each."""
    photos = open_photos(str(photo_folder), 8).photos[:8]
    faces = Faces(96, 72, (Found((20.0, 10.0, 30.0, 40.0), 0.9),))
    index = FaceIndex(
        tmp_path / "known.parquet", Making("a" * 64), {photo.id: faces for photo in photos}
    )
    index.save()
    return index.path


def test_a_set_without_faces_trains_all_the_same_and_that_is_said(train, tmp_path, capsys, seen):
    assert train(tmp_path / "run", *SHORT) == 0
    said = capsys.readouterr().out
    assert "faces       no faces are known in the training photos; training goes on" in said
    assert all(photo.faces is None for photo in seen[0].train.photos)
    assert not (tmp_path / "run" / "faces.parquet").exists()


def test_all_sets_get_the_faces_of_an_index_and_it_stays_as_it_is(
    train, tmp_path, capsys, seen, index, photo_folder
):
    before = index.read_bytes()
    flags = (*SHORT, *SHEETS_AT_EASE, "--face-index", index, "--general-val-data", photo_folder)
    assert train(tmp_path / "run", *flags) == 0
    (photos,) = seen
    known = read_index(index).photos
    for some in (photos.train, photos.val, photos.general):
        for photo in some.photos:
            assert (photo.faces is not None) == (photo.id in known)
    with_faces = sum(bool(photo.faces) for photo in photos.train.photos)
    text = f"{with_faces} of {len(photos.train)} training photos hold faces ({with_faces} faces, "
    assert with_faces and f"{text}heights from 40 to 40 px)" in capsys.readouterr().out
    assert index.read_bytes() == before and not (tmp_path / "run" / "faces.parquet").exists()


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"PAR1"), Path.unlink])
def test_an_index_that_cannot_be_used_ends_the_run_before_it_begins(
    train, tmp_path, capsys, index, damage
):
    damage(index)
    assert train(tmp_path / "run", *SHORT, "--face-index", index) == 1
    assert "expected a face index at" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.toml").exists()


def test_faces_are_found_once_into_the_run_folder_and_a_killed_start_begins_again(
    train, tmp_path, capsys, seen, assets
):
    weights = assets / "models" / "face_detection_yunet_2023mar.onnx"
    run = tmp_path / "run"
    flags = (*SHORT, "--face-detector-weights", weights)
    assert train(run, *flags, "--dry-run") == 0
    lacking = f"{len(seen[0].train)} training photos are still to be looked at"
    assert f"faces       {lacking}" in capsys.readouterr().out and not run.exists()
    # killed after it had looked, and before there was a run
    run.mkdir()
    index = FaceIndex(run / "faces.parquet", Making(FaceFinder(weights).sha256))
    index.photos = {
        photo.id: Faces(96, 72, (Found((1.0, 2.0, 30.0, 40.0), 0.9),))
        for photo in seen[0].train.photos[:5]
    }
    index.save()
    assert train(run, *flags) == 0
    assert_whole(run)
    assert len(read_index(run / "faces.parquet").photos) == 12
    photos = seen[-1]
    assert all(photo.faces is not None for photo in photos.train.photos + photos.val.photos)
    assert [photo.faces for photo in photos.train.photos[:5]] == [((1.0, 2.0, 30.0, 40.0),)] * 5


@pytest.mark.usefixtures("train")  # gives signals back
def test_evaluation_takes_faces_from_an_index(tmp_path, photo_folder, index):
    forget_processes()
    out = tmp_path / "out"
    given = {
        "--vae": resolve_vae(BUNDLED),
        "--data": photo_folder,
        "--output": out,
        "--face-index": index,
    }
    given |= {"--lpips-net": "none"}
    assert main([str(part) for pair in given.items() for part in pair]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (model,) = report["models"].values()
    assert model["val"]["faces_small"]["n"] == 8
    assert str(index) not in (out / "report.html").read_text(encoding="utf-8")
