"""The demo's photos are there, apart, large enough, and found without importing anything heavy."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from trainer.errors import UserError
from trainer.photos import demo_photos
from trainer.photos.demo_photos import DEMO_PHOTOS, CarriedPhoto, demo_files

FACES = {"train": "astronaut.png", "val": "grace_hopper.jpg"}


def thumbnail(path) -> np.ndarray:
    small = Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64).ravel()
    return (values - values.mean()) / values.std()


def resemblance(one, other) -> float:
    """Correlation of two photos seen at 16 x 16."""
    return float(np.mean(thumbnail(one) * thumbnail(other)))


@pytest.mark.parametrize("part", DEMO_PHOTOS)
def test_photos_exist_in_colour_and_large_enough(part):
    for path in demo_files(part):
        with Image.open(path) as image:
            assert image.mode == "RGB" and min(image.size) >= 300, path.name


@pytest.mark.parametrize("part", DEMO_PHOTOS)
def test_a_face_stands_on_either_side(part):
    assert FACES[part] in {path.name for path in demo_files(part)}


def test_no_photo_stands_on_both_sides():
    train, val = (
        {hashlib.sha256(path.read_bytes()).hexdigest() for path in demo_files(part)}
        for part in ("train", "val")
    )
    assert train and val and not train & val


def test_no_photo_looks_like_one_of_the_other_side():
    """The stereo pair of motorcycles is what this guards against: it must be seen as alike."""
    left = next(path for path in demo_files("train") if path.name == "motorcycle_left.png")
    assert resemblance(left, left.with_name("motorcycle_right.png")) > 0.7
    for one in demo_files("train"):
        for other in demo_files("val"):
            assert resemblance(one, other) < 0.7, (one.name, other.name)


def test_finding_them_imports_no_package():
    code = (
        "import sys; from trainer.photos.demo_photos import demo_files; "
        "demo_files('train'), demo_files('val'); "
        "print({'skimage', 'sklearn', 'matplotlib', 'torch', 'numpy'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


def test_another_part_is_refused():
    with pytest.raises(UserError, match="demo:train and demo:val; there is no demo:tset"):
        demo_files("tset")


@pytest.mark.parametrize("package", ["no_such_package_here", "json"])
def test_a_missing_photo_names_the_package_and_the_extra(monkeypatch, package):
    missing = CarriedPhoto(package, "scikit-image", "data/astronaut.png")
    monkeypatch.setitem(demo_photos.DEMO_PHOTOS, "train", (missing,))
    sentence = r"astronaut\.png out of the package scikit-image.*\[train\]"
    with pytest.raises(UserError, match=sentence):
        demo_files("train")
