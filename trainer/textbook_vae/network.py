"""The network of the textbooks: 784 - 400 - 20 - 400 - 784, a hidden layer on either side."""

import torch
from torch import Tensor, nn

from trainer.textbook_vae.digits import PIXELS

HIDDEN = 400


class MlpVae(nn.Module):
    """Kingma and Welling's (2014) VAE of digits as tutorials build it, with ReLU.

    The encoder gives μ and log σ² of a diagonal gaussian; the decoder gives logits, whose sigmoid
    is the picture.
    """

    def __init__(self, latent: int, seed: int = 0) -> None:
        """Draw the weights from `seed`; no global random state changes."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.hidden = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU())
            self.mean = nn.Linear(HIDDEN, latent)
            self.logvar = nn.Linear(HIDDEN, latent)
            self.decoder = nn.Sequential(
                nn.Linear(latent, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS)
            )

    @property
    def latent(self) -> int:
        """The numbers of a latent."""
        return self.mean.out_features

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Encode [B, 784] in [0, 1] into μ and log σ², [B, latent] each."""
        hidden = self.hidden(pictures)
        return self.mean(hidden), self.logvar(hidden)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode [B, latent] into logits [B, 784]."""
        return self.decoder(latents)

    def pictures(self, latents: Tensor) -> Tensor:
        """Decode [B, latent] into pictures [B, 784] in [0, 1]."""
        return self.decode(latents).sigmoid()

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """Send pictures [B, 784] through the posterior's mode and back."""
        return self.pictures(self.encode(pictures)[0])
