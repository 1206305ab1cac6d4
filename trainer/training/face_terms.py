"""Where a loss looks at faces: weights of pixels, and windows for LPIPS.

Boxes are (x, y, width, height) in a crop's pixels, listed per picture of a batch.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.photos.boxes import Box
from trainer.photos.crops import sample_generator
from vae_core.compare.figures import MARGIN, PATCH, resampled
from vae_core.compare.squares import Square, square_around

SOFTNESS = 0.08  # of a face's side: over this length the weight rises by the logistic function
# Of one crop that are seen at a time: a grid of small faces holds up to 16, and each window costs
# LPIPS of 128 x 128 pixels. Which ones is drawn anew for every crop. With 12, and windows
# around larger faces too, faces gained more than with 4 around small ones (docs/results.md).
MOST_WINDOWS = 12

Boxes = Sequence[Sequence[Box]]


def pixel_weights(faces: Boxes, height: int, width: int, strength: float) -> Tensor:
    """Weigh pixels: 1 beside faces, 1 + strength inside, a smooth edge -> [B, 1, H, W], mean 1.

    The mean over each picture is 1, so that the loss of a crop full of faces, of one without any
    and of one weighed evenly are of one size.
    """
    maps = [1 + strength * _inside(boxes, height, width) for boxes in faces]
    return torch.stack([weights / weights.mean() for weights in maps])[:, None]


def _inside(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Map how far a pixel lies in any of the boxes: [H, W], 0 to 1, 1/2 on an edge."""
    inside = torch.zeros(height, width)
    for x, y, w, h in boxes:
        within = _along(y, h, height)[:, None] * _along(x, w, width)[None]
        inside = torch.maximum(inside, within)
    return inside


def _along(start: float, length: float, pixels: int) -> Tensor:
    centres = torch.arange(pixels) + 0.5
    soft = max(SOFTNESS * length, 0.5)
    return torch.sigmoid((centres - start) / soft) * torch.sigmoid(
        (start + length - centres) / soft
    )


class FaceWindow(NamedTuple):
    """A square of a picture of the batch."""

    picture: int
    square: Square


def face_windows(faces: Boxes, height: int, width: int) -> list[FaceWindow]:
    """Choose what LPIPS sees of faces: squares around them, at most twelve of each picture.

    As evaluation sees them: 25 % larger than the box's longer side, moved into the picture.
    """
    return [
        FaceWindow(picture, square_around(box, MARGIN, height, width))
        for picture, boxes in enumerate(faces)
        for box in _some(boxes)
    ]


def _some(boxes: Sequence[Box]) -> Sequence[Box]:
    """Choose at random among many, as a function of the boxes alone."""
    if len(boxes) <= MOST_WINDOWS:
        return boxes
    generator = sample_generator(0, 0, repr(boxes), "windows")
    chosen = torch.randperm(len(boxes), generator=generator)[:MOST_WINDOWS]
    return [boxes[i] for i in chosen.tolist()]


def resample(pixels: Tensor, windows: Sequence[FaceWindow]) -> Tensor:
    """Cut windows out of [B, C, H, W] and bring them to one size: [N, C, 128, 128]."""
    return torch.cat([resampled(pixels[w.picture, None], w.square) for w in windows])


def mean_over_pictures(distances: Tensor, windows: Sequence[FaceWindow], pictures: int) -> Tensor:
    """Average distances [N] over each picture's windows, then over all pictures of the batch.

    A picture without a face counts as 0, so that every picture weighs the same however a batch is
    shared out over processes.
    """
    of_each = Counter(window.picture for window in windows)
    shares = [1 / of_each[window.picture] / pictures for window in windows]
    return (distances * distances.new_tensor(shares)).sum()


def in_words(face_weight: float, face_lpips_weight: float, distance: str) -> list[str]:
    """Say how the terms of faces are reduced and weighted, a line per term that is at work."""
    lines = []
    if face_weight:
        lines.append(
            f"rec counts pixels of known faces {1 + face_weight:g} times, with a smooth edge; the "
            "weights of a crop have the mean 1"
        )
    if face_lpips_weight:
        lines.append(
            f"{distance} of faces: on squares around them, brought to {PATCH} pixels, mean over "
            f"those of a crop (at most {MOST_WINDOWS}), mean over the batch, 0 where there is "
            f"none; weight {face_lpips_weight:g}"
        )
    return lines
