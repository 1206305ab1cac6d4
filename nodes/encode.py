"""VAE Encode (Scaled): a picture into latents, with everything that core keeps silent."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vae_core.fit import Window, covered, describe_window, padded
from ..vae_core.latents import kl_per_item, sample
from ..vae_core.scaling import NONE, Scaling, apply_scaling, apply_spread, describe
from .shared.latent_dict import STD, WINDOW, Latent, checked_seed, chosen, marked
from .shared.passes import Passes
from .shared.posterior import Posterior, encode_posterior
from .shared.scaling_choice import chosen_scaling, model_socket, scaling_sockets
from .shared.schema import node_body, node_schema, result, seed_socket, socket
from .shared.tiling import AUTO, chosen_tiling, tiling_sockets

NAME = "VAE Encode (Scaled)"
MEAN, SAMPLE = "mean (ComfyUI standard)", "sample"
CROP, PAD = "crop (ComfyUI standard)", "pad and crop back"


class VAELabEncode(io.ComfyNode):
    """The node; with scaling none and the mean it gives exactly what core's VAE Encode gives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabEncode",
            display_name=NAME,
            description="Encodes a picture into a latent: the posterior's mean or a seeded sample, "
            "raw or scaled for a diffusion model. With the defaults the result equals ComfyUI's "
            "own VAE Encode.",
            search_aliases=["vae encode", "latent scaling", "posterior", "image to latent"],
            inputs=inputs(),
            outputs=outputs(),
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        pixels: Tensor,
        vae: Any,
        scaling: str,
        custom_scale: float,
        custom_shift: float,
        posterior: str,
        seed: int,
        uneven_size: str,
        model: Any | None = None,
        tiling: str = AUTO,
        memory_budget: int = 0,
    ) -> io.NodeOutput:
        units = chosen_scaling(scaling, custom_scale, custom_shift, model)
        pad = chosen(uneven_size, "uneven_size", (CROP, PAD)) == PAD
        sampled = chosen(posterior, "posterior", (MEAN, SAMPLE)) == SAMPLE
        passes = Passes(vae, chosen_tiling(tiling, memory_budget))
        images = checked_images(pixels, vae)
        fitted, window = fit(images, vae, pad)
        found = encode_posterior(passes, fitted)
        raw = drawn(found, seed) if sampled else found.mean
        latent = assembled(raw, found, units, window if pad else None, fitted)
        std = found.std if found.std is not None else torch.full_like(found.mean, math.nan)
        compression = fitted.numel() / raw.numel()
        info = told(images, window, pad, units, found, compression)
        info = "\n".join([info, *passes.notes])
        spread = marked({"samples": apply_spread(std, units)}, None)
        return io.NodeOutput(latent, spread, mean_kl(found), compression, info)


def inputs() -> list[io.Input]:
    """Describe what goes in; what came later stands last, as workflows keep widgets by position."""
    return [
        socket(io.Image, "pixels", tooltip="Pictures [B, H, W, 3] in 0..1."),
        socket(io.Vae, "vae", tooltip="The VAE that encodes."),
        *scaling_sockets("How the latent is scaled after encoding."),
        socket(
            io.Combo,
            "posterior",
            options=[MEAN, SAMPLE],
            default=MEAN,
            tooltip="The mean of the posterior, or mean + σ x noise with the seed below.",
        ),
        seed_socket("seed", "the posterior sample"),
        socket(
            io.Combo,
            "uneven_size",
            options=[CROP, PAD],
            default=CROP,
            tooltip="For sides that are no multiple of the VAE's ratio (8 pixels for SD): "
            "crop around the centre, or repeat the edges and let VAE Decode (Scaled) cut "
            "them off again.",
        ),
        model_socket(),
        *tiling_sockets(),
    ]


