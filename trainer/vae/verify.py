"""Reading back what was written and holding it against the model that it came from.

A loader that finds a key missing often says nothing and decodes noise, so an export counts only
once its own files have been read again and have decoded the same picture.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.func import functional_call

from trainer.errors import UserError
from trainer.vae.autoencoder import architecture_of, decode, encode, from_state, ratio
from trainer.vae.base import Base
from vae_core.vae_file import read_vae

# Pictures lie in [-1, 1]. The same float32 arithmetic on the same weights should differ by 0; the
# bound, 1/80 of an 8-bit step, leaves room for kernels that sum in an order of their own.
DECODE_BOUND = 1e-4
FP16_MAX = torch.finfo(torch.float16).max  # 65504
PROBE_SIDE = 256  # pixels; the middle of a larger probe is taken


class Fp16Probe(NamedTuple):
    """The largest activation of the decoder in float32, and the layer it leaves.

    `finite` tells that it fits float16; sums inside a layer may still overflow.
    """

    finite: bool
    largest: float
    where: str


class Reference(NamedTuple):
    """What the live model makes of the probe, with its weights rounded to the export's type."""

    latent: Tensor
    pixels: Tensor
    fp16: Fp16Probe


class _Decode(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        latent = encode(self.vae, pixels).mean
        return latent, decode(self.vae, latent)


@torch.no_grad()
def reference(vae: nn.Module, state: Mapping[str, Tensor], probe: Tensor) -> Reference:
    """Encode and decode the probe [1, 3, H, W] in [-1, 1] with the live model's own layers.

    `state` takes the place of its weights for this one call, in float32 on the CPU; the model
    and its weights are left as they are.
    """
    weights = {f"vae.{name}": tensor.float() for name, tensor in state.items()}
    peak = _Peak()
    handles = [
        module.register_forward_hook(peak.hook(f"decoder.{name}".rstrip(".")))
        for name, module in vae.decoder.named_modules()
    ]
    try:
        with torch.autocast("cpu", enabled=False):
            pixels = _middle(probe.float().cpu(), ratio(vae))
            latent, decoded = functional_call(_Decode(vae), weights, (pixels,))
    finally:
        for handle in handles:
            handle.remove()
    if not torch.isfinite(decoded).all():
        raise UserError(
            "the trained model decodes a photo to NaN or infinity, so nothing was exported: go on "
            "from an earlier checkpoint with a lower --learning-rate"
        )
    return Reference(latent, decoded, peak.result())


class _Peak:
    def __init__(self) -> None:
        self.largest, self.where = 0.0, ""

    def hook(self, name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and float(output.abs().max()) > self.largest:
                self.largest, self.where = float(output.abs().max()), name

        return note

    def result(self) -> Fp16Probe:
        return Fp16Probe(self.largest <= FP16_MAX, self.largest, self.where)


def _middle(pixels: Tensor, multiple: int) -> Tensor:
    """Cut the middle out: at most PROBE_SIDE, and a multiple of the latent cell."""
    height, width = (min(side, PROBE_SIDE) // multiple * multiple for side in pixels.shape[-2:])
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


def check_frozen(state: Mapping[str, Tensor], base: Base) -> None:
    """Raise UserError unless encoder and quant_conv are the base's, bit for bit, as rounded."""
    for name, original in base.frozen_state.items():
        if not same_bits(original.to("cpu", state[name].dtype), state[name]):
            raise UserError(
                f"{name} changed although only the decoder should train, so nothing was exported; "
                "this is a fault of the program: please report it with the run's config.toml"
            )


def check_file(
    path: Path, state: Mapping[str, Tensor], architecture: Mapping[str, Any]
) -> nn.Module:
    """Read a file as our loader does, compare it bit for bit, and return the model it gives."""
    read = read_vae(path)
    _check_same(read.state, state, path)
    _check_equal(read.architecture, architecture, path)
    return from_state(read.architecture, read.state)


def check_folder(
    folder: Path, state: Mapping[str, Tensor], architecture: Mapping[str, Any]
) -> nn.Module:
    """Load a folder by diffusers' own from_pretrained, compare it, and return the model."""
    kind = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    vae = kind[architecture["_class_name"]].from_pretrained(
        str(folder), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
    )
    _check_same(vae.state_dict(), {name: tensor.float() for name, tensor in state.items()}, folder)
    _check_equal(architecture_of(vae), architecture, folder)
    return vae.eval()


@torch.no_grad()
def difference(vae: nn.Module, expected: Reference) -> float:
    """Return the largest difference of a reloaded model's picture; UserError over the bound."""
    with torch.autocast("cpu", enabled=False):
        apart = float((decode(vae, expected.latent) - expected.pixels).abs().max())
    if not apart <= DECODE_BOUND:
        raise UserError(
            f"the exported file decodes another picture than the model (up to {apart:.3g} apart, "
            f"{DECODE_BOUND} allowed), so nothing was exported; this is a fault of the program"
        )
    return apart


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors have the same type, shape and bytes (so -0 is not 0)."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(
            one.contiguous().reshape(-1).view(torch.uint8),
            other.contiguous().reshape(-1).view(torch.uint8),
        )
    )


def _check_equal(read: Mapping[str, Any], written: Mapping[str, Any], path: Path) -> None:
    wrong = [key for key in written if read.get(key) != written[key]]
    if wrong:
        raise UserError(
            f"the architecture in {path.name} did not come back as it was written ({wrong[0]} "
            "differs), so nothing was exported; this is a fault of the program"
        )


def _check_same(read: Mapping[str, Tensor], written: Mapping[str, Tensor], path: Path) -> None:
    wrong = set(read) ^ set(written) or {
        name for name in read if not same_bits(read[name], written[name])
    }
    if wrong:
        raise UserError(
            f"{path.name} did not come back as it was written ({min(wrong)} differs), so nothing "
            "was exported; the disk may be failing: try another one"
        )
