"""Which faces are found, by their height, and what a photo costs: faces pasted into photos.

    python benchmarks/face_finding.py --faces portraits/ --photos landscapes/ --detector yunet.onnx

Portraits are reduced until their face has a given height and pasted into photos at random; a face
counts as found where a box shares half of the union with the one found in the portrait itself at a
long side of 320 pixels. `false` counts boxes elsewhere that the photo alone does not have. The last
rows are portraits cut to their face and resized to 512 and 2,000 pixels. Columns: all copies as
they are used; without the enlarged one.
"""

import argparse
import random
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from PIL import Image

from benchmarks.results import Row, print_table, write_json
from trainer.photos import face_finder
from trainer.photos.boxes import Box
from trainer.photos.face_finder import FaceFinder, Found, merge, shared_part
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos

HEIGHTS = (8, 10, 12, 14, 16, 20, 24, 32, 64, 128)
FILLING = (512, 2000)
Looks = dict[str, tuple[Found, ...]]  # by the copies that were used


class Timed:
    """Finds faces with all copies and without the enlarged one; adds up seconds and pixels."""

    def __init__(self, weights: Path) -> None:
        self.finder = FaceFinder(weights)
        self.seconds = self.megapixels = 0.0

    def find(self, image: Image.Image) -> Looks:
        began = time.process_time()
        found = self.finder.find(image)
        self.seconds += time.process_time() - began
        self.megapixels += image.width * image.height / 1e6
        _, *others = face_finder.scales(*image.size)
        usual = merge([face for scale in others for face in self.finder._look(image, scale)])
        return {"all": found, "not enlarged": usual}


def main() -> None:
    options = parse()
    portraits, photos = (open_photos(spec, 64) for spec in (options.faces, options.photos))
    timed = Timed(options.detector)
    truths = {i: box for i in range(len(portraits)) if (box := truth(portraits.image(i), timed))}
    alone = {i: timed.find(photos.image(i)) for i in range(len(photos))}
    draw = random.Random(0)
    rows = [
        pasted(height, options.count, portraits, truths, photos, alone, timed, draw)
        for height in HEIGHTS
    ]
    rows += [filling(side, portraits, truths, timed) for side in FILLING]
    print(f"{len(truths)} of {len(portraits)} portraits have one face of which it is sure")
    print(
        f"{sum(len(looks['all']) for looks in alone.values())} faces in {len(photos)} photos alone"
    )
    print_table(rows)
    rate = timed.seconds / timed.megapixels
    print(f"{rate:.2f} s of processor time a megapixel, over {timed.megapixels:,.0f} megapixels")
    if options.json:
        write_json(options.json, rows, **vars(options))


def truth(portrait: Image.Image, timed: Timed) -> Box | None:
    """Return the one face of a portrait as a small copy shows it."""
    scale = face_finder.SMALLEST_SIDE / max(portrait.size)
    found = merge(timed.finder._look(portrait, min(1.0, scale)))
    return found[0].box if len(found) == 1 else None


def pasted(
    height: int,
    count: int,
    portraits: PhotoSet,
    truths: dict[int, Box],
    photos: PhotoSet,
    alone: dict[int, Looks],
    timed: Timed,
    draw: random.Random,
) -> Row:
    """Paste faces of a height into photos, and count those that are found."""
    hits, false = {"all": 0, "not enlarged": 0}, 0
    for _ in range(count):
        one, place = draw.choice(list(truths)), draw.randrange(len(photos))
        x, y, w, h = (side * height / truths[one][3] for side in truths[one])
        small = reduced(portraits.image(one), height / truths[one][3])
        photo = photos.image(place)
        left = draw.randrange(max(1, photo.width - small.width))
        top = draw.randrange(max(1, photo.height - small.height))
        photo.paste(small, (left, top))
        looks = timed.find(photo)
        for name, found in looks.items():
            hits[name] += any(overlap(face.box, (left + x, top + y, w, h)) >= 0.5 for face in found)
        known = [(left + x, top + y, w, h), *(face.box for face in alone[place]["all"])]
        false += sum(all(shared_part(f.box, box) < 0.5 for box in known) for f in looks["all"])
    return {"face px": height, "of": count, **hits, "false": false}


def filling(side: int, portraits: PhotoSet, truths: dict[int, Box], timed: Timed) -> Row:
    """Cut portraits to their face and make that a photo."""
    hits, false = {"all": 0, "not enlarged": 0}, 0
    for one, (x, y, w, h) in truths.items():
        cut = portraits.image(one).crop(tuple(map(round, (x, y, x + w, y + h))))
        looks = timed.find(reduced(cut, side / max(cut.size)))
        for name, found in looks.items():
            hits[name] += any(face.box[3] > side / 2 for face in found)
        false += max(0, len(looks["all"]) - 1)
    return {"face px": side, "of": len(truths), **hits, "false": false}


def reduced(image: Image.Image, scale: float) -> Image.Image:
    size = [max(1, round(length * scale)) for length in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, help="portraits, one face each")
    parser.add_argument("--photos", required=True, help="photos to paste them into")
    parser.add_argument("--detector", required=True, type=Path, help="file of YuNet")
    parser.add_argument("--count", type=int, default=30, help="pasted faces a height")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
