"""Whether a face stays the same person: SFace (Zhong et al., 2021) by OpenCV, from a local file.

YuNet finds five landmarks of a face in the original alone; original and reconstruction are aligned
by the same ones, so that a reconstruction is not helped by landmarks of its own.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from trainer.errors import UserError
from trainer.photos.boxes import Box
from trainer.photos.face_finder import detector_weights
from vae_core.compare.squares import square_around

SEEN = 2.0  # side of what the detector sees, in sides of the face's box
SIDE = 320  # pixels to which that is brought for it
CONFIDENCE = 0.5  # a face is known to be there
NEAR = 0.5  # of the box's sides: the most that the face found may lie off its middle


class Identity:
    """SFace and the YuNet that aligns for it; one face at a time, nothing remembered."""

    def __init__(self, recognizer: Path, detector: Path) -> None:
        import cv2  # here, as it is large and most runs do without

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        self._cv2, nothing = cv2, np.empty(0, np.uint8)
        try:
            # from bytes, as OpenCV cannot open every path that Windows allows
            sface, yunet = (
                np.frombuffer(path.read_bytes(), np.uint8) for path in (recognizer, detector)
            )
            self._recognizer = cv2.FaceRecognizerSF.create("onnx", sface, nothing)
            self._detector = cv2.FaceDetectorYN.create(
                "onnx", yunet, nothing, (SIDE, SIDE), CONFIDENCE
            )
        except (OSError, cv2.error) as error:
            raise UserError(
                f"expected the face recognizer SFace (an .onnx file) at {recognizer} and the face "
                f"detector YuNet at {detector}, but they cannot be read: give their places by "
                "--face-recognizer-weights and --face-detector-weights"
            ) from error

    def similarity(self, x: Tensor, y: Tensor, box: Box) -> float | None:
        """Return how like the face in `y` that in `x` is: cosine of their features, at most 1.

        Prediction and original are [1, C, H, W] in [0, 1]. None where no landmarks are found.
        """
        original = _as_bgr(y)
        face = self.landmarks(original, box)
        if face is None:
            return None
        features = []
        for image in (_as_bgr(x), original):
            aligned = self._recognizer.alignCrop(image, face)
            # a copy, as the next call writes into the same memory
            features.append(self._recognizer.feature(aligned).copy())
        return float(self._recognizer.match(*features, self._cv2.FaceRecognizerSF_FR_COSINE))

    def landmarks(self, image: np.ndarray, box: Box) -> np.ndarray | None:
        """Find the face of a box in uint8 [H, W, 3], BGR: box, five landmarks and score, [15]."""
        x, y, w, h = box
        part = square_around(box, SEEN, *image.shape[:2])
        left, top, side = part
        part = Image.fromarray(image[top : part.bottom, left : part.right])
        seen = np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        _, rows = self._detector.detect(seen)
        if rows is None:
            return None
        rows = rows.copy()
        rows[:, :14] *= side / SIDE
        rows[:, 0:14:2] += (left, 0, *[left] * 5)  # x, width, five landmarks
        rows[:, 1:14:2] += (top, 0, *[top] * 5)
        off = np.abs(rows[:, :2] + rows[:, 2:4] / 2 - (x + w / 2, y + h / 2)) / (w, h)
        nearest = int(off.max(axis=1).argmin())
        return rows[nearest] if off[nearest].max() < NEAR else None


def open_identity(recognizer: str | None, detector: str | None) -> Identity | None:
    """Make ready what --face-recognizer-weights and --face-detector-weights mean; None without."""
    if recognizer is None:
        return None
    if detector is None:
        raise UserError(
            "--face-recognizer-weights needs landmarks of the faces to align them by: give YuNet "
            "by --face-detector-weights too"
        )
    return Identity(Path(recognizer), detector_weights(detector))


def _as_bgr(image: Tensor) -> np.ndarray:
    """Turn [1, C, H, W] in [0, 1] into bytes as OpenCV has them: [H, W, 3], blue first."""
    levels = (image[0].nan_to_num(0.0) * 255).round().byte().expand(3, -1, -1)
    return levels.permute(1, 2, 0).flip(2).contiguous().cpu().numpy()
