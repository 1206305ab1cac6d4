"""Identity of faces through OpenCV's own classes; SFace itself is stood in for by a tiny network.

The network has SFace's input, an aligned face of 3 x 112 x 112, and gives its pixels, averaged in
squares of 8, as features: 588 in place of SFace's 128. What is aligned and compared is real.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage import data
from torch import Tensor

from trainer.errors import UserError
from trainer.judge.evaluation import score_pair
from trainer.judge.identity import Identity, open_identity
from trainer.judge.scores import compare, summarise
from trainer.photos.face_finder import FaceFinder

HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer: a whole number, or bytes with their length before them."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def tensor_info(name: bytes, *shape: int) -> bytes:
    sides = b"".join(field(1, field(1, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, sides)))


def node(kind: bytes, source: bytes, target: bytes, **attributes: list[int]) -> bytes:
    found = field(1, source) + field(2, target) + field(4, kind)
    for name, numbers in attributes.items():  # 7: a list of whole numbers
        values = b"".join(field(8, number) for number in numbers)
        found += field(5, field(1, name.encode()) + values + field(20, 7))
    return found


def tiny_recognizer() -> bytes:
    """An ONNX model: average pooling by 8, flattened, [1, 3, 112, 112] -> [1, 588]."""
    graph = field(1, node(b"AveragePool", b"x", b"y", kernel_shape=[8, 8], strides=[8, 8]))
    graph += field(1, node(b"Flatten", b"y", b"z")) + field(2, b"tiny")
    graph += field(11, tensor_info(b"x", 1, 3, 112, 112)) + field(12, tensor_info(b"z", 1, 588))
    return field(1, 7) + field(7, graph) + field(8, field(2, 12))


@pytest.fixture
def weights(assets: Path, tmp_path: Path) -> tuple[str, str]:
    recognizer = tmp_path / "tiny.onnx"
    recognizer.write_bytes(tiny_recognizer())
    return str(recognizer), str(assets / "models" / "face_detection_yunet_2023mar.onnx")


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.fixture
def portrait() -> Image.Image:
    return Image.open(HOPPER).convert("RGB")


def test_a_face_is_like_itself_and_less_so_the_more_it_is_smeared(
    weights: tuple[str, str], portrait: Image.Image
) -> None:
    ((box, _),) = FaceFinder(Path(weights[1])).find(portrait)
    identity = open_identity(*weights)
    y = pixels(portrait)
    found = [
        identity.similarity(pixels(portrait.filter(ImageFilter.GaussianBlur(r))), y, box)
        for r in (0, 12, 40)
    ]
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert 1 > found[1] > found[2]


def test_landmarks_are_those_of_the_face_in_its_photo(
    weights: tuple[str, str], portrait: Image.Image
) -> None:
    ((box, _),) = FaceFinder(Path(weights[1])).find(portrait)
    face = open_identity(*weights).landmarks(np.asarray(portrait)[..., ::-1].copy(), box)
    assert face[:4] == pytest.approx(box, abs=0.15 * box[2])
    right_eye, left_eye, nose, *corners = face[4:14].reshape(5, 2)
    inside = [box[0] < x < box[0] + box[2] and box[1] < y < box[1] + box[3] for x, y in
              (right_eye, left_eye, nose, *corners)]  # fmt: skip
    assert all(inside)
    assert right_eye[0] < nose[0] < left_eye[0] and right_eye[1] < nose[1] < corners[0][1]


def test_a_reconstruction_is_aligned_by_the_originals_landmarks(
    weights: tuple[str, str], portrait: Image.Image
) -> None:
    ((box, _),) = FaceFinder(Path(weights[1])).find(portrait)
    grey = torch.full_like(pixels(portrait), 0.5)  # no face to be found in it
    found = open_identity(*weights).similarity(grey, pixels(portrait), box)
    assert found is not None and found < 0.99


def test_where_there_is_no_face_nothing_is_said(weights: tuple[str, str]) -> None:
    coffee = pixels(Image.fromarray(data.coffee()))
    assert open_identity(*weights).similarity(coffee, coffee, (100, 100, 80, 80)) is None


def test_a_neighbours_face_does_not_stand_in(
    weights: tuple[str, str], portrait: Image.Image
) -> None:
    (((x, y, w, h), _),) = FaceFinder(Path(weights[1])).find(portrait)
    image = np.asarray(portrait)[..., ::-1].copy()
    identity = open_identity(*weights)
    assert identity.landmarks(image, (x + 0.2 * w, y, w, h)) is not None
    assert identity.landmarks(image, (x + 0.7 * w, y, w, h)) is None


def test_identity_is_a_figure_of_faces_by_size(
    weights: tuple[str, str], portrait: Image.Image
) -> None:
    boxes = [face.box for face in FaceFinder(Path(weights[1])).find(portrait)]
    identity, y = open_identity(*weights), pixels(portrait)
    x = pixels(portrait.filter(ImageFilter.GaussianBlur(12)))
    scores = [score_pair(made, y, boxes, None, "a", "a", identity) for made in (x, y)]
    summary = summarise(scores[:1])
    assert summary["faces"]["identity"] == summary["faces_large"]["identity"] < 1
    assert "identity" not in summary["background"] and "identity" not in summary["all"]
    gained = compare(scores[:1], scores[1:])["faces"]["identity"]
    assert gained["difference"] > 0 and gained["better"] == 1


def test_without_a_file_there_is_no_identity(portrait: Image.Image) -> None:
    assert open_identity(None, None) is None
    y = pixels(portrait)
    score = score_pair(y, y, [(180.0, 118.0, 172.0, 212.0)], None, "a", "a")
    assert "identity" not in summarise([score])["faces"]


def test_a_recognizer_without_detector_or_without_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give YuNet by --face-detector-weights too"):
        open_identity("sface.onnx", None)
    (tmp_path / "sface.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    for name in ("sface.onnx", "nowhere.onnx"):
        with pytest.raises(UserError, match="expected the face recognizer SFace"):
            Identity(tmp_path / name, tmp_path / "yunet.onnx")
