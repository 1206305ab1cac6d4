"""What a finer latent grid would give: a face encoded at 1x, 1.5x and 2x, compared at its own size.

    python benchmarks/finer_grid.py --vae base=org/vae --vae ours=runs/a/export/vae.safetensors \
        --data photos --face-detector-weights yunet.onnx --lpips-weights lpips_squeeze.safetensors

Each photo is reduced until its face has --height pixels: that is its own size, and what all is
compared with. "from the photo" takes the same part of the photo larger, as the camera saw it;
"enlarged" blows the reduced one up by Lanczos. Both are encoded, decoded, and reduced to own size;
"without a VAE" is what that reducing does alone. Only photos whose face is high enough for the
largest factor are taken, the same ones in each row; intervals are 95 %, over photos.

Tuning a decoder keeps the latent grid at 1x: a gain of the other rows is out of its reach.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image
from torch import Tensor, nn

from benchmarks import bootstrap
from benchmarks.face_windows import (
    Face,
    View,
    face_parser,
    open_faces,
    open_lpips,
    open_vaes,
    round_trip,
    run,
    score_face,
    shared_multiple,
    view_at,
)
from benchmarks.results import add_outputs, hand_over
from trainer.errors import UserError
from trainer.judge.evaluation import as_pixels
from trainer.judge.pictures import as_bytes
from vae_core.images import to_unit

FACTORS = (1.0, 1.5, 2.0)
FIGURES = ("psnr", "lpips")
PHOTO, ENLARGED, ALONE = "from the photo", "enlarged", "without a VAE"

Row = dict[str, Any]
Way = tuple[str, str, float]  # VAE, how the larger picture came about, factor
Found = dict[Way, dict[str, list[float]]]


def main() -> None:
    options = parse()
    found = measure(options)
    rows = [row(found, way) for way in found]
    hand_over(rows, options)


def parse() -> argparse.Namespace:
    parser = face_parser(__doc__)
    parser.add_argument("--height", type=int, default=48, help="of faces at 1x, in pixels")
    add_outputs(parser)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> Found:
    """Measure every face that is high enough, in every way."""
    vaes, perceptual = open_vaes(options.vae, options.device), open_lpips(options)
    multiple, found = shared_multiple(vaes), {}
    for face in open_faces(options.data, options.face_detector_weights):
        if face.box[3] < options.height * max(FACTORS):
            continue
        own = view_at(face, options.height)
        for (name, way, factor), x in predictions(face, own, options.height, vaes, multiple):
            vae = next(iter(vaes.values())) if way == ALONE else vaes[name]
            score = score_face(x, vae, own, perceptual)
            kept = found.setdefault((name, way, factor), {figure: [] for figure in FIGURES})
            for figure in FIGURES:
                kept[figure].append(getattr(score, figure))
    if not found:
        least = options.height * max(FACTORS)
        raise UserError(f"no face in {options.data} is {least:.0f} px high: lower --height")
    return dict(sorted(found.items(), key=lambda item: item[0][1] == ALONE))


def predictions(
    face: Face, own: View, height: int, vaes: dict[str, nn.Module], multiple: int
) -> Iterator[tuple[Way, Tensor]]:
    """Make every way's picture at own size: [1, 3, H, W] of 8-bit values in [0, 1]."""
    first = next(iter(vaes.values()))
    for factor in FACTORS:
        larger = {PHOTO: view_at(face, height, factor).picture}
        if factor > 1:
            size = round(own.picture.shape[1] * factor), round(own.picture.shape[0] * factor)
            larger[ENLARGED] = resized(own.picture, size)
            alone = resized(larger[PHOTO], own.picture.shape[1::-1])
            yield ("-", ALONE, factor), to_unit(as_pixels(first, alone))
        for way, picture in larger.items():
            for name, vae in vaes.items():
                decoded = as_bytes(round_trip(vae, picture, multiple))
                reduced = resized(decoded, own.picture.shape[1::-1])
                yield (name, way, factor), to_unit(as_pixels(vae, reduced))


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample uint8 [H, W, 3] to (width, height) by Lanczos, antialiased; as it is if it fits."""
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def row(found: Found, way: Way) -> Row:
    """Sum up one way: means, and what they gain over 1x with their intervals."""
    name, how, factor = way
    own = found[way]
    line: Row = {"vae": name, "grid": f"{factor:g}x", "picture": how, "photos": len(own["psnr"])}
    has_lpips, larger = None not in own["lpips"], factor > 1 and how != ALONE
    line["psnr"] = bootstrap.mean(own["psnr"])
    line["lpips"] = bootstrap.mean(own["lpips"]) if has_lpips else None
    once = found[(name, PHOTO, 1.0)] if larger else own
    line["psnr gain"] = bootstrap.difference(once["psnr"], own["psnr"]) if larger else None
    less = bootstrap.change(once["lpips"], own["lpips"]) if larger and has_lpips else None
    return line | {"lpips change, %": less}


if __name__ == "__main__":
    run(main)
