"""The VAE of the textbooks on handwritten digits: one lesson, one command, one picture.

python trainer/textbook.py LESSON [--variant vae] [--beta 1] [--output runs/textbook]

What a lesson needs is trained first, and kept for the next. docs/latent-space.md goes through them.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from trainer/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.command import parser_of
from trainer.errors import UserError, sentence
from trainer.textbook_vae import pictures
from trainer.textbook_vae.anomalies import anomalies
from trainer.textbook_vae.channel_counts import channel_counts
from trainer.textbook_vae.channels import channels
from trainer.textbook_vae.clusters import clusters
from trainer.textbook_vae.digits import CARRIED
from trainer.textbook_vae.drawings import save
from trainer.textbook_vae.elbo import REC_LOSSES
from trainer.textbook_vae.latent_map import decoded_map, latent_map, maps
from trainer.textbook_vae.settings import CARRIED_EPOCHS, DEFAULT_EPOCHS, VARIANTS, Settings
from trainer.textbook_vae.shelf import MINUTES, Shelf
from trainer.textbook_vae.sizes import sizes

FAILED = 1

Lesson = Callable[[Shelf], list[str]]  # draws what there is to draw, and gives lines of text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code."""
    options = parse(argv)
    try:
        shelf = Shelf(options.output, settings_of(options), minutes=options.minutes)
        for line in LESSONS[options.lesson](shelf):
            print(line)
    except (UserError, OSError) as error:
        print(f"textbook: {sentence(error)}", file=sys.stderr)
        return FAILED
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a wrong one ends the process with 2 and a sentence."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("lesson", choices=list(LESSONS), metavar="LESSON", help=", ".join(LESSONS))
    add("--variant", choices=list(VARIANTS), default="vae", help="(default vae)")
    add("--beta", type=_number, default=1.0, metavar="X", help="weight of KL, of the vae")
    add("--latent", type=_count, default=20, metavar="N", help="latent numbers (default 20)")
    add("--rec-loss", choices=REC_LOSSES, default="bce", help="both summed over the pixels")
    add("--data", default=CARRIED, help=f"{CARRIED} (default), or a data set: ylecun/mnist")
    add(
        "--epochs",
        type=_count,
        metavar="N",
        help=f"(default {DEFAULT_EPOCHS}; of {CARRIED}, which is small, {CARRIED_EPOCHS})",
    )
    add("--batch-size", type=_count, default=128, metavar="N", help="(default 128)")
    add("--learning-rate", type=_number, default=1e-3, metavar="X", help="of Adam (default 0.001)")
    add("--seed", type=int, default=0, metavar="N", help="(default 0)")
    add(
        "--minutes",
        type=_number,
        default=MINUTES,
        metavar="X",
        help=f"of training for each VAE of channel-counts (default {MINUTES:g})",
    )
    add("--output", type=Path, default=Path("runs/textbook"), help="folder of pictures and models")
    options = parser.parse_args(argv)
    if options.beta != 1 and options.variant != "vae":
        parser.error(f"--beta goes with --variant vae, but it is {options.variant}")
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return number


def settings_of(options: argparse.Namespace) -> Settings:
    """Take what decides about a model out of the command line."""
    chosen = {name: value for name, value in vars(options).items() if name not in NO_SETTINGS}
    return Settings(**chosen)


NO_SETTINGS = ("lesson", "minutes", "output")


# Lessons


def _drawn(name: str, lesson: Callable[[Shelf], pictures.Lesson], own: bool = True) -> Lesson:
    """Save a lesson's picture; `own`: under the name of the variant too."""

    def run(shelf: Shelf) -> list[str]:
        picture, lines = lesson(shelf)
        path = shelf.picture(f"{name}-{shelf.settings.name}" if own else name)
        return [*lines, f"wrote {save(picture, path)}"]

    return run


def _train(shelf: Shelf) -> list[str]:
    """Train, and draw what the textbooks draw: 8 reconstructions and 64 samples."""
    return [*LESSONS["reconstructions"](shelf), *LESSONS["samples"](shelf)]


def _map(shelf: Shelf) -> list[str]:
    name = shelf.settings.name
    decoded = save(decoded_map(shelf), shelf.picture(f"decoded-map-{name}"))
    return [f"wrote {latent_map(shelf, shelf.picture(f'map-{name}'))}", f"wrote {decoded}"]


LESSONS: dict[str, Lesson] = {
    "train": _train,
    "reconstructions": _drawn("reconstructions", pictures.reconstructions),
    "samples": _drawn("samples", pictures.samples),
    "walk": _drawn("walk", pictures.walk),
    "noise": _drawn("noise", pictures.noise),
    "map": _map,
    "variants": _drawn("variants", pictures.variants, own=False),
    "maps": lambda shelf: [f"wrote {maps(shelf, shelf.picture('maps'))}"],
    "clusters": clusters,
    "anomalies": _drawn("anomalies", anomalies),
    "sizes": sizes,
    "channels": lambda shelf: channels(),
    "channel-counts": channel_counts,
}


if __name__ == "__main__":
    sys.exit(main())
