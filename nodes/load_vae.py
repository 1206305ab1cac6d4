"""Load VAE (any size): any VAE for pictures as an ordinary VAE of ComfyUI, and what it is."""

from __future__ import annotations

import inspect
import math
from typing import Any

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..vae_core.comfy_weights import ComfyWeights, comfy_weights, read_for_comfy, taesd_shift
from ..vae_core.header import CheckpointError, shown
from ..vae_core.scaling import Scaling
from ..vae_core.vae_words import about, family_of, one_number, scaling_for, taesd_scaling
from .parts.vae_files import choices, config_beside, path_of, state_of
from .shared.scaling_choice import OF_FAMILY
from .shared.schema import node_body, node_schema, result, socket

NAME = "Load VAE (any size)"
FROM_FILE = "from the file"
SD_WIDTH = 128


class VAELabLoadVAE(io.ComfyNode):
    """The node; what it loads is a plain `comfy.sd.VAE`, with offload, tiles and previews."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabLoadVAE",
            display_name=NAME,
            description="Loads a VAE for pictures of any width and depth, alone or out of a full "
            "checkpoint, as an ordinary VAE, and says what it is. A file that would load only in "
            "part is refused.",
            search_aliases=["load vae", "vae loader", "small vae", "taesd", "vae info", "metadata"],
            inputs=[
                socket(
                    io.Combo,
                    "vae_name",
                    options=choices(),
                    tooltip="A .safetensors file of models/vae, a full checkpoint (only its VAE is "
                    "read), or the small VAE that comes with this pack.",
                ),
                socket(
                    io.Combo,
                    "family",
                    options=[FROM_FILE, *OF_FAMILY],
                    default=FROM_FILE,
                    tooltip="Whose latents these are, where the file does not say. It sets the "
                    "numbers below, and how a TAESD's latents become raw ones.",
                ),
            ],
            outputs=[
                result(io.Vae, "vae", "The VAE, as from ComfyUI's own Load VAE."),
                result(io.String, "info", "What the file is and says of itself, as plain text."),
                result(
                    io.Float,
                    "scale",
                    "Scale of the family, for custom_scale: model latent = (raw - shift) x scale; "
                    "NaN where it is not known or differs by channel.",
                ),
                result(
                    io.Float, "shift", "Shift of the family, in raw units; NaN where scale is NaN."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, vae_name: Any = None, **_: Any) -> str:
        """Load again when the file was replaced under its name."""
        return state_of(vae_name)

    @classmethod
    @node_body(NAME)
    def execute(cls, vae_name: str, family: str) -> io.NodeOutput:
        path = path_of(vae_name)
        config = config_beside(path)
        file = read_for_comfy(path, config)
        try:
            told = family_of(file, config, chosen_family(family))
            shift = taesd_shift(path) if file.scale else 0.0
            scaling = scaling_for(file, *told, shift)
            weights = comfy_weights(file, taesd_scaling(scaling))
        except CheckpointError as error:
            raise ValueError(f"{shown(path.name)} {error}.") from None
        vae = ordinary_vae(weights, file.metadata)
        info = about(file, vae_name, told, scaling, weights.ratio)
        return io.NodeOutput(vae, f"{info}\n{runs_in(vae)}", *numbers(scaling))


def chosen_family(label: str) -> str | None:
    """Turn the widget into a family's name, None for what the file says."""
    if label != FROM_FILE and label not in OF_FAMILY:
        raise ValueError(f"expected a family of the list, got {shown(str(label))}.")
    return OF_FAMILY.get(label)


def ordinary_vae(weights: ComfyWeights, metadata: dict[str, str]) -> Any:
    """Make ComfyUI's VAE of weights; ValueError if its class has other tensors than these."""
    known = inspect.signature(comfy.sd.VAE.__init__).parameters
    options: dict[str, Any] = {}
    if weights.config is not None:
        options["config"] = weights.config
    elif "metadata" in known:
        options["metadata"] = metadata
    vae = comfy.sd.VAE(sd=dict(weights.state), **options)
    check_whole(vae, weights.state)
    if weights.config is not None:
        fit_to(vae, weights)
    return vae


def check_whole(vae: Any, state: dict[str, Tensor]) -> None:
    """Refuse a VAE with tensors that no file filled: ComfyUI itself only logs them."""
    model = getattr(vae, "first_stage_model", None)
    expected = set(model.state_dict()) if model is not None else set()
    apart = sorted(expected ^ set(state))
    if apart:
        raise ValueError(
            f"this ComfyUI's VAE class does not fit the file: {len(apart)} tensors differ, such as "
            f"{shown(apart[0])}. Update ComfyUI, or use its own Load VAE."
        )


def fit_to(vae: Any, weights: ComfyWeights) -> None:
    """Tell ComfyUI what it takes for granted when it is given a shape: channels, ratio, memory."""
    vae.latent_channels = weights.latent_channels
    vae.downscale_ratio = vae.upscale_ratio = weights.ratio
    encode, decode = vae.memory_used_encode, vae.memory_used_decode
    wider = max(1.0, weights.width / SD_WIDTH)
    cells = (weights.ratio / 8) ** 2
    vae.memory_used_encode = lambda shape, dtype: encode(shape, dtype) * wider
    vae.memory_used_decode = lambda shape, dtype: decode(shape, dtype) * wider * cells


def numbers(scaling: Scaling | None) -> tuple[float, float]:
    """Give scale and shift as numbers; NaN for both where they are none."""
    if not one_number(scaling):
        return math.nan, math.nan
    return float(scaling.scale), float(scaling.shift)


def runs_in(vae: Any) -> str:
    """Say what ComfyUI chose to compute in."""
    return f"runs in: {str(getattr(vae, 'vae_dtype', 'unknown')).removeprefix('torch.')}"
