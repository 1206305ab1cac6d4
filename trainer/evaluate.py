"""Measure VAEs on photos: PSNR, SSIM, LPIPS and colour, side by side, as a page and as JSON.

python trainer/evaluate.py --vae A [--vae B ...] --data DATA --output DIR

The first VAE is what the others are compared with. Photos are seen whole, reduced to
--eval-resolution on the short side, through the posterior's mode. DIR gets report.json and
report.html, and must not hold a report yet.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from trainer/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import Accelerator

from trainer.command import parser_of
from trainer.comparison import NO_LPIPS, SMALLEST, check_request, compare_vaes
from trainer.errors import UserError, sentence
from trainer.photos.face_finder import DOWNLOAD
from trainer.training.interrupts import Interrupted, Interrupts
from trainer.vae.tiles import LARGE
from vae_core.checkpoint import CheckpointError
from vae_core.families import FAMILIES
from vae_core.lpips import NETS

FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code."""
    options = parse(argv)
    interrupts = Interrupts()
    interrupts.listen()
    try:
        check_request(options)
        compare_vaes(options, Accelerator(), interrupts)
    except Interrupted as stop:
        return 128 + stop.signal
    except (UserError, CheckpointError, OSError) as error:
        print(f"evaluate: {sentence(error)}", file=sys.stderr)
        return FAILED
    except torch.OutOfMemoryError:
        print("evaluate: the device is out of memory: lower --eval-resolution", file=sys.stderr)
        return FAILED
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a wrong one ends the process with 2 and a sentence."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add(
        "--vae",
        action="append",
        required=True,
        metavar="BASE",
        help="hub id, folder, .safetensors file or bundled:kl-f8-small; again for each further VAE",
    )
    add("--data", required=True, help="photos: folder, Parquet, WebDataset, or hub data set")
    add("--general-val-data", metavar="DATA", help="photos of another kind, reported apart")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the report")
    add(
        "--eval-resolution",
        type=_side,
        default=512,
        metavar="PX",
        help="short side that photos are reduced to (default 512); those of "
        f"{LARGE} px and more on the long side go through an AutoencoderKL in exact tiles",
    )
    add(
        "--lpips-net",
        choices=[*sorted(NETS), NO_LPIPS],
        default="vgg",
        help="network of LPIPS (default vgg); none leaves LPIPS out",
    )
    add("--lpips-weights", metavar="FILE", help="LPIPS weights, else fetched once")
    add(
        "--face-detector-weights",
        metavar="FILE",
        help=f"YuNet, for figures of faces; '{DOWNLOAD}' fetches it once",
    )
    add(
        "--face-index",
        metavar="FILE",
        help="face boxes, as trainer/faces.py writes them; completed where YuNet is given",
    )
    add(
        "--face-recognizer-weights",
        metavar="FILE",
        help="SFace, to measure whether faces stay the same person; needs YuNet too",
    )
    add("--family", choices=sorted(FAMILIES), help="family of the VAEs, where files do not tell")
    return parser.parse_args(argv)  # fmt: skip


def _side(text: str) -> int:
    """Read --eval-resolution."""
    if not text.isdecimal() or int(text) < SMALLEST:
        raise argparse.ArgumentTypeError(f"expected a whole number from {SMALLEST}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
