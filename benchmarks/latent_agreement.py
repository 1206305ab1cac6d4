"""How far VAEs share a latent space: correlation of their latents, and decoding another's.

    python benchmarks/latent_agreement.py --reference TAESD --vae bundled:kl-f8-small --data photos

Photos are reduced to --eval-resolution on the short side and encoded by both, through the
posterior's mode; latents are compared as a diffusion model sees them, over all cells of all photos.
`slope` is the VAE's latents over the reference's, by least squares: under 1 they are paler. PSNR is
of what the VAE's decoder makes of its own latents, and of the reference's; 95 % over photos.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import bootstrap
from benchmarks.face_windows import named_place, run
from benchmarks.results import add_outputs, hand_over
from trainer.judge.evaluation import as_pixels, multiple_for, view
from trainer.options.config import resolve_vae
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.training.teacher import Teacher, make_teacher
from trainer.vae.autoencoder import decode, encode
from trainer.vae.base import load_base
from vae_core.images import to_unit
from vae_core.metrics import psnr
from vae_core.scaling import apply_scaling

SMALLEST = 64  # pixels on the short side


class Compared(NamedTuple):
    """One photo: model latents [C, h w] of the VAE and of the reference, and PSNR of both."""

    own: Tensor
    theirs: Tensor
    psnr: float
    psnr_theirs: float


def main() -> None:
    options = parse()
    photos = open_photos(options.data, SMALLEST)
    hand_over([row(spec, options, photos) for spec in options.vae], options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--vae", action="append", required=True, metavar="[NAME=]VAE", help="again for each")
    add("--reference", required=True, help="VAE that they are compared with")
    add("--data", required=True, help="photos, as --data of the trainer")
    add("--family", default="sd1", help="of all of them")
    add("--eval-resolution", type=int, default=512)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_outputs(parser)
    return parser.parse_args()


def row(spec: str, options: argparse.Namespace, photos: PhotoSet) -> dict[str, Any]:
    """Compare one VAE with the reference on all photos."""
    name, place = named_place(spec)
    base = load_base(resolve_vae(place), options.family)
    reference = load_base(resolve_vae(options.reference), options.family)
    teacher = make_teacher(reference, base, torch.device(options.device))
    vae = base.vae.to(options.device)
    multiple = multiple_for(vae)
    found = []
    for index in tqdm(range(len(photos)), desc=name, leave=False):
        picture, _ = view(photos.image(index), None, options.eval_resolution, multiple)
        found.append(compared(vae, teacher, as_pixels(vae, picture).to(options.device)))
    own = torch.cat([one.own for one in found], 1)
    theirs = torch.cat([one.theirs for one in found], 1)
    return {
        "vae": name,
        "photos": len(found),
        "correlation": correlation(own.flatten(), theirs.flatten()),
        "by channel": " ".join(
            f"{correlation(*pair):.3f}" for pair in zip(own, theirs, strict=True)
        ),
        "slope": slope(own, theirs),
        "psnr": bootstrap.mean([one.psnr for one in found]),
        "psnr of the reference's latents": bootstrap.mean([one.psnr_theirs for one in found]),
    }


@torch.inference_mode()
def compared(vae: torch.nn.Module, teacher: Teacher, pixels: Tensor) -> Compared:
    """Encode pixels [1, 3, H, W] in [-1, 1] by both, and decode both."""
    own, theirs = encode(vae, pixels).mean, teacher.latents(pixels)
    model = (apply_scaling(raw, teacher.students)[0].flatten(1).cpu() for raw in (own, theirs))
    truth = to_unit(pixels)
    quality = (psnr(to_unit(decode(vae, raw)), truth).item() for raw in (own, theirs))
    return Compared(*model, *quality)


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's, of two vectors."""
    return float(np.corrcoef(x.double().numpy(), y.double().numpy())[0, 1])


def slope(own: Tensor, theirs: Tensor) -> float:
    """Least squares of own over theirs, [C, N] each, through each channel's mean."""
    x, y = (latents.double() - latents.double().mean(1, keepdim=True) for latents in (theirs, own))
    return ((x * y).sum() / x.square().sum()).item()


if __name__ == "__main__":
    run(main)
