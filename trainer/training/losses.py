"""What a step minimises: pixel losses, the perceptual distance, KL, and their sum.

B batch, C image or latent channels, H, W pixels, h, w latent cells. Pixels are in [-1, 1] and the
decoder's output is never clamped here. Everything is reduced in float32, whatever the VAE computes
in.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.judge.perceptual import Perceptual
from trainer.training.adversary import Adversary
from trainer.training.denoising import disturbed
from trainer.training.face_terms import (
    Boxes,
    face_windows,
    mean_over_pictures,
    pixel_weights,
    resample,
)
from trainer.training.high_frequency import detail_distance
from trainer.training.teacher import Teacher, mixed, taught_of
from trainer.training.windows import corners, cut
from trainer.vae.autoencoder import Posterior, decode, encode
from vae_core.latents import kl_per_item, sample

# Charbonnier, Blanc-Féraud, Aubert, Barlaud (1994): about the error that 8 bits cannot show
CHARBONNIER_EPSILON = 1e-3

# A quarter of an 8-bit level: nearer to black or white than that, a picture does not change.
BCE_MARGIN = 1e-3

REC_LOSSES = ("l1", "mse", "charbonnier", "bce")


def pixel_loss(kind: str, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compare pixels: reconstruction x and original y, [B, C, H, W] in [-1, 1] -> [B].

    "l1", "mse" and "charbonnier" (sqrt(d² + ε²), ε = 1e-3) are means over C, H, W. "bce" is a sum
    over C, H, W in nats: see bernoulli_nats. `weights` [B, 1, H, W], of mean 1, weigh the pixels.
    """
    error = _pixel_error(kind, x.float(), y.float())
    if weights is not None:
        error = error * weights
    return error.flatten(1).sum(1) if kind == "bce" else error.flatten(1).mean(1)


def _pixel_error(kind: str, x: Tensor, y: Tensor) -> Tensor:
    if kind == "l1":
        return (x - y).abs()
    if kind == "mse":
        return (x - y).square()
    if kind == "charbonnier":
        return ((x - y).square() + CHARBONNIER_EPSILON**2).sqrt()
    if kind == "bce":
        return bernoulli_nats(x, y)
    raise ValueError(f"Expected a pixel loss among {', '.join(REC_LOSSES)}, got {kind!r}.")


def bernoulli_nats(x: Tensor, y: Tensor) -> Tensor:
    """Give -log p(y | x) of Bernoulli pixels in nats, any shape, x and y in [-1, 1].

    The decoder's output keeps its range, so that exported files decode as every loader expects:
    the probability of white is (x + 1) / 2. Within [0.001, 0.999] this is binary cross entropy.
    Beyond, a straight line goes on, at least as steep as needed to pull the output back: the
    logarithm would end there, and a clamp would leave no gradient.
    """
    p, target = (x + 1) / 2, (y + 1) / 2
    inside = p.clamp(BCE_MARGIN, 1 - BCE_MARGIN)
    # written out: torch's own binary cross entropy is refused under autocast
    nats = -target * inside.log() - (1 - target) * (1 - inside).log()
    edge = inside.detach()
    slope = (target - edge).abs() / (edge * (1 - edge))
    return nats + slope.clamp(min=1) * (p - edge).abs()


