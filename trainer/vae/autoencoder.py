"""One way to build, encode and decode, for AutoencoderKL and AutoencoderTiny alike.

B batch, C latent channels, H, W pixels, h, w latent cells.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from trainer.errors import UserError
from vae_core.architecture import architecture_from_config
from vae_core.images import from_bytes, to_grey

DECODER_PREFIXES = ("decoder.", "post_quant_conv.")
_LOGVAR = (-30.0, 20.0)  # as DiagonalGaussianDistribution of LDM and diffusers clamps it
_CLASSES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


class Posterior(NamedTuple):
    """Mean and log variance of the latent, [B, C, h, w] each; AutoencoderTiny has no variance."""

    mean: Tensor
    logvar: Tensor | None


def build(architecture: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Build a VAE with random float32 weights drawn from `seed`; no global random state changes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _instance(architecture).eval()


def from_state(architecture: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Build a VAE that holds copies of `state` (diffusers names, any float dtype) in float32."""
    with torch.device("meta"):
        vae = _instance(architecture)
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}
    vae.load_state_dict(copies, strict=True, assign=True)
    return vae.eval()


def _instance(architecture: Mapping[str, Any]) -> nn.Module:
    fields = {key: value for key, value in architecture.items() if key != "_class_name"}
    return _CLASSES[architecture["_class_name"]](**fields)


def architecture_of(vae: nn.Module) -> dict[str, Any]:
    """Describe a VAE as plain JSON: the fields of its config that matter, and `_class_name`."""
    config = {**vae.config, "_class_name": type(vae).__name__}
    return architecture_from_config(config)


def input_pixels(vae: nn.Module, images: Tensor) -> Tensor:
    """Convert uint8 [B, H, W, 3] to what a VAE takes: [B, C, H, W] in [-1, 1], grey if C is 1.

    Raises UserError for a VAE of any other number of channels.
    """
    channels = image_channels(vae)
    if channels not in (1, 3):
        raise UserError(
            f"expected a VAE of pictures with 3 channels (or 1, grey), but this one has {channels}"
        )
    return from_bytes(to_grey(images) if channels == 1 else images)


def encode(vae: nn.Module, pixels: Tensor) -> Posterior:
    """Encode pixels [B, C, H, W] in [-1, 1] into the posterior of their raw latent [B, C, h, w]."""
    if is_tiny(vae):
        # Not through encoder.forward: with gradient checkpointing on, that leaves out this map.
        return Posterior(vae.encoder.layers(_fastest_layout(pixels).add(1).div(2)), None)
    moments = vae.encoder(pixels)
    if vae.quant_conv is not None:
        moments = vae.quant_conv(moments)
    mean, logvar = moments.chunk(2, dim=1)
    return Posterior(mean, logvar.clamp(*_LOGVAR))


def decode(vae: nn.Module, latent: Tensor) -> Tensor:
    """Decode a raw latent [B, C, h, w] into pixels [B, 3, H, W] around [-1, 1], not clamped."""
    if is_tiny(vae):
        return vae.decoder(_fastest_layout(latent))
    if vae.post_quant_conv is not None:
        latent = vae.post_quant_conv(latent)
    return vae.decoder(latent)


def _fastest_layout(x: Tensor) -> Tensor:
    """Lay AutoencoderTiny's input out channels last on a CPU, and with it all that follows.

    Its steps took 0.63 to 0.83 of the time so (128 to 256 px, bf16 and float32); those of an
    AutoencoderKL, with its norms between convolutions, gain nothing.
    """
    on_cpu = x.device.type == "cpu"
    return x.contiguous(memory_format=torch.channels_last) if on_cpu else x


def is_tiny(vae: nn.Module) -> bool:
    """Tell whether a VAE is of TAESD's kind, which has no posterior."""
    return isinstance(vae, AutoencoderTiny)


def ratio(vae: nn.Module) -> int:
    """Return how many pixels a latent cell spans on each side: 8 for SD."""
    if is_tiny(vae):
        return vae.config.upsampling_scaling_factor ** (len(vae.config.num_decoder_blocks) - 1)
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latent_channels(vae: nn.Module) -> int:
    """Return C of the latent [B, C, h, w]."""
    return vae.config.latent_channels


def image_channels(vae: nn.Module) -> int:
    """Return the channels of the images: 3 for RGB."""
    return vae.config.in_channels


def trainable_names(vae: nn.Module, trainable: str) -> list[str]:
    """List the parameters that train: all, or ("decoder") the decoder and post_quant_conv."""
    names = [name for name, _ in vae.named_parameters()]
    return names if trainable == "all" else [n for n in names if n.startswith(DECODER_PREFIXES)]


def canonical_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash weights by what they are: names (diffusers), shapes and float32 values.

    The same for a folder, an ldm file and a checkpoint that hold the same weights.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False))
    return digest.hexdigest()