def outputs() -> list[io.Output]:
    """Describe what comes out."""
    return [
        result(io.Latent, "latent", "The latent, marked when it is scaled."),
        result(
            io.Latent,
            "std",
            "σ of the posterior, in the latent's own units; NaN where the VAE has none.",
        ),
        result(
            io.Float,
            "kl",
            "KL divergence of the posterior from N(0, I), in nats per picture, mean over "
            "the batch; NaN where the VAE has no posterior.",
        ),
        result(
            io.Float,
            "compression",
            "Values in (pixels x channels) over values out: 48 for SD at any size.",
        ),
        result(io.String, "info", "Which pixels the latent stands for, and in what units."),
    ]


def checked_images(pixels: Tensor, vae: Any) -> Tensor:
    """Check pictures [B, H, W, C]; beyond the VAE's own channels (alpha) they are left out."""
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or not pixels.numel():
        shape = list(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ValueError(f"expected pictures [B, H, W, 3], got {shape}.")
    images = pixels[..., :3]
    ratio = vae.spacial_compression_encode()
    if min(images.shape[1:3]) < ratio:
        raise ValueError(
            f"expected at least {ratio} x {ratio} pixels for this VAE, got "
            f"{images.shape[2]} x {images.shape[1]}: use a larger picture."
        )
    return images


def fit(images: Tensor, vae: Any, pad: bool) -> tuple[Tensor, Window]:
    """Give the pictures for the VAE, and the window: of them when padded, else of the picture."""
    ratio = vae.spacial_compression_encode()
    if pad:
        return padded(images, ratio)
    if not getattr(vae, "crop_input", True):
        return images, (0, 0, *images.shape[1:3])
    top, left, height, width = window = covered(*images.shape[1:3], ratio)
    return images[:, top : top + height, left : left + width], window


def drawn(found: Posterior, seed: int) -> Tensor:
    """Sample the posterior with a generator of its own, on the CPU."""
    if found.logvar is None:
        raise ValueError(f"there is nothing to sample: {found.why_none}. Choose the mean.")
    generator = torch.Generator("cpu").manual_seed(checked_seed(seed))
    noise = torch.randn(found.mean.shape, generator=generator)
    return sample(found.mean.float(), found.logvar, noise.to(found.mean.device)).to(
        found.mean.dtype
    )


def assembled(
    raw: Tensor, found: Posterior, scaling: Scaling, window: Window | None, fitted: Tensor
) -> Latent:
    """Make the LATENT: scaled and marked, with σ and the window where there are any."""
    latent: Latent = {"samples": apply_scaling(raw, scaling)}
    if found.std is not None:
        latent[STD] = found.std
    if window is not None and window != (0, 0, *fitted.shape[1:3]):
        latent[WINDOW] = list(window)
    return marked(latent, scaling)


def mean_kl(found: Posterior) -> float:
    """Average the posteriors' KL from N(0, I) over the batch, in nats; NaN without a posterior."""
    if found.logvar is None:
        return math.nan
    return float(kl_per_item(found.mean, found.logvar).mean())


def told(
    images: Tensor,
    window: Window,
    pad: bool,
    scaling: Scaling,
    found: Posterior,
    compression: float,
) -> str:
    """Say what the latent is: its pixels, its units, its size, its posterior."""
    height, width = images.shape[1:3]
    if pad:
        pixels = f"all {width} x {height} pixels, from ({window[1]}, {window[0]}) after padding"
    else:
        pixels = describe_window(window, height, width)
    units = "raw (ComfyUI standard)" if scaling == NONE else f"scaled: {describe(scaling)}"
    lines = [
        f"pixels: {pixels}",
        f"units: {units}",
        f"latent: {list(found.mean.shape)}, {compression:.4g} values in for one out",
    ]
    if found.logvar is None:
        return "\n".join([*lines, f"posterior: none; {found.why_none}"])
    kl = mean_kl(found)
    each = kl / found.mean[0].numel()
    return "\n".join([*lines, f"posterior: KL {kl:.4g} nats a picture, {each:.4g} a latent value"])
