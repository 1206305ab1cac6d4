"""How well faces come back by their height: LPIPS and PSNR of a face over its latent cells.

    python benchmarks/face_heights.py --vae base=org/vae --vae ours=runs/a/export/vae.safetensors \
        --data photos --face-detector-weights yunet.onnx --lpips-weights lpips_squeeze.safetensors \
        --plot heights.png

Each photo is reduced, never enlarged, until its largest face is so high, encoded and decoded. Rows
are means over the photos whose face is high enough, with 95 % bootstrap intervals over photos; the
changes are to the first VAE on the same photos. A latent cell is 8 pixels.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from torch import nn

from benchmarks import bootstrap
from benchmarks.bands import Band, plot_bands
from benchmarks.face_windows import (
    CELL,
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
from trainer.judge.perceptual import Perceptual

CELLS = [2, 3, 4, 6, 8, 12, 16, 20]
FIGURES = ("lpips", "psnr")

Row = dict[str, Any]
Found = dict[str, dict[int, dict[str, list[float]]]]  # VAE -> cells -> figure -> by photo


def main() -> None:
    options = parse()
    vaes, perceptual = open_vaes(options.vae, options.device), open_lpips(options)
    found = measure(options, vaes, perceptual)
    rows = [row(found, name, cells) for name in found for cells in found[name]]
    hand_over(rows, options)
    if options.plot:
        draw(rows, options.plot, perceptual)


def parse() -> argparse.Namespace:
    parser = face_parser(__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=CELLS, help="heights of faces")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    add_outputs(parser)
    return parser.parse_args()


def measure(
    options: argparse.Namespace, vaes: dict[str, nn.Module], perceptual: Perceptual | None
) -> Found:
    """Measure every face at every height that it has."""
    found: Found = {name: {} for name in vaes}
    multiple = shared_multiple(vaes)
    for cells, view in views(options):
        for name, vae in vaes.items():
            score = score_face(round_trip(vae, view.picture, multiple), vae, view, perceptual)
            kept = found[name].setdefault(cells, {})
            for figure in FIGURES:
                if getattr(score, figure) is not None:
                    kept.setdefault(figure, []).append(getattr(score, figure))
    return {name: dict(sorted(by_cells.items())) for name, by_cells in found.items()}


def views(options: argparse.Namespace) -> Iterator[Any]:
    for face in open_faces(options.data, options.face_detector_weights):
        for cells in options.cells:
            if cells * CELL <= face.box[3]:
                yield cells, view_at(face, cells * CELL)


def row(found: Found, name: str, cells: int) -> Row:
    """Sum up one height: means, intervals, and the change to the first VAE."""
    first = next(iter(found))
    base, own = found[first][cells], found[name][cells]
    line: Row = {"vae": name, "cells": cells, "pixels": cells * CELL, "photos": len(own["psnr"])}
    for figure in FIGURES:
        line[figure] = bootstrap.mean(own[figure]) if figure in own else None
    other = name != first
    has_lpips = other and "lpips" in own
    line["lpips change, %"] = bootstrap.change(base["lpips"], own["lpips"]) if has_lpips else None
    line["psnr gain"] = bootstrap.difference(base["psnr"], own["psnr"]) if other else None
    return line


def draw(rows: list[Row], path: Path, perceptual: Perceptual | None) -> None:
    """Draw a curve a VAE, with its band: LPIPS where there is one, and PSNR."""
    labels = {"lpips": perceptual.name if perceptual else "", "psnr": "PSNR, dB"}
    panels = {}
    for figure in FIGURES:
        known = [line for line in rows if line[figure] is not None]
        curves: dict[str, list[tuple[float, ...]]] = {}
        for line in known:
            curves.setdefault(line["vae"], []).append((line["cells"], *line[figure]))
        if curves:
            panels[labels[figure]] = [Band(name, points) for name, points in curves.items()]
    plot_bands(path, panels, "height of the face in latent cells of 8 pixels", ticks=True)


if __name__ == "__main__":
    run(main)
