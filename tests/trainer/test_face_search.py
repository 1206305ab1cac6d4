"""Photos get their faces: their own, those of the index, or those that are found now."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from PIL import Image
from skimage import data

from trainer.errors import UserError
from trainer.photos.face_finder import Found
from trainer.photos.face_index import FaceIndex, Faces, Making, read_index
from trainer.photos.face_search import FaceSearch, open_search
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos

ROOT = Path(__file__).resolve().parents[2]
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
OWN = ((1.0, 2.0, 30.0, 40.0),)


class CountingFinder:
    """Takes the middle of every photo for a face, and counts the photos; no weights needed."""

    def __init__(self) -> None:
        self.looks = 0

    def find(self, image: Image.Image) -> tuple[Found, ...]:
        self.looks += 1
        return (Found((image.width / 4, image.height / 4, 10.0, 12.0), 0.9),)


@pytest.fixture
def weights(assets: Path) -> Path:
    return assets / "models" / "face_detection_yunet_2023mar.onnx"


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    """Grace Hopper and a cup of coffee."""
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(HOPPER, folder)
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    return open_photos(str(folder), 8)


@pytest.fixture
def search(tmp_path: Path) -> FaceSearch:
    return FaceSearch(FaceIndex(tmp_path / "faces.parquet", Making("a" * 64)), CountingFinder())


def by_name(photos: PhotoSet) -> dict[str, object]:
    return {photo.name: photo.faces for photo in photos.photos}


def test_photos_get_the_faces_that_are_found(
    weights: Path, photos: PhotoSet, tmp_path: Path
) -> None:
    path, ticks = tmp_path / "faces.parquet", []
    known = open_search(str(weights), path).known(photos, lambda *done: ticks.append(done))
    counts = {name: len(faces) for name, faces in by_name(known).items()}
    assert counts == {"grace_hopper.jpg": 1, "coffee.png": 0}
    assert ticks == [(1, 2), (2, 2)]
    assert all(photo.faces is None for photo in photos.photos)
    assert known.image(0).size == photos.image(0).size
    # the index alone says the same, to the last bit
    assert open_search(None, path).known(photos).photos == known.photos


def test_what_is_in_the_index_is_not_looked_at_again(
    search: FaceSearch, photos: PhotoSet, tmp_path: Path
) -> None:
    first = search.known(photos)
    written = search.index.path.stat().st_mtime_ns
    again = FaceSearch(read_index(search.index.path), CountingFinder())
    ticks: list[tuple[int, int]] = []
    assert again.known(photos, lambda *done: ticks.append(done)).photos == first.photos
    assert again._finder.looks == 0 and ticks == []
    assert search.index.path.stat().st_mtime_ns == written
    # another set adds to it
    (tmp_path / "more").mkdir()
    Image.fromarray(data.chelsea()).save(tmp_path / "more" / "cat.png")
    again.known(open_photos(str(tmp_path / "more"), 8))
    assert again._finder.looks == 1 and len(read_index(search.index.path).photos) == 3


def test_boxes_that_came_with_a_photo_are_used_instead(
    search: FaceSearch, photos: PhotoSet
) -> None:
    own = replace(photos, photos=[replace(photo, faces=OWN) for photo in photos.photos])
    search.index.photos[photos.photos[0].id] = Faces(1, 1, ())  # not even asked
    assert search.known(own).photos == own.photos
    assert search._finder.looks == 0 and not search.index.path.exists()


def test_without_a_detector_photos_that_are_not_in_the_index_stay_unknown(
    search: FaceSearch, photos: PhotoSet
) -> None:
    search.known(photos.subset([0]))
    known = open_search(None, search.index.path).known(photos).photos
    assert known[0].faces and known[1].faces is None


def test_a_dry_run_reads_the_index_and_writes_nothing(
    weights: Path, photos: PhotoSet, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "faces.parquet"
    search = open_search(str(weights), path, looks=False)
    assert by_name(search.known(photos)) == {"grace_hopper.jpg": None, "coffee.png": None}
    assert not path.parent.exists()


def test_a_photo_that_cannot_be_read_is_counted_and_stays_without_knowledge(
    search: FaceSearch, photos: PhotoSet, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "coffee.png").unlink()
    known = by_name(search.known(photos))
    assert known["coffee.png"] is None and known["grace_hopper.jpg"]
    assert search.unreadable == {next(p.id for p in photos.photos if p.name == "coffee.png")}
    assert len(read_index(search.index.path).photos) == 1


def test_a_stop_keeps_what_was_found(search: FaceSearch, photos: PhotoSet) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.known(photos, stop)
    assert len(read_index(search.index.path).photos) == 1


def test_a_long_search_is_made_in_rounds(search: FaceSearch, photos: PhotoSet) -> None:
    assert not search.look(photos, seconds=0)
    assert search._finder.looks == 1
    assert search.look(photos, seconds=0)
    assert search.look(photos, seconds=0) and search._finder.looks == 2


def test_nothing_given_is_nothing_to_search(tmp_path: Path) -> None:
    assert open_search(None, None) is None
    with pytest.raises(UserError, match="expected a face index"):
        open_search(None, tmp_path / "none.parquet")


SEARCHING = """
import sys, time
from pathlib import Path
from trainer.photos import face_search
from trainer.photos.face_finder import Found
from trainer.photos.face_index import FaceIndex, Making
from trainer.photos.sources import open_photos

class Finder:
    def find(self, image):
        return (Found((1.0, 2.0, 30.0, 40.0), 0.9),)

def tick(done, total):
    print(done, flush=True)
    time.sleep(60 if done == 3 else 0)

face_search.SAVE_EVERY = 0.0
photos = open_photos(sys.argv[1], 8)
search = face_search.FaceSearch(FaceIndex(Path(sys.argv[2]), Making("a" * 64)), Finder())
search.known(photos, tick)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_search_goes_on_where_it_was(photo_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    command = [sys.executable, "-c", SEARCHING, str(photo_folder), str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        os.kill(process.pid, signal.SIGKILL)
    saved = read_index(path)
    before = len(saved.photos)
    assert 1 <= before <= 3
    photos = open_photos(str(photo_folder), 8)
    search = FaceSearch(saved, CountingFinder())
    known = search.known(photos)
    assert search._finder.looks == len(photos) - before
    assert sum(photo.faces == OWN for photo in known.photos) == before
    assert len(read_index(path).photos) == len(photos)
