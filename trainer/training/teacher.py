"""A VAE whose latents another one is taught: how far its own are from them, and decoding them.

B batch, C latent channels, H, W pixels, h, w latent cells. Latents are compared as a diffusion
model sees them, so that a weight means the same in every family.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.options.config import TrainConfig
from trainer.vae.autoencoder import encode, image_channels, is_tiny, latent_channels, ratio
from trainer.vae.base import Base
from vae_core.scaling import NONE, Scaling, apply_scaling, scaling_of, undo_scaling


@dataclass(frozen=True)
class Teacher:
    """A frozen VAE, and the constants of its latents and of its student's.

    No module of its own, so that DDP does not broadcast it and state dicts do not hold it.
    """

    vae: nn.Module
    scaling: Scaling
    students: Scaling

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] in [-1, 1] -> raw latents of the student's, float32."""
        model = apply_scaling(encode(self.vae, pixels).mean.float(), self.scaling)
        return undo_scaling(model, self.students)

    def distance(self, mean: Tensor, latents: Tensor) -> Tensor:
        """Mean squared difference of raw latents [B, C, h, w], as a diffusion model sees them."""
        ours, theirs = (apply_scaling(x.float(), self.students) for x in (mean, latents))
        return (ours - theirs).square().mean()


def make_teacher(base: Base, student: Base, device: torch.device) -> Teacher:
    """Take a VAE as teacher of another; its decoder is let go.

    Raises UserError where their latents have other shapes, or a scale is not known.
    """
    shapes = [
        f"{image_channels(vae)} image channels, {latent_channels(vae)} latent channels, "
        f"f{ratio(vae)}"
        for vae in (base.vae, student.vae)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"Expected --teacher to have latents of the shape of --vae ({shapes[1]}), but it has "
            f"{shapes[0]}: give another teacher."
        )
    scalings = _scaling(base, "--teacher"), _scaling(student, "--vae")
    base.vae.decoder = None
    return Teacher(base.vae.to(device).requires_grad_(False), *scalings)


def _scaling(base: Base, flag: str) -> Scaling:
    """Give the constants of a VAE's latents; those of an AutoencoderTiny are the model's."""
    if is_tiny(base.vae):
        return NONE
    try:
        return scaling_of(base.family)
    except ValueError:
        raise UserError(
            f"Expected the family of {flag} {base.name} to be known, as latents are compared at "
            "the scale of a diffusion model: name it by --family."
        ) from None


def mixed(latent: Tensor, taught: Tensor, count: int) -> Tensor:
    """Put the teacher's latents in the place of the first `count` of a batch [B, C, h, w]."""
    return torch.cat([taught[:count].to(latent.dtype), latent[count:]])


def taught_of(share: float, batch: int) -> int:
    """Round a share of a batch to whole crops; any share but 0 is one crop at least."""
    return max(round(share * batch), 1) if share else 0


def in_words(config: TrainConfig) -> list[str]:
    """Say in a line per use how the teacher takes part."""
    lines = []
    if config.teacher_weight:
        lines.append(
            "teacher: squared difference of the posterior's mean and the teacher's latent, as a "
            "diffusion model sees them, mean over C, h, w and the crops that it is shown; weight "
            f"{config.teacher_weight:g}"
        )
    if config.teacher_share:
        count = taught_of(config.teacher_share, config.batch_size)
        lines.append(
            f"{count} of the {config.batch_size} crops of a batch are decoded from its latents, "
            "and it is shown no others"
        )
    return lines
