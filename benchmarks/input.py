"""What photos a second the input gives, and how long a step waits for them.

    python benchmarks/input.py --data photos/ --resolution 256 --step 0.25
    python benchmarks/input.py --megapixels 12

By number of workers, and with JPEGs decoded in full or only as far as a crop takes. The step is a
pause of `--step` seconds a batch, as a GPU lets the processor pause: on a CPU the step itself takes
cores away from the workers. `--megapixels` tiles the photos to that size, as cameras make them.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from benchmarks.results import write_json
from trainer.photos.loader import Batch, training_batches
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.training.waiting import TimedBatches

Row = dict[str, Any]


class WholePhoto:
    """What OpenPhoto does, with all pixels decoded whatever the crop takes."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.size = image.size

    def square(self, left: int, top: int, side: int, resolution: int) -> Image.Image:
        box = (left, top, left + side, top + side)
        size = (resolution, resolution)
        return self._image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


class WholePhotos(PhotoSet):
    """A set whose photos are decoded in full."""

    def open(self, index: int) -> WholePhoto:
        return WholePhoto(self.image(index))


def main() -> None:
    options = parse()
    with TemporaryDirectory() as folder:
        photos = open_photos(options.data, options.resolution)
        if options.megapixels:
            tile(photos, options.megapixels, Path(folder))
            photos = open_photos(folder, options.resolution)
        sides = statistics.median(min(photo.width, photo.height) for photo in photos.photos)
        print(f"{len(photos)} photos, short side {sides:.0f} pixels in the median")
        rows = measure(photos, options)
    print_table(rows, options)
    if options.json:
        write_json(options.json, rows, short_side=sides, **vars(options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="demo:train", help="as --data of the trainer")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--step", type=float, default=0.1, help="seconds that a step takes")
    parser.add_argument("--megapixels", type=float, default=0, help="tile the photos to this size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def tile(photos: PhotoSet, megapixels: float, folder: Path) -> None:
    """Write photos repeated to the size as JPEGs: as busy as they were, unlike enlarged ones."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(width * 3 / 4)
    for index in range(min(len(photos), 8)):
        pixels = np.asarray(photos.image(index))
        times = (-(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
        tiled = np.tile(pixels, times)[:height, :width]
        Image.fromarray(tiled).save(folder / f"{index}.jpg", quality=92)


def measure(photos: PhotoSet, options: argparse.Namespace) -> list[Row]:
    """Measure all ways in turn, round by round, so that what else the machine does meets all."""
    whole = WholePhotos(photos.source, photos.photos, photos.keys)
    ways = [
        (w, name, s) for w in options.workers for name, s in (("full", whole), ("reduced", photos))
    ]
    found: dict[tuple[int, str], list[tuple[float, float]]] = {way[:2]: [] for way in ways}
    for _ in range(options.rounds):
        for workers, name, some in ways:
            pair = rate(some, workers, options), wait(some, workers, options)
            found[workers, name].append(pair)
    return [row(workers, name, pairs) for (workers, name), pairs in found.items()]


def batches(photos: PhotoSet, workers: int, options: argparse.Namespace) -> Iterator[Batch]:
    side = options.resolution // 8
    made = training_batches(
        photos,
        resolution=options.resolution,
        batch_size=options.batch_size,
        latent_shape=(4, side, side),
        seed=0,
        workers=workers,
    )
    for _ in islice(made, 1 + 2 * workers):  # those that were prepared while nobody counted
        pass
    return made


def rate(photos: PhotoSet, workers: int, options: argparse.Namespace) -> float:
    """Return photos a second, taken as fast as they come."""
    made, taken = batches(photos, workers, options), 0
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < options.seconds:
        taken += len(next(made).ids)
    made.close()
    return taken / seconds


def wait(photos: PhotoSet, workers: int, options: argparse.Namespace) -> float:
    """Return the share of the time that steps of a given length spend in waiting."""
    made = batches(photos, workers, options)
    timed = TimedBatches(made)
    began = time.perf_counter()
    while time.perf_counter() - began < options.seconds:
        with timed.step():
            next(timed)
            time.sleep(options.step)
    made.close()
    return timed.share()


def row(workers: int, name: str, pairs: list[tuple[float, float]]) -> Row:
    rates, waits = zip(*pairs, strict=True)
    return {
        "workers": workers,
        "decoding": name,
        "photos_a_second": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "most": round(max(rates), 1),
        "wait": round(statistics.median(waits), 3),
    }


def print_table(rows: list[Row], options: argparse.Namespace) -> None:
    slowest = rows[0]["photos_a_second"]
    print(f"{options.batch_size} crops of {options.resolution} pixels a batch")
    head = f"{'workers':>7} {'decoding':>8} {'photos/s':>9} {'range':>15} {'ratio':>6}  waiting,"
    print(f"{head} step of {options.step:g} s")
    for one in rows:
        spread = f"{one['least']:.1f} - {one['most']:.1f}"
        print(
            f"{one['workers']:7} {one['decoding']:>8} {one['photos_a_second']:9.1f} {spread:>15} "
            f"{one['photos_a_second'] / slowest:6.2f}  {one['wait']:.0%}"
        )


if __name__ == "__main__":
    main()
