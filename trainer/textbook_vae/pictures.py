"""What tutorials show of a VAE: reconstructions, samples, a walk, what noise does, the variants."""

import torch
from PIL import Image
from torch import Tensor

from trainer.textbook_vae.digits import PIXELS, Digits
from trainer.textbook_vae.drawings import Row, sheet, strip, table
from trainer.textbook_vae.elbo import least_nats
from trainer.textbook_vae.fitting import disturbed
from trainer.textbook_vae.network import MlpVae
from trainer.textbook_vae.settings import NOISE_FACTOR, Settings, every_variant, settings_of
from trainer.textbook_vae.shelf import Shelf

SHOWN = 8  # digits in a row
SAMPLES = 64
FRAMES = 10
WALK = (7, 1)  # from the class, to the class
LATENT_NOISE = (0.5, 1.0, 2.0)

Lesson = tuple[Image.Image, list[str]]  # a picture, and what was measured


def reconstructions(shelf: Shelf) -> Lesson:
    """Draw held-out digits over what the model makes of them."""
    originals, model = shown(shelf), shelf.model()
    rows = [Row("original", originals), Row("reconstruction", model.reconstruct(originals))]
    least = least_nats(shelf.settings.rec_loss, shelf.digits.held_out.pictures).mean()
    return sheet(rows), [figures_line(shelf), f"rec of a perfect copy: {least:.1f}"]


def samples(shelf: Shelf) -> Lesson:
    """Draw 64 latents from N(0, I) and decode them."""
    return strip(draws(shelf.model(), SAMPLES), columns=SHOWN), []


def walk(shelf: Shelf) -> Lesson:
    """Go straight from a seven to a one: between their latents, and between their pixels."""
    ends, model = walk_ends(shelf), shelf.model()
    rows = [Row("latents", between(model, ends)), Row("pixels", mixed(ends))]
    return sheet(rows), []


def noise(shelf: Shelf) -> Lesson:
    """Disturb latents more and more; disturb pixels, and let two models remove it."""
    model, denoiser = shelf.model(), shelf.model(settings_of(shelf.settings, "denoising"))
    clean, generator = shown(shelf), torch.Generator().manual_seed(shelf.settings.seed)
    noisy = disturbed(clean, NOISE_FACTOR, generator)
    mean, _ = model.encode(clean)
    directions = torch.randn(mean.shape, generator=generator)
    rows = [Row("original", clean), Row("decoded mu", model.pictures(mean))]
    for strength in LATENT_NOISE:
        row = model.pictures(mean + strength * directions)
        rows.append(Row(f"mu + {strength:g} noise", row))
    rows += [
        Row(f"pixels + {NOISE_FACTOR:g} noise", noisy),
        Row(f"by {shelf.settings.words}", model.reconstruct(noisy)),
        Row("by denoising", denoiser.reconstruct(noisy)),
    ]
    return sheet(rows), noise_lines(shelf)


def noise_lines(shelf: Shelf) -> list[str]:
    """Measure what is left of pixel noise over all held-out digits, as PSNR in dB."""
    clean = shelf.digits.held_out.pictures
    noisy = disturbed(clean, NOISE_FACTOR, torch.Generator().manual_seed(0))
    denoiser = shelf.model(settings_of(shelf.settings, "denoising"))
    found = {
        "noisy digits": noisy,
        f"by {shelf.settings.words}": shelf.model().reconstruct(noisy),
        "by the denoising autoencoder": denoiser.reconstruct(noisy),
    }
    return [f"{name}: {decibels(seen, clean):.1f} dB" for name, seen in found.items()]


def variants(shelf: Shelf) -> Lesson:
    """Show the same of every variant: reconstructions, draws from N(0, I), the walk."""
    rows, lines = [], []
    ends, originals = walk_ends(shelf), shown(shelf)
    for settings in every_variant(shelf.settings):
        model = shelf.model(settings)
        groups = [model.reconstruct(originals), draws(model, SHOWN), between(model, ends, SHOWN)]
        rows.append((settings.words, groups))
        lines.append(figures_line(shelf, settings))
    blank = torch.zeros(SHOWN, PIXELS)
    first = ("original", [originals, blank, mixed(ends, SHOWN)])
    return table(["reconstructions", "draws from N(0, I)", "7 to 1"], [first, *rows]), lines


def figures_line(shelf: Shelf, settings: Settings | None = None) -> str:
    """Say what a model reaches on held-out digits."""
    settings = settings or shelf.settings
    found = shelf.figures(settings)
    return (
        f"{settings.words}: ELBO {found.elbo:.1f} = -({found.rec:.1f} + KL {found.kl:.1f}) nats a "
        f"digit; rec of the mode {found.rec_of_mode:.1f}"
    )


# Digits to show


def shown(shelf: Shelf) -> Tensor:
    """Choose the first held-out digit of the classes 0 to 7: [8, 784]."""
    return torch.stack([first_of(shelf.digits.held_out, digit) for digit in range(SHOWN)])


def first_of(digits: Digits, wanted: int) -> Tensor:
    """Give the first digit of a class, [784]."""
    return digits.pictures[digits.classes == wanted][0]


def walk_ends(shelf: Shelf) -> Tensor:
    """Give the digits that a walk goes between, [2, 784]."""
    return torch.stack([first_of(shelf.digits.held_out, digit) for digit in WALK])


def between(model: MlpVae, ends: Tensor, frames: int = FRAMES) -> Tensor:
    """Decode latents on the straight line between two pictures' own: [frames, 784]."""
    return model.pictures(mixed(model.encode(ends)[0], frames))


def mixed(ends: Tensor, frames: int = FRAMES) -> Tensor:
    """Mix two vectors [2, D] in even steps: [frames, D]."""
    share = torch.linspace(0, 1, frames)[:, None]
    return (1 - share) * ends[0] + share * ends[1]


def draws(model: MlpVae, count: int) -> Tensor:
    """Decode draws from N(0, I), always the same: [count, 784]."""
    generator = torch.Generator().manual_seed(0)
    return model.pictures(torch.randn(count, model.latent, generator=generator))


def decibels(x: Tensor, y: Tensor) -> float:
    """Measure the mean PSNR of pictures [N, 784] in [0, 1] against others."""
    return float((-10 * (x - y).square().mean(1).log10()).mean())
