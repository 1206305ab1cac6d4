"""What a lesson trains: the variant and its weights, and everything else that decides about it."""

import dataclasses
from typing import NamedTuple

from trainer.textbook_vae.digits import CARRIED

DEFAULT_EPOCHS = 10  # of MNIST's 60,000 digits: 4,690 steps
CARRIED_EPOCHS = 100  # of scikit-learn's 1,437: 1,200 steps
NOISE_FACTOR = 0.5


class Variant(NamedTuple):
    """How a variant differs from the others: loss = rec_weight * rec + kl_weight * KL."""

    samples: bool  # whether the decoder gets a draw from the posterior, or its mode
    rec_weight: float
    kl_weight: float
    noise_factor: float = 0.0  # of the encoder's input, in pixels of [0, 1]
    words: str = ""


VARIANTS = {
    "autoencoder": Variant(False, 1.0, 0.0, words="autoencoder"),
    "sampled-autoencoder": Variant(True, 1.0, 0.0, words="sampled, no KL"),
    "kl-only": Variant(True, 0.0, 1.0, words="KL alone"),
    "vae": Variant(True, 1.0, 1.0, words="VAE"),
    "denoising": Variant(False, 1.0, 0.0, NOISE_FACTOR, words="denoising"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides about a trained model: equal settings, equal weights."""

    variant: str = "vae"
    beta: float = 1.0  # weight of KL, of the variant vae
    latent: int = 20
    rec_loss: str = "bce"
    data: str = CARRIED
    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def plan(self) -> Variant:
        """The variant, with beta in it."""
        plan = VARIANTS[self.variant]
        return plan._replace(kl_weight=self.beta) if self.variant == "vae" else plan

    @property
    def all_epochs(self) -> int:
        """The epochs, where none are given those of the data set."""
        return self.epochs or (CARRIED_EPOCHS if self.data == CARRIED else DEFAULT_EPOCHS)

    @property
    def name(self) -> str:
        """A name for files: the variant, and beta where it is not 1."""
        return self.variant if self.beta == 1 else f"{self.variant}-beta{self.beta:g}"

    @property
    def words(self) -> str:
        """A name for people."""
        return f"VAE, beta {self.beta:g}" if self.variant == "vae" else self.plan.words


def every_variant(settings: Settings) -> list[Settings]:
    """List the variants that the tutorials compare, the VAE at beta 0.1, 1 and 4."""
    others = [settings_of(settings, name) for name in VARIANTS if name != "vae"]
    betas = [settings_of(settings, "vae", beta) for beta in (0.1, 1.0, 4.0)]
    return [*others[:3], *betas, others[3]]


def settings_of(settings: Settings, variant: str, beta: float = 1.0) -> Settings:
    """Change the variant alone."""
    return dataclasses.replace(settings, variant=variant, beta=beta)
