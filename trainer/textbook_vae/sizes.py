"""How many latent numbers a digit needs: the bound, and how many numbers are in use."""

import dataclasses

from torch import Tensor

from trainer.textbook_vae.shelf import Shelf

LATENTS = (1, 2, 4, 8, 20, 40)
IN_USE = 0.01  # variance of μ over digits, as in Burda, Grosse, Salakhutdinov (2016)


def sizes(shelf: Shelf) -> list[str]:
    """Train one model per size and measure each."""
    lines = []
    for latent in LATENTS:
        settings = dataclasses.replace(shelf.settings, latent=latent)
        found = shelf.figures(settings)
        mean, _ = shelf.model(settings).encode(shelf.digits.held_out.pictures)
        lines.append(
            f"{latent} latent numbers, {in_use(mean)} in use: ELBO {found.elbo:.1f} = "
            f"-({found.rec:.1f} + KL {found.kl:.1f})"
        )
    return lines


def in_use(mean: Tensor) -> int:
    """Count the latent numbers whose posterior mean [N, latent] moves with the picture."""
    return int((mean.var(0) > IN_USE).sum())