class TrainStep(nn.Module):
    """Encode, sample, decode and score one batch: the module that DDP wraps.

    The perceptual distance's weights are neither parameters nor buffers of it, so that DDP does
    not broadcast them and state dicts hold the VAE alone.
    """

    def __init__(
        self,
        vae: nn.Module,
        perceptual: Perceptual | None,
        rec_loss: str,
        rec_weight: float,
        lpips_weight: float,
        kl_weight: float,
        train_encoder: bool,
        lpips_crop: int = 0,
        face_weight: float = 0.0,
        face_lpips_weight: float = 0.0,
        hf_weight: float = 0.0,
        adversary: Adversary | None = None,
        teacher: Teacher | None = None,
        teacher_weight: float = 0.0,
        teacher_share: float = 0.0,
        samples: bool = True,
        noise_factor: float = 0.0,
    ) -> None:
        """Keep the VAE and the weights of the loss; without LPIPS, `perceptual` may be None.

        `lpips_crop`: side of the random window that LPIPS sees of each crop; 0: all of it.
        `adversary`: a discriminator, with its weight; no parameter of this module.
        `teacher`: a VAE whose latents the mean is drawn to, and a share of each batch decoded from.
        `samples`: whether the decoder gets a draw from the posterior, or its mode.
        `noise_factor`: deviation of the noise on what the encoder sees, in pixels of [-1, 1].
        """
        super().__init__()
        if (lpips_weight or face_lpips_weight) and perceptual is None:
            raise ValueError("Expected a perceptual distance for a weight above 0, got none.")
        self.vae = vae
        self.perceptual = perceptual
        self.rec_loss = rec_loss
        self.rec_weight = rec_weight
        self.lpips_weight = lpips_weight
        self.kl_weight = kl_weight
        self.train_encoder = train_encoder
        self.lpips_crop = lpips_crop
        self.face_weight = face_weight
        self.face_lpips_weight = face_lpips_weight
        self.hf_weight = hf_weight
        self.adversary = adversary
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.teacher_share = teacher_share
        self.samples = samples
        self.noise_factor = noise_factor

    def forward(
        self,
        pixels: Tensor,
        noise: Tensor,
        posterior: Posterior | None = None,
        faces: Boxes | None = None,
        pixel_noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Score pixels [B, C, H, W] in [-1, 1] with noise [B, C, h, w] from N(0, I) -> scalars.

        A `posterior` that is given, from a cache and in any float type, stands for encoding.
        `faces` are the boxes (x, y, width, height) of each picture, in its pixels. With a noise
        factor `pixel_noise` [B, C, H, W] from N(0, I) disturbs what is encoded; what the output is
        compared with stays clean.

        "loss" is what to minimise, weighted; the parts stand beside it unweighted: "rec", "lpips"
        ("distance" where the perceptual distance is not LPIPS; absent at weight 0), "face_lpips"
        ("face_distance" likewise), "hf", "teacher", "kl" and "kl_per_element" (absent
        without a posterior), and what the adversary adds once it is at work. With a frozen encoder
        KL has no gradient and is left out of the loss.
        """
        if posterior is None:
            posterior = self._encode(self._seen(pixels, pixel_noise))
        else:
            posterior = _in_float32(posterior)
        latent = _draw(posterior, noise) if self.samples else posterior.mean.float()
        latent, taught = self._taught(posterior, pixels, latent)
        output = decode(self.vae, latent).float()
        parts = self._reconstruction(output, pixels, noise, faces) | taught
        loss = sum(weight * part for weight, part in parts.values())
        scalars = {name: part for name, (_, part) in parts.items()}
        if self.adversary is not None and self.adversary.learns:
            judgement, judged = self.adversary.judge(output, pixels, loss)
            loss, scalars = loss + judgement, scalars | judged
        if posterior.logvar is not None:
            kl = kl_per_item(posterior.mean, posterior.logvar).mean()
            scalars |= {"kl": kl, "kl_per_element": kl / posterior.mean[0].numel()}
            if self.train_encoder:
                loss = loss + self.kl_weight * kl
        return {"loss": loss} | scalars

    def _seen(self, pixels: Tensor, pixel_noise: Tensor | None) -> Tensor:
        """Give what the encoder sees."""
        if not self.noise_factor:
            return pixels
        if pixel_noise is None:
            raise ValueError("Expected noise for the pixels with a noise factor above 0, got none.")
        return disturbed(pixels, pixel_noise, self.noise_factor)

    def _encode(self, pixels: Tensor) -> Posterior:
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            return encode(self.vae, pixels)

    def _taught(
        self, posterior: Posterior, pixels: Tensor, latent: Tensor
    ) -> tuple[Tensor, dict[str, tuple[float, Tensor]]]:
        """Give the latent to decode, some of it the teacher's, and the distance to the teacher.

        The teacher sees the crops that are decoded from its latents, and all where none are.
        """
        if self.teacher is None:
            return latent, {}
        count = taught_of(self.teacher_share, len(pixels))
        shown = slice(count or len(pixels))  # a teacher's pass costs as much as a light VAE's own
        theirs = self.teacher.latents(pixels[shown])
        apart = self.teacher.distance(posterior.mean[shown], theirs)
        parts = {"teacher": (self.teacher_weight, apart)} if self.teacher_weight else {}
        return mixed(latent, theirs, count), parts

    def _reconstruction(
        self, output: Tensor, pixels: Tensor, noise: Tensor, faces: Boxes | None
    ) -> dict[str, tuple[float, Tensor]]:
        """Score the decoder's output: name -> (weight, mean over the batch)."""
        weights = self._pixel_weights(pixels, faces)
        rec = pixel_loss(self.rec_loss, output, pixels, weights).mean()
        parts = {"rec": (self.rec_weight, rec)}
        name = "lpips" if self.perceptual is None or self.perceptual.is_lpips else "distance"
        if self.lpips_weight:
            seen = self._windows(output, pixels, noise)
            parts[name] = (self.lpips_weight, self.perceptual.distance(*seen).mean())
        if self.face_lpips_weight:
            of_faces = self._face_distance(output, pixels, faces or ())
            parts[f"face_{name}"] = (self.face_lpips_weight, of_faces)
        if self.hf_weight:
            parts["hf"] = (self.hf_weight, detail_distance(output, pixels).mean())
        return parts

    def _pixel_weights(self, pixels: Tensor, faces: Boxes | None) -> Tensor | None:
        if not self.face_weight or faces is None or not any(faces):
            return None
        return pixel_weights(faces, *pixels.shape[2:], self.face_weight).to(pixels.device)

    def _face_distance(self, output: Tensor, pixels: Tensor, faces: Boxes) -> Tensor:
        """Measure faces as evaluation does; 0 where the batch has none."""
        windows = face_windows(faces, *pixels.shape[2:])
        if not windows:
            return output.new_zeros(())
        seen, target = resample(output, windows), resample(pixels, windows).clamp(-1, 1)
        return mean_over_pictures(self.perceptual.distance(seen, target), windows, len(pixels))

    def _windows(self, output: Tensor, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Give what LPIPS sees: all, or the same window of both."""
        side = self.lpips_crop
        if not 0 < side < min(pixels.shape[2:]):
            return output, pixels
        corner = corners(noise, min(pixels.shape[2:]) - side)
        return cut(output, corner, side), cut(pixels, corner, side)


def _in_float32(posterior: Posterior) -> Posterior:
    return Posterior(*(None if moments is None else moments.float() for moments in posterior))


def _draw(posterior: Posterior, noise: Tensor) -> Tensor:
    """Sample the posterior, in float32; without one (AutoencoderTiny) its mean is the latent."""
    if posterior.logvar is None:
        return posterior.mean
    return sample(posterior.mean.float(), posterior.logvar.float(), noise)


def describe_reductions(
    rec_loss: str,
    rec_weight: float,
    lpips_weight: float,
    kl_weight: float,
    train_encoder: bool,
    perceptual_name: str = "lpips",
    has_posterior: bool = True,
    lpips_crop: int = 0,
    others: Sequence[str] = (),
) -> str:
    """Say in a line per term how the loss is reduced and weighted: for help, start and report.

    `others`: the lines of optional terms, which their modules word.
    """
    over = "summed over C, H, W, in nats," if rec_loss == "bce" else "mean over C, H, W,"
    lines = [f"rec: {rec_loss}, {over} mean over the batch; weight {rec_weight:g}"]
    if lpips_weight:
        space = f"a random window of {lpips_crop} pixels" if lpips_crop else "space"
        lines.append(
            f"{perceptual_name}: mean over {space}, float32, mean over the batch; "
            f"weight {lpips_weight:g}"
        )
    else:
        lines.append("lpips: not in the loss (weight 0)")
    lines += [*others, _describe_kl(kl_weight, train_encoder, has_posterior)]
    alone = (rec_weight, kl_weight, lpips_weight) == (1, 1, 0) and not others
    if rec_loss == "bce" and train_encoder and alone:
        lines.append("the loss is the negative ELBO in nats per picture")
    return "\n".join(lines)


def _describe_kl(kl_weight: float, train_encoder: bool, has_posterior: bool) -> str:
    if not has_posterior:
        return "kl: none, this VAE has no posterior"
    kl = "kl: summed over C, h, w, mean over the batch"
    if train_encoder:
        return f"{kl}; weight {kl_weight:g}"
    return f"{kl}; reported only: a frozen encoder gives it no gradient"
