"""Find faces with YuNet (Wu et al., 2023, https://doi.org/10.1007/s11633-023-1423-y) by OpenCV.

Boxes are (x, y, width, height) in upright pixels of the photo.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image

from trainer.errors import UserError
from trainer.photos.boxes import Box
from trainer.photos.photo_set import Photo, PhotoSet
from trainer.photos.skips import SkippedPhoto

DOWNLOAD = "download"  # as --face-detector-weights: fetch YuNet once, into torch's own cache
WEIGHTS_URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)
WEIGHTS_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
# YuNet misses close-ups at full size and small faces on a small copy: it looks at both.
SIDES = (2048, 320)
CONFIDENCE = 0.7
OVERLAP = 0.5  # boxes that share more than this part of the smaller one are one face


class Found(NamedTuple):
    """A face and how sure the detector is of it, in [0, 1]."""

    box: Box
    confidence: float


class FaceFinder:
    """YuNet, loaded from a file; one photo at a time, nothing remembered."""

    def __init__(self, weights: Path) -> None:
        import cv2  # here, as it is large and most runs do without

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            # from bytes, as OpenCV cannot open every path that Windows allows
            model = np.frombuffer(weights.read_bytes(), np.uint8)
            self._detector = cv2.FaceDetectorYN.create(
                "onnx", model, np.empty(0, np.uint8), (320, 320), CONFIDENCE
            )
        except (OSError, cv2.error) as error:
            raise UserError(
                f"expected the face detector YuNet (an .onnx file) at {weights}, but it cannot be "
                f"read: give its place by --face-detector-weights FILE, or '{DOWNLOAD}'"
            ) from error

    def find(self, image: Image.Image) -> tuple[Box, ...]:
        """Return the boxes of the faces in an RGB photo, the largest first."""
        found = [face for side in SIDES for face in self._look(image, side)]
        return merge(found)

    def _look(self, image: Image.Image, side: int) -> list[Found]:
        scale = min(1.0, side / max(image.size))
        width, height = (max(1, round(length * scale)) for length in image.size)
        copy_of_it = image.resize((width, height), Image.Resampling.BILINEAR)
        self._detector.setInputSize((width, height))
        _, rows = self._detector.detect(np.asarray(copy_of_it)[:, :, ::-1].copy())
        rows = [] if rows is None else rows
        return [Found(tuple(float(v) / scale for v in row[:4]), float(row[-1])) for row in rows]


def merge(found: Iterable[Found]) -> tuple[Box, ...]:
    """Keep the surest of boxes that overlap; the largest first."""
    kept: list[Box] = []
    for face in sorted(found, key=lambda face: -face.confidence):
        if all(shared_part(face.box, other) <= OVERLAP for other in kept):
            kept.append(face.box)
    return tuple(sorted(kept, key=lambda box: -box[2] * box[3]))


def shared_part(a: Box, b: Box) -> float:
    """The part of the smaller box that lies in the other, in [0, 1]."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    smaller = min(a[2] * a[3], b[2] * b[3])
    return max(0.0, width) * max(0.0, height) / smaller if smaller > 0 else 0.0


def with_faces(
    photos: PhotoSet, weights: str | None, progress: Callable[[], object] | None = None
) -> PhotoSet:
    """Return the set with boxes found for the photos that came without; unchanged if no weights.

    A photo that cannot be read keeps None: whoever reads it next says so.
    """
    if weights is None or all(photo.faces is not None for photo in photos.photos):
        return photos
    finder = FaceFinder(detector_weights(weights))
    known = []
    for i, photo in enumerate(photos.photos):
        known.append(_with_own_faces(photos, i, photo, finder))
        if progress:
            progress()
    return dataclasses.replace(photos, photos=known)


def _with_own_faces(photos: PhotoSet, i: int, photo: Photo, finder: FaceFinder) -> Photo:
    if photo.faces is not None:
        return photo
    try:
        return dataclasses.replace(photo, faces=finder.find(photos.image(i)))
    except SkippedPhoto:
        return photo


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
            "elsewhere and give it by --face-detector-weights FILE, or leave that option out"
        ) from error
