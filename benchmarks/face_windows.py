"""Small faces to measure: a photo reduced until its face has a height, and through a VAE there.

Pictures are uint8 [H, W, 3]; boxes are (x, y, width, height) in pixels. A face is seen among what
surrounds it, since a decoder looks around: at least 256 pixels a side, or all of the photo.
"""

import argparse
import math
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from trainer.errors import UserError
from trainer.judge.evaluation import as_pixels, measure_for, multiple_for, reconstruct
from trainer.judge.perceptual import Perceptual, load_perceptual
from trainer.judge.regions import FACES, RegionScore, score_regions
from trainer.options.config import resolve_vae
from trainer.photos.boxes import Box
from trainer.photos.demo_photos import demo_files
from trainer.photos.face_search import open_search
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.vae.base import load_base
from vae_core.compare.figures import PATCH
from vae_core.images import to_unit
from vae_core.lpips import NETS

PACKAGED = "packaged"  # as --data: the photos below, out of installed packages
# Their faces as YuNet finds them, so that it is not needed.
PACKAGED_FACES: dict[str, Box] = {
    "astronaut.png": (179.0, 63.0, 89.0, 112.0),
    "grace_hopper.jpg": (183.0, 120.0, 170.0, 212.0),
}
CONTEXT = 256  # pixels a side that are seen with a face, or twice the face where that is more
CELL = 8  # pixels of a latent cell


@dataclass
class Face:
    """The largest face of a photo, in the photo's own pixels; decoded when it is looked at."""

    name: str
    box: Box
    load: Callable[[], Image.Image]

    @cached_property
    def photo(self) -> Image.Image:
        return self.load()


class View(NamedTuple):
    """A photo around its face, at some scale, and where the face is."""

    picture: np.ndarray
    box: Box


# Opening


def face_parser(about: str) -> ArgumentParser:
    """Begin the options of a command that looks at faces; `about` is its docstring."""
    parser = ArgumentParser(description=about.splitlines()[0])
    add = parser.add_argument
    add("--vae", action="append", required=True, metavar="[NAME=]VAE", help="again for each")
    add("--data", default=PACKAGED, help=f"as --data of the trainer, or '{PACKAGED}' (default)")
    add("--face-detector-weights", metavar="FILE", help="YuNet; 'packaged' does without")
    add("--lpips-net", choices=sorted(NETS), default="squeeze")
    add("--lpips-weights", metavar="FILE", help="without it, PSNR alone is measured")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def open_vaes(specs: list[str], device: str) -> dict[str, nn.Module]:
    """Load VAEs by short names: those given as NAME=VAE, or taken from their places."""
    named = [named_place(spec) for spec in specs]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UserError(f"expected VAEs of different names, got {', '.join(names)}: write NAME=VAE")
    return {name: load_base(resolve_vae(place)).vae.eval().to(device) for name, place in named}


def named_place(spec: str) -> tuple[str, str]:
    """Split NAME=PLACE; without a name, the last part of the place that says something."""
    name, _, place = spec.partition("=")
    if place and "/" not in name:
        return name, place
    parts = [part for part in Path(spec).parts if part not in ("export", "diffusers")]
    last = Path(parts[-1])
    return (parts[-2] if last.name == "vae.safetensors" and parts[1:] else last.stem), spec


def open_lpips(options: argparse.Namespace) -> Perceptual | None:
    """Load LPIPS where its weights are given."""
    net, file = options.lpips_net, options.lpips_weights
    return file and load_perceptual(net, file, False, nn.Identity(), options.device)


def with_faces(photos: PhotoSet, detector: str | None) -> PhotoSet:
    """Look for the faces that did not come with the photos."""
    search = open_search(detector, None)
    return photos if search is None else search.known(photos)


