"""Finding faces: merging by hand, and YuNet on Grace Hopper's portrait."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from trainer.errors import UserError
from trainer.photos import face_finder
from trainer.photos.face_finder import FaceFinder, Found, cut, detector_weights, merge, shared_part

HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
FACE = (180, 118, 172, 212)  # seen by eye


@pytest.fixture
def weights(assets: Path) -> Path:
    return assets / "models" / "face_detection_yunet_2023mar.onnx"


def test_the_shared_part_is_of_the_smaller_box() -> None:
    assert shared_part((0, 0, 10, 10), (5, 0, 10, 10)) == 0.5
    assert shared_part((0, 0, 10, 10), (2, 2, 4, 4)) == 1
    assert shared_part((0, 0, 10, 10), (10, 0, 5, 5)) == 0


def test_of_boxes_that_overlap_the_surest_stays() -> None:
    found = [
        Found((0, 0, 100, 100), 0.8),
        Found((5, 5, 95, 100), 0.95),  # the same face, surer
        Found((40, 40, 10, 10), 0.75),  # an eye taken for a face
        Found((90, 0, 200, 200), 0.7),  # a neighbour that only touches it
    ]
    assert merge(found) == (found[3], found[1])


def test_boxes_are_cut_to_the_photo() -> None:
    assert cut((-5, 10, 20, 30), 100, 35) == (0, 10, 15, 25)
    assert cut((1, 2, 3, 4), 100, 35) == (1, 2, 3, 4)
    assert cut((100, 10, 20, 30), 100, 35) is None


def test_a_portrait_has_one_face_where_it_is(weights: Path) -> None:
    found = FaceFinder(weights).find(Image.open(HOPPER).convert("RGB"))
    assert len(found) == 1
    assert shared_part(found[0].box, FACE) > 0.8
    assert 0.7 < found[0].box[3] / FACE[3] < 1.3


@pytest.mark.parametrize(
    ("height", "cut"),
    [(20, (0, 0, 512, 600)), (1600, (150, 88, 382, 360))],
    ids=["tiny", "filling"],
)
def test_faces_are_found_from_tiny_to_filling_the_photo(
    weights: Path, height: int, cut: tuple[int, int, int, int]
) -> None:
    scale = height / FACE[3]
    photo = Image.open(HOPPER).convert("RGB").crop(cut)
    photo = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (max(1200, photo.width), max(900, photo.height)), (90, 110, 140))
    canvas.paste(photo, (0, 0))
    found = FaceFinder(weights).find(canvas)
    assert len(found) == 1
    x, y, w, h = FACE
    expected = [side * scale for side in (x - cut[0], y - cut[1], w, h)]
    assert shared_part(found[0].box, tuple(expected)) > 0.7


@pytest.mark.parametrize("content", [None, b"", b"<html>not a network</html>"])
def test_a_file_that_is_no_detector_is_refused_with_the_way_out(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "yunet.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"YuNet.*yunet\.onnx.*--face-detector-weights FILE"):
        FaceFinder(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "vae_lab"


def test_weights_are_fetched_once_when_asked_to(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_finder, "WEIGHTS_URL", weights.as_uri())
    path = detector_weights("download")
    assert path.parent == cache
    assert path.read_bytes() == weights.read_bytes()
    monkeypatch.setattr(face_finder, "WEIGHTS_URL", "file:///nowhere/" + weights.name)
    assert detector_weights("download") == path


def test_other_bytes_than_the_known_ones_are_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "fake.onnx"
    fake.write_bytes(np.random.default_rng(0).bytes(1000))
    monkeypatch.setattr(face_finder, "WEIGHTS_URL", fake.as_uri())
    with pytest.raises(UserError, match="--face-detector-weights FILE"):
        detector_weights("download")
    assert list(cache.iterdir()) == []


def test_an_address_that_cannot_be_reached_is_a_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_finder, "WEIGHTS_URL", "file:///nowhere/yunet.onnx")
    with pytest.raises(UserError, match="could not be fetched"):
        detector_weights("download")
