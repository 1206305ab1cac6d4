"""Find faces with YuNet (Wu et al., 2023, https://doi.org/10.1007/s11633-023-1423-y) by OpenCV.

Boxes are (x, y, width, height) in upright pixels of the photo, cut to it.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image

from trainer.errors import UserError
from trainer.photos.boxes import Box
from vae_core.files import sha256_file

DOWNLOAD = "download"  # as --face-detector-weights: fetch YuNet once, into torch's own cache
WEIGHTS_URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)
WEIGHTS_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
LOOKING = "2"  # version of all that follows: boxes found in another way are not mixed with these
# YuNet sees faces of 20 to 400 pixels, so it looks at each photo enlarged twofold, as long as that
# makes no more than MOST_PIXELS, at half of that size, and small enough for a face that fills it.
# What that finds, and why these figures: docs/faces.md.
MOST_PIXELS = 6_300_000
SMALL = 64  # pixels in the largest copy, where only smaller faces count: it shows too many others
SMALLEST_SIDE = 320  # long side of the smallest copy
CONFIDENCE = 0.8
OVERLAP = 0.5  # boxes that share more than this part of the smaller one are one face


class Found(NamedTuple):
    """A face and how sure the detector is of it, in [0, 1]."""

    box: Box
    score: float


class FaceFinder:
    """YuNet, loaded from a file; one photo at a time, nothing remembered.

    sha256: of the file, to tell detectors apart.
    """

    def __init__(self, weights: Path) -> None:
        import cv2  # here, as it is large and most runs do without

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            # from bytes, as OpenCV cannot open every path that Windows allows
            model = np.frombuffer(weights.read_bytes(), np.uint8)
            self._detector = cv2.FaceDetectorYN.create(
                "onnx", model, np.empty(0, np.uint8), (320, 320), CONFIDENCE
            )
            self.sha256 = sha256_file(weights)
        except (OSError, cv2.error) as error:
            raise UserError(
                f"expected the face detector YuNet (an .onnx file) at {weights}, but it cannot be "
                f"read: give its place by --face-detector-weights FILE, or '{DOWNLOAD}'"
            ) from error

    def find(self, image: Image.Image) -> tuple[Found, ...]:
        """Return the faces in an RGB photo, the largest first."""
        largest, *others = scales(*image.size)
        found = [face for scale in others for face in self._look(image, scale)]
        enlarged = self._look(image, largest)
        return merge(found + [face for face in enlarged if face.box[3] * largest < SMALL])

    def _look(self, image: Image.Image, scale: float) -> Iterator[Found]:
        width, height = (max(1, round(length * scale)) for length in image.size)
        how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR
        copy_of_it = image.resize((width, height), how)
        self._detector.setInputSize((width, height))
        _, rows = self._detector.detect(np.asarray(copy_of_it)[:, :, ::-1].copy())
        for row in () if rows is None else rows.tolist():
            box = cut(tuple(value / scale for value in row[:4]), *image.size)
            if box:
                yield Found(box, min(1.0, row[-1]))


def scales(width: int, height: int) -> list[float]:
    """List the sizes at which a photo is looked at, in parts of its own, the largest first."""
    largest = min(2.0, math.sqrt(MOST_PIXELS / (width * height)))
    smallest = SMALLEST_SIDE / max(width, height)
    return [largest, largest / 2, *([smallest] if smallest < largest / 2 else [])]


def cut(box: Box, width: int, height: int) -> Box | None:
    """Cut a box to a photo; None if nothing of it lies inside."""
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(width, box[0] + box[2]), min(height, box[1] + box[3])
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def merge(found: Iterable[Found]) -> tuple[Found, ...]:
    """Keep the surest of boxes that overlap; the largest first."""
    kept: list[Found] = []
    for face in sorted(found, key=lambda face: -face.score):
        if all(shared_part(face.box, other.box) <= OVERLAP for other in kept):
            kept.append(face)
    return tuple(sorted(kept, key=lambda face: -face.box[2] * face.box[3]))


def shared_part(a: Box, b: Box) -> float:
    """The part of the smaller box that lies in the other, in [0, 1]."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    smaller = min(a[2] * a[3], b[2] * b[3])
    return max(0.0, width) * max(0.0, height) / smaller if smaller > 0 else 0.0


def detector_weights(spec: str) -> Path:
    """Return the file that --face-detector-weights means, fetching it once where asked to."""
    if spec != DOWNLOAD:
        return Path(spec)
    path = Path(torch.hub.get_dir()) / "vae_lab" / WEIGHTS_URL.rsplit("/", 1)[-1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(path)
    return path


def _fetch(path: Path) -> None:
    try:
        torch.hub.download_url_to_file(WEIGHTS_URL, str(path), WEIGHTS_SHA256, progress=False)
    except (OSError, URLError, RuntimeError) as error:  # RuntimeError: another SHA-256
        raise UserError(
            f"the face detector could not be fetched from {WEIGHTS_URL} ({error}): fetch the file "
            "elsewhere and give it by --face-detector-weights FILE, or do without: none"
        ) from error
