"""Maps of two latent numbers: where the classes lie, and what is decoded from where."""

import dataclasses
from pathlib import Path

import torch
from PIL import Image

from trainer.textbook_vae.drawings import scatter, strip
from trainer.textbook_vae.settings import Settings, every_variant
from trainer.textbook_vae.shelf import Shelf

TWO = 2  # latent numbers that a plane can show
REACH = 2.5  # standard deviations of N(0, I) to each side of the decoded map
CELLS = 15  # digits on a side of it


def latent_map(shelf: Shelf, path: Path) -> Path:
    """Draw the held-out digits' latents by class, of the chosen variant."""
    return scatter([_panel(shelf, shelf.settings)], 1, path)


def maps(shelf: Shelf, path: Path) -> Path:
    """Draw the same map of every variant."""
    panels = [_panel(shelf, settings) for settings in every_variant(shelf.settings)]
    return scatter(panels, 4, path)


def decoded_map(shelf: Shelf) -> Image.Image:
    """Decode a lattice of latents, both numbers from -2.5 to 2.5."""
    places = torch.linspace(-REACH, REACH, CELLS)
    down, across = torch.meshgrid(places.flip(0), places, indexing="ij")
    latents = torch.stack([across, down], -1).view(-1, TWO)
    return strip(shelf.model(_plane(shelf.settings)).pictures(latents), columns=CELLS, zoom=1)


def _plane(settings: Settings) -> Settings:
    return dataclasses.replace(settings, latent=TWO)


def _panel(shelf: Shelf, settings: Settings) -> tuple:
    held_out = shelf.digits.held_out
    mean, _ = shelf.model(_plane(settings)).encode(held_out.pictures)
    return settings.words, mean, held_out.classes
