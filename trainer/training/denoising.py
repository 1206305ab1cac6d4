"""The input of a denoising autoencoder: a picture and Gaussian noise, clipped to the VAE's range.

Vincent, Larochelle, Bengio, Manzagol (2008): what is encoded is disturbed, what the reconstruction
is compared with is not. Tutorials hold pixels in [0, 1]: in [-1, 1] the same noise is twice as
wide.
"""

from torch import Tensor


def disturbed(pixels: Tensor, noise: Tensor, factor: float) -> Tensor:
    """Add `factor` times noise from N(0, I) to pixels in [-1, 1], any shape; clip to [-1, 1]."""
    return (pixels + factor * noise).clamp(-1, 1)


def in_words(factor: float) -> str:
    """Say what the encoder sees."""
    return (
        f"input: clip(x + {factor:g} N(0, I)) in [-1, 1], as {factor / 2:g} in [0, 1]; compared "
        "with x itself"
    )
