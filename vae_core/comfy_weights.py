"""What ComfyUI's own VAE classes take, made of any VAE file that they can hold.

ComfyUI guesses a VAE's shape from a few keys and logs what it misses. Here the shape is known: the
usual ones go to it as they are, others with the shape beside them, and what it has no class for is
refused. Error messages begin with a verb: who reads a file puts its name before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .architecture import comfy_config
from .checkpoint import read_tensors
from .header import CheckpointError, Header, read_header, shown
from .keys import to_ldm, to_taesd
from .scaling import NONE, Scaling
from .vae_config import TINY_DEFAULTS
from .vae_file import VaeFile, read_vae

LOAD_VAE = "ComfyUI's own Load VAE takes it, if any node does"
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")

# Shapes that ComfyUI knows by their keys: SD, SDXL, SD3, FLUX.1, and the x4 upscaler's.
_USUAL_WIDTHS = ([128, 256, 512, 512], [128, 256, 512])
_TINY_SHAPE = ("in_channels", "out_channels", "act_fn", "upsample_fn", "num_encoder_blocks")
_TINY_SHAPE += ("encoder_block_out_channels", "decoder_block_out_channels", "num_decoder_blocks")
_TINY_SHAPE += ("upsampling_scaling_factor",)

_VAE_NAME = re.compile(r"(first_stage_model\.|vae\.)?((encoder|decoder|bn)\..*)")
_OTHER_KINDS = (
    (r"bn\.running_mean", "FLUX.2's VAE, which folds and normalises its latents"),
    (r"decoder\.layers\.\d+\.layers\.", "a VAE for sound"),
    (r"decoder\.\d+\.(weight|bias|conv)", "a light VAE for video (TAEHV)"),
    (r"decoder\.(stages|up_blocks\.\d+\.\d+)\.", "a deep-compression VAE (DC-AE)"),
)


class ComfyWeights(NamedTuple):
    """A VAE for `comfy.sd.VAE(sd=state, config=config)`; without config ComfyUI knows its shape."""

    state: dict[str, Tensor]
    config: dict[str, Any] | None
    latent_channels: int
    ratio: int  # pixels along the side of a latent cell
    width: int  # channels of the first level; SD has 128


def read_for_comfy(path: Path, config: Mapping[str, Any] | None = None) -> VaeFile:
    """Read a VAE as `read_vae` does; what only ComfyUI's own node can load is called by its name.

    A TAESD file's `vae_shift` is put beside the `vae_scale` that `read_vae` gives: see taesd_shift.
    """
    header = read_header(path)
    kind = other_kind(header)
    if kind:
        raise CheckpointError(f"{shown(path.name)} is {kind}; {LOAD_VAE}")
    return read_vae(path, config)


def other_kind(header: Header) -> str | None:
    """Name the kind of a VAE that is none for pictures of SD's kind; None if none is recognised."""
    found = ((name, _VAE_NAME.fullmatch(name)) for name in header.tensors)
    bare = {match[2]: header.tensors[name].shape for name, match in found if match}
    for mark, words in _OTHER_KINDS:
        if any(re.match(mark, name) for name in bare):
            return words
    return "a VAE for video" if any(len(shape) == 5 for shape in bare.values()) else None


def taesd_shift(path: Path) -> float:
    """Read the `vae_shift` of a TAESD file: 0 where it has none."""
    names = [name for name in read_header(path).tensors if name.split(".")[-1] == "vae_shift"]
    tensors = read_tensors(path, names).values()
    return next((float(tensor) for tensor in tensors if tensor.numel() == 1), 0.0)


def comfy_weights(file: VaeFile, scaling: Scaling = NONE) -> ComfyWeights:
    """Turn a VAE into what ComfyUI's class takes; raises CheckpointError where none holds it.

    Args:
        file: the VAE as it was read.
        scaling: what lies between raw and model latents; only a TAESD needs it, whose own latents
            are the model's while ComfyUI passes raw ones. One number each.
    """
    if file.architecture["_class_name"] == "AutoencoderTiny":
        return _tiny(file, scaling)
    return _kl(file)


def _kl(file: VaeFile) -> ComfyWeights:
    shape, state = file.architecture, to_ldm(file.state)
    channels = shape["in_channels"]
    if channels != shape["out_channels"] or channels not in (1, 3):
        raise CheckpointError(
            f"takes pictures of {channels} channels and gives {shape['out_channels']}; ComfyUI's "
            "pictures have 3, or 1 that stands for grey"
        )
    if channels == 1:
        state |= colour_ends(state)
        shape = {**shape, "in_channels": 3, "out_channels": 3}
    config, latent, widths = (
        comfy_config(shape),
        shape["latent_channels"],
        shape["block_out_channels"],
    )
    known = is_usual(shape)
    if not known:
        state = {**_identities(latent), **state}
    return ComfyWeights(state, None if known else config, latent, 2 ** (len(widths) - 1), widths[0])


def colour_ends(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make a grey VAE's first and last convolution those of a VAE for colour, under LDM keys.

    The first sees the luma of the three channels, exactly: it is linear, and the shares of luma
    add up to 1. The last gives the same grey three times.
    """
    luma = torch.tensor(LUMA).view(1, 3, 1, 1)
    first = {"encoder.conv_in.weight": state["encoder.conv_in.weight"].float() * luma}
    last = {name: state[name] for name in ("decoder.conv_out.weight", "decoder.conv_out.bias")}
    tripled = {name: t.repeat(3, *[1] * (t.ndim - 1)) for name, t in last.items()}
    return first | tripled


def is_usual(shape: Mapping[str, Any]) -> bool:
    """Tell whether ComfyUI finds an AutoencoderKL's shape out by itself (comfy/sd.py, class VAE).

    64 latent channels it takes for HunyuanImage's VAE.
    """
    plain = not any(kind.startswith("Attn") for kind in shape["down_block_types"])
    return (
        shape["block_out_channels"] in _USUAL_WIDTHS
        and shape["layers_per_block"] == 2
        and (shape["in_channels"], shape["out_channels"]) == (3, 3)
        and shape["use_quant_conv"] == shape["use_post_quant_conv"]
        and shape["latent_channels"] != 64
        and plain
    )


def _identities(channels: int) -> dict[str, Tensor]:
    """Make 1x1 convolutions that change nothing, for the quant convs that a VAE lacks."""
    state = {}
    for name, count in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        state[f"{name}.weight"] = torch.eye(count).view(count, count, 1, 1)
        state[f"{name}.bias"] = torch.zeros(count)
    return state


def _tiny(file: VaeFile, scaling: Scaling) -> ComfyWeights:
    shape = file.architecture
    other = [key for key in _TINY_SHAPE if shape[key] != TINY_DEFAULTS[key]]
    if other:
        raise CheckpointError(
            f"does not have the shape of TAESD, the only AutoencoderTiny that ComfyUI holds: "
            f"{other[0]} is {shape[other[0]]} instead of {TINY_DEFAULTS[other[0]]}"
        )
    scalars = {"vae_scale": torch.tensor(scaling.scale), "vae_shift": torch.tensor(scaling.shift)}
    state = {**to_taesd(file.state), **scalars}
    ratio = 2 ** (len(shape["num_encoder_blocks"]) - 1)
    return ComfyWeights(state, None, shape["latent_channels"], ratio, 64)