def open_faces(data: str, detector: str | None) -> Iterator[Face]:
    """Give the largest face of each photo that has one, a photo at a time."""
    if data == PACKAGED:
        files = [path for part in ("train", "val") for path in demo_files(part)]
        for path in files:
            if path.name in PACKAGED_FACES:
                yield Face(path.stem, PACKAGED_FACES[path.name], partial(read_image, path))
        return
    photos = with_faces(open_photos(data, CELL), detector)
    if not any(photo.faces for photo in photos.photos):
        raise UserError(f"no face is known in {data}: give --face-detector-weights FILE")
    order = sorted(range(len(photos)), key=lambda i: photos.photos[i].name)
    for i in tqdm(order, unit=" photos", leave=False):
        if photos.photos[i].faces:
            largest = max(photos.photos[i].faces, key=lambda box: box[2] * box[3])
            yield Face(Path(photos.photos[i].name).stem, largest, partial(photos.image, i))


def read_image(path: Path) -> Image.Image:
    """Read a photo that a package carries."""
    with Image.open(path) as image:
        return image.convert("RGB")


# Seeing


def view_at(face: Face, height: float, factor: float = 1.0) -> View:
    """Reduce the photo until its face has `height` pixels, times `factor`; cut out around it.

    The same part of the photo is seen at every factor. The face must have that many pixels.
    """
    scale = height / face.box[3]
    if scale * factor > 1.0001:
        raise ValueError(f"{face.name}: a face of {face.box[3]:.0f} px is not enlarged")
    region = _region(face, scale)
    size = round(region[2] * factor), round(region[3] * factor)
    left, top, width, height = (side / scale for side in region)
    part = (left, top, min(left + width, face.photo.width), min(top + height, face.photo.height))
    picture = face.photo.resize(size, Image.Resampling.LANCZOS, box=part)
    x, y = (face.box[i] * scale - region[i] for i in (0, 1))
    box = tuple(side * factor for side in (x, y, face.box[2] * scale, face.box[3] * scale))
    return View(np.array(picture), box)


def _region(face: Face, scale: float) -> tuple[int, int, int, int]:
    """Choose what is seen, (left, top, width, height) in reduced pixels, of even sides."""
    side = max(CONTEXT, 2 * math.ceil(max(face.box[2:]) * scale))
    corner, extent = [], []
    for i, whole in enumerate(face.photo.size):
        whole = math.floor(whole * scale + 1e-6)
        length = min(side, whole) // 2 * 2
        middle = (face.box[i] + face.box[2 + i] / 2) * scale
        corner.append(min(max(0, round(middle - length / 2)), whole - length))
        extent.append(length)
    return (*corner, *extent)


def shared_multiple(vaes: dict[str, nn.Module]) -> int:
    """Return what the sides of a picture are padded to, for every one of the VAEs."""
    return math.lcm(*map(multiple_for, vaes.values()))


def round_trip(vae: nn.Module, picture: np.ndarray, multiple: int) -> Tensor:
    """Encode and decode a picture: [1, 3, H, W] of 8-bit values in [0, 1].

    Its last rows and columns are repeated up to multiples, and cut off afterwards.
    """
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")
    device = next(vae.parameters()).device
    return reconstruct(vae, padded, device)[..., :height, :width]


def score_face(x: Tensor, vae: nn.Module, view: View, perceptual: Perceptual | None) -> RegionScore:
    """Measure the face as the trainer does: PSNR of its box, LPIPS of the square around it."""
    y = to_unit(as_pixels(vae, view.picture)).to(x.device)
    return score_regions(x, y, None, [view.box], measure_for(perceptual, PATCH))[FACES]


def window(view: View) -> tuple[slice, slice]:
    """Return rows and columns of a face with a quarter of it around, within the picture."""
    x, y, width, height = view.box
    rows = _part(y, height, view.picture.shape[0])
    return rows, _part(x, width, view.picture.shape[1])


def _part(begin: float, length: float, whole: int) -> slice:
    return slice(max(0, round(begin - length / 8)), min(whole, round(begin + length * 9 / 8)))


def run(main: Callable[[], None]) -> None:
    """Run a command; what a user can put right ends it with a sentence."""
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
