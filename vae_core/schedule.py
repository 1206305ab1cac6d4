"""The noise schedule that Stable Diffusion was trained with: how much noise a timestep means.

scaled-linear betas: the square roots rise evenly from √0.00085 to √0.012 over 1,000 steps. At
timestep t a model sees √ᾱ(t) z + √(1 - ᾱ(t)) n, where ᾱ(t) = Π (1 - β(s)) over s <= t.
Ho et al. (2020), "Denoising Diffusion Probabilistic Models", equation 4,
https://arxiv.org/abs/2006.11239
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# https://github.com/CompVis/stable-diffusion/blob/21f890f9da3cfbeaba8e2ac3c425ee9e998d5229/
# configs/stable-diffusion/v1-inference.yaml#L5-L9
STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
CLEAN = -1  # timestep 0 is the first noisy step: before it there is no noise


def alphas_cumprod() -> Tensor:
    """Compute ᾱ(t), the share of the signal's variance left at timestep t: [1000], float64."""
    roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, STEPS, dtype=torch.float64)
    return (1 - roots.square()).cumprod(0)


def noise_amplitudes(timesteps: Sequence[int]) -> Tensor:
    """Look up √(1 - ᾱ(t)), the noise's factor: n timesteps in -1..999 -> [n], float64.

    -1 means before the first step: 0, no noise at all.
    """
    for timestep in timesteps:
        if timestep != int(timestep) or not CLEAN <= timestep < STEPS:
            raise ValueError(
                f"Expected timesteps as whole numbers from {CLEAN} (clean) to {STEPS - 1}, "
                f"got {timestep}."
            )
    shares = torch.cat([alphas_cumprod(), torch.ones(1, dtype=torch.float64)])  # [-1] is clean
    return (1 - shares[torch.tensor(timesteps, dtype=torch.long)]).sqrt()
