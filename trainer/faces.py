"""Find the faces in photos: boxes into a face index, and a contact sheet to look at.

python trainer/faces.py --data DATA --output faces.parquet --face-detector-weights FILE

What is in the index is not looked for again, and what was found is kept however this ends, so it
goes on where it stopped. One file may serve several sets: give it as --face-index to training and
to trainer/evaluate.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from trainer/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.command import parser_of
from trainer.errors import UserError, sentence
from trainer.judge.face_sheet import Cell, save_face_sheet
from trainer.photos.face_counts import count_faces, counts_in_words
from trainer.photos.face_finder import DOWNLOAD
from trainer.photos.face_search import FaceSearch, open_search
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.training.interrupts import Interrupted, Interrupts
from trainer.training.ticks import ticks

FAILED = 1
SMALLEST = 8  # pixels: the least short side that is looked at
SHEETS = (".jpg", ".jpeg", ".png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code."""
    options = parse(argv)
    interrupts = Interrupts()
    interrupts.listen()
    try:
        find_faces(options, interrupts)
    except Interrupted as stop:
        print("faces: what was found is kept; the same command goes on", file=sys.stderr)
        return 128 + stop.signal
    except (UserError, OSError) as error:
        print(f"faces: {sentence(error)}", file=sys.stderr)
        return FAILED
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a wrong one ends the process with 2 and a sentence."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--data", required=True, help="photos: folder, Parquet, WebDataset, or hub data set")
    add("--output", required=True, type=Path, metavar="FILE", help="the face index, .parquet")
    add(
        "--face-detector-weights",
        required=True,
        metavar="FILE",
        help=f"YuNet; '{DOWNLOAD}' fetches it once",
    )
    add("--sheet", type=_sheet, metavar="FILE", help="contact sheet of faces, .jpg or .png")
    add("--data-split", default="train", help="split of a hub data set (default train)")
    add("--image-column", metavar="NAME", help="column of the photos; else the first of images")
    return parser.parse_args(argv)


def _sheet(text: str) -> Path:
    """Read --sheet."""
    if Path(text).suffix.lower() not in SHEETS:
        raise argparse.ArgumentTypeError(f"expected a name that ends in .jpg or .png, got {text!r}")
    return Path(text)


def find_faces(options: argparse.Namespace, stop: Interrupts) -> None:
    """Fill the index, draw the sheet, print the counts; raises UserError or Interrupted."""
    search = open_search(options.face_detector_weights, options.output)
    with ticks("reading photos", stop) as tick:
        photos = open_photos(
            options.data,
            SMALLEST,
            split=options.data_split,
            image_column=options.image_column,
            progress=tick,
        )
    print(f"read: {photos.summary()}")
    with ticks("looking for faces", stop) as tick:
        photos = search.known(photos, tick)
    if not options.output.exists():  # every photo came with its faces
        search.index.save()
    print(counts_in_words(count_faces(photos)))
    print(f"index: {options.output} ({len(search.index.photos):,} photos)")
    if options.sheet:
        with ticks("drawing the sheet", stop) as tick:
            save_face_sheet(options.sheet, photos, cells_of(photos, search), tick)
        print(f"sheet: {options.sheet}")


def cells_of(photos: PhotoSet, search: FaceSearch) -> list[Cell]:
    """List every face of a set, with its score where it was found by the detector."""
    cells = []
    for i, photo in enumerate(photos.photos):
        scores = dict(search.found(photo))
        cells += [Cell(i, box, scores.get(box)) for box in photo.faces or ()]
    return cells


if __name__ == "__main__":
    sys.exit(main())
