"""What more latent channels give: small VAEs of 3, 4 and 8, trained for the same time on photos."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from trainer.errors import UserError
from trainer.textbook_vae.channels import photos_as_pixels
from trainer.textbook_vae.shelf import Shelf
from trainer.vae.autoencoder import decode, encode
from trainer.vae.base import load_base
from vae_core.drawn import drawing
from vae_core.files import write_json
from vae_core.images import to_unit
from vae_core.metrics import psnr

COUNTS = (3, 4, 8)
ARCHITECTURE = Path(__file__).resolve().parent / "photo-vae.json"
ENTRY = Path(__file__).resolve().parents[1] / "finetune_decoder.py"
TRAIN, HELD_OUT = "demo:train", "demo:val"  # what packages carry
SIDE = 192  # pixels on the short side, of what is measured
VALUES = 3 * 8 * 8  # of a picture, for each latent cell
# Muon, as it learns most in minutes; MSE alone, as its decibels are what is compared
OPTIONS = {
    "--preset": "demo",
    "--trainable": "all",
    "--rec-loss": "mse",
    "--lpips-weight": 0,
    "--kl-weight": 1e-6,
    "--resolution": 64,
    "--eval-resolution": SIDE,
    "--batch-size": 16,
    "--optimizer": "muon",
    "--learning-rate": 2e-3,
    "--warmup-steps": 20,
    "--max-steps": 1_000_000,
    "--checkpoint-every": 0,
    "--sample-photos": 0,
}


def channel_counts(shelf: Shelf) -> list[str]:
    """Train one VAE per count, draw the held-out photos through each, and measure them."""
    vaes = {count: _trained(shelf, count) for count in COUNTS}
    pictures, figures = _through(list(vaes.values()))
    heads = ["original", *(f"{count} channels" for count in COUNTS)]
    path = shelf.picture("channel-counts")
    drawing.grid(pictures, len(heads), heads).save(path, optimize=True)
    lines = [
        f"{count} channels, 1 number for {VALUES / count:g}: {found:.2f} dB"
        for count, found in zip(COUNTS, figures, strict=True)
    ]
    return [*lines, f"wrote {path}"]


def _trained(shelf: Shelf, count: int) -> nn.Module:
    """Give the VAE of a count; trained now, by the trainer itself, if it is not there yet."""
    run = shelf.folder / "models" / f"channels-{count}-{shelf.minutes:g}-minutes"
    file = run / "export" / "vae.safetensors"
    if not file.is_file():
        shelf.say(f"training a VAE of {count} latent channels: {shelf.minutes:g} minutes")
        _train(run, _architecture(run, count), shelf)
    return load_base(str(file)).vae


def _architecture(run: Path, count: int) -> Path:
    fields = json.loads(ARCHITECTURE.read_text("utf-8")) | {"latent_channels": count}
    path = run.with_name(f"{run.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, fields)
    return path


def _train(run: Path, architecture: Path, shelf: Shelf) -> None:
    """Run the trainer in a process of its own; its progress bar is seen, its words are not."""
    options = OPTIONS | {
        "--vae": architecture,
        "--data": TRAIN,
        "--val-data": HELD_OUT,
        "--max-train-minutes": f"{shelf.minutes:g}",
        "--seed": shelf.settings.seed,
        "--output": run,
    }
    words = [str(word) for pair in options.items() for word in pair]
    begun = ["--resume"] if (run / "config.toml").exists() else []
    command = [sys.executable, str(ENTRY), *words, *begun]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise UserError(
            f"the training of {run.name} ended with {ended.returncode}; what it said stands above"
        )


@torch.inference_mode()
def _through(vaes: list[nn.Module]) -> tuple[list[Image.Image], list[float]]:
    """Draw each held-out photo and what each VAE makes of it; give each VAE's mean PSNR in dB."""
    pictures, figures = [], []
    for pixels in photos_as_pixels(vaes[0], (HELD_OUT,), SIDE):
        outputs = [to_unit(decode(vae, encode(vae, pixels).mean)) for vae in vaes]
        rows = [to_unit(pixels), *outputs]
        pictures += [drawing.to_pil(row[0].permute(1, 2, 0)) for row in rows]
        figures.append([psnr(some, to_unit(pixels)).item() for some in outputs])
    return pictures, torch.tensor(figures).mean(0).tolist()
