"""The forms that a VAE is written in: one file for every loader, and a diffusers folder.

One file: un-prefixed LDM keys for an AutoencoderKL, which ComfyUI, A1111, Forge and kohya read;
taesd_encoder.* and taesd_decoder.* for an AutoencoderTiny, which ComfyUI reads. ComfyUI hands raw
latents about and its TAESD turns them into model latents by two scalars, `vae_scale` and
`vae_shift` (https://github.com/Comfy-Org/ComfyUI/blob/7dde56176efa71fd74ef7b3930ab5882d1926288/
comfy/taesd/taesd.py#L127-L133); they are written where the family is known, and are the only keys
beside the model's own. Playground 2.5 has constants per channel, which two scalars can not hold.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.vae.hub import WEIGHTS
from vae_core.checkpoint import write_safetensors
from vae_core.families import FAMILIES
from vae_core.files import write_json
from vae_core.keys import to_ldm, to_taesd

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast weights for writing: contiguous copies on the CPU.

    Raises UserError naming the tensor if one holds a value that the type can not.
    """
    result = {}
    for name, tensor in state.items():
        result[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        if not torch.isfinite(result[name]).all():
            largest, limit = float(tensor.detach().abs().max()), torch.finfo(dtype).max
            raise UserError(
                f"{name} holds {largest:.4g}, more than {str(dtype).removeprefix('torch.')} can "
                f"({limit:.4g}): write it as bf16 or fp32"
            )
    return result


def single_file(
    state: Mapping[str, Tensor], architecture: Mapping[str, Any], family: str
) -> dict[str, Tensor]:
    """Give the tensors of the one file that every loader takes, under its keys."""
    if architecture["_class_name"] == "AutoencoderKL":
        return to_ldm(state)
    return {**to_taesd(state), **_comfy_scalars(family)}


def _comfy_scalars(family: str) -> dict[str, Tensor]:
    known = FAMILIES[family]
    if known.scale is None or known.mean is not None:
        return {}
    return {"vae_scale": torch.tensor(known.scale), "vae_shift": torch.tensor(known.shift)}


def write_folder(
    folder: Path,
    state: Mapping[str, Tensor],
    architecture: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    """Write config.json and the weights as diffusers' from_pretrained reads them."""
    folder.mkdir()
    write_json(folder / "config.json", dict(sorted(architecture.items())))
    write_safetensors(folder / WEIGHTS[0], state, metadata)
