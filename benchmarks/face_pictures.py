"""A picture of the same small faces beside what each VAE makes of them.

    python benchmarks/face_pictures.py --vae base=org/vae --vae ours=runs/a/export/vae.safetensors \
        --output faces.png --lpips-weights lpips_squeeze.safetensors

A row is a face at a height: its photo is reduced, never enlarged, until the face is so high, then
encoded and decoded. What is shown is enlarged by a whole number, pixel by pixel, so that nothing
is invented. `--data packaged` takes the photos of scikit-image's and matplotlib's packages.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image
from torch import nn

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
    window,
)
from benchmarks.results import add_outputs, hand_over
from trainer.judge.perceptual import Perceptual
from trainer.judge.pictures import as_bytes
from vae_core.drawn.drawing import BACKGROUND, FAINT, stack, text

SHOWN = 240  # pixels: the height of an enlarged face with what is around it, about
GAP = 10
HEADING, SMALL = 17, 14  # sizes of words
ORIGINAL = "original"

Row = dict[str, Any]


def main() -> None:
    options = parse()
    vaes, perceptual = open_vaes(options.vae, options.device), open_lpips(options)
    rows, strips = [], []
    for face in chosen(options):
        for height in sorted(options.heights):
            found, cells = show(face, height, vaes, perceptual)
            rows += found
            strips.append([text(f"{height} px", HEADING), *cells])
    sheet([ORIGINAL, *vaes], strips).save(options.output)
    hand_over(rows, options)


def parse() -> argparse.Namespace:
    parser = face_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    parser.add_argument("--heights", type=int, nargs="+", default=[24, 32, 48, 64])
    parser.add_argument("--count", type=int, default=4, help="photos, evenly out of all")
    add_outputs(parser)
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Face]:
    """Choose photos whose faces are high enough, evenly over all by name."""
    faces = list(open_faces(options.data, options.face_detector_weights))
    faces = [face for face in faces if face.box[3] >= max(options.heights)]
    count = min(options.count, len(faces))
    return [faces[i * len(faces) // count] for i in range(count)]


def show(
    face: Face, height: int, vaes: dict[str, nn.Module], perceptual: Perceptual | None
) -> tuple[list[Row], list[Image.Image]]:
    """Reconstruct a face at one height: its figures, and a cell for the original and each VAE."""
    view = view_at(face, height)
    rows, cells = [], [cell(view.picture, view, legend(perceptual))]
    for name, vae in vaes.items():
        x = round_trip(vae, view.picture, shared_multiple(vaes))
        found = score_face(x, vae, view, perceptual)
        rows.append({"face": face.name, "height": height, "vae": name})
        rows[-1] |= {"psnr": found.psnr, "lpips": found.lpips}
        cells.append(cell(as_bytes(x), view, figures(found.psnr, found.lpips)))
    return rows, cells


def legend(perceptual: Perceptual | None) -> str:
    return "PSNR" + (f"   {perceptual.name}" if perceptual else "")


def figures(psnr: float, lpips: float | None) -> str:
    return f"{psnr:.1f} dB" + (f"   {lpips:.3f}" if lpips is not None else "")


def cell(picture: np.ndarray, view: View, words: str) -> Image.Image:
    """Enlarge the face's window pixel by pixel, with words beneath."""
    rows, columns = window(view)
    part = Image.fromarray(picture[rows, columns])
    factor = max(1, round(SHOWN / part.height))
    size = part.width * factor, part.height * factor
    return stack([part.resize(size, Image.Resampling.NEAREST), text(words, SMALL, FAINT)], gap=3)


def sheet(heads: list[str], strips: list[list[Image.Image]]) -> Image.Image:
    """Lay rows of cells under the names of their columns; the first column has the heights."""
    table = [[text("", SMALL), *(text(head, HEADING) for head in heads)], *strips]
    widths = [max(picture.width for picture in column) for column in zip(*table, strict=True)]
    heights = [max(picture.height for picture in line) for line in table]
    extent = [sum(sides) + GAP * (len(sides) + 1) for sides in (widths, heights)]
    canvas = Image.new("RGB", tuple(extent), BACKGROUND)
    top = GAP
    for line, height in zip(table, heights, strict=True):
        left = GAP
        for picture, width in zip(line, widths, strict=True):
            canvas.paste(picture, (left + (width - picture.width) // 2, top))
            left += width + GAP
        top += height + GAP
    return canvas


if __name__ == "__main__":
    run(main)
