"""The diffusion families a VAE may belong to, and what their models expect of its latents.

A model latent is `(raw - shift) * scale`, or, with per-channel constants,
`(raw - mean) * scale / std`. Shapes can not tell SD1 from SDXL, nor SD3 from FLUX: a family is
known from a config, metadata, or what stands beside the VAE in a full checkpoint. A file's name
proves nothing and is never looked at.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .header import CheckpointError

_COMFY = (
    "https://github.com/Comfy-Org/ComfyUI/blob/7dde56176efa71fd74ef7b3930ab5882d1926288/"
    "comfy/latent_formats.py"
)


class Family(NamedTuple):
    """Constants of a latent space; `scale` is None where nothing is known."""

    name: str
    label: str
    latent_channels: int | None
    scale: float | None
    shift: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    source: str


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("sd1", "SD1 / SD2", 4, 0.18215, 0.0, None, None, f"{_COMFY}#L24-L26"),
        Family("sdxl", "SDXL", 4, 0.13025, 0.0, None, None, f"{_COMFY}#L36-L37"),
        Family("sd3", "SD3", 16, 1.5305, 0.0609, None, None, f"{_COMFY}#L122-L126"),
        Family("flux", "FLUX.1", 16, 0.3611, 0.1159, None, None, f"{_COMFY}#L164-L168"),
        Family(
            "playground25",
            "Playground 2.5",
            4,
            0.5,
            0.0,
            (-1.6574, 1.886, -1.383, 2.5155),
            (8.4927, 5.9022, 6.5498, 5.2299),
            f"{_COMFY}#L51-L55",
        ),
        Family("unknown", "not known", None, None, 0.0, None, None, "no constants are known"),
    )
}

_ALIASES = {
    **{alias: "sd1" for alias in ("sd", "sd14", "sd15", "sd2", "sd20", "sd21")},
    **{alias: "sdxl" for alias in ("xl", "sdxl10", "pony", "illustrious")},
    **{alias: "sd3" for alias in ("sd35", "sd3medium")},
    **{alias: "flux" for alias in ("flux1", "fluxdev", "fluxschnell", "flux1dev", "flux1schnell")},
    **{alias: "playground25" for alias in ("playground", "playgroundv25")},
}

# Values of `modelspec.architecture` (https://github.com/Stability-AI/ModelSpec); the "/vae" forms
# are the ones that SwarmUI knows.
MODELSPEC = {
    "sd1": "stable-diffusion-v1/vae",
    "sdxl": "stable-diffusion-xl-v1-base/vae",
    "sd3": "stable-diffusion-v3/vae",
    "flux": "flux.1/vae",
}

_MODELSPEC_PREFIXES = {
    "stable-diffusion-v1": "sd1",
    "stable-diffusion-v2": "sd1",
    "stable-diffusion-xl": "sdxl",
    "stable-diffusion-v3": "sd3",
    "stable-diffusion-3": "sd3",
    "flux-1": "flux",
    "flux.1": "flux",
    "playground-v2.5": "playground25",
    "playground-v2_5": "playground25",
}

# What stands beside the VAE in a full checkpoint. `edm_mean` comes first: Playground 2.5 has
# SDXL's text encoders too.
_BESIDE = {
    "edm_mean": "playground25",
    "conditioner.embedders.": "sdxl",
    "cond_stage_model.": "sd1",
    "model.diffusion_model.joint_blocks.": "sd3",
    "model.diffusion_model.double_blocks.": "flux",
    "model.diffusion_model.label_emb.": "sdxl",
    "joint_blocks.": "sd3",
    "double_blocks.": "flux",
}


def resolve_family(name: str) -> str:
    """Turn what a person typed ("SD15", "playground-2.5") into a key of FAMILIES.

    Raises CheckpointError naming the nearest family if there is none of that name.
    """
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    found = plain if plain in FAMILIES else _ALIASES.get(plain)
    if found:
        return found
    near = difflib.get_close_matches(plain, [*FAMILIES, *_ALIASES], n=1, cutoff=0.0)
    nearest = _ALIASES.get(near[0], near[0]) if near else "sd1"
    raise CheckpointError(
        f"family {name!r} is not known: did you mean {nearest}? ({', '.join(FAMILIES)})"
    )


def detect_family(
    latent_channels: int,
    config: Mapping[str, Any] | None,
    metadata: Mapping[str, str],
    other_keys: Iterable[str],
) -> str:
    """Name the family of a VAE, or "unknown"; see family_and_source for the arguments."""
    return family_and_source(latent_channels, config, metadata, other_keys)[0]


def family_and_source(
    latent_channels: int,
    config: Mapping[str, Any] | None,
    metadata: Mapping[str, str],
    other_keys: Iterable[str],
    taesd_scale: float | None = None,
) -> tuple[str, str]:
    """Name the family of a VAE and what told it; ("unknown", "not known") if nothing did.

    Args:
        latent_channels: C of the latent [B, C, h, w]; a family of another C is never returned.
        config: the diffusers config beside the weights, if there is one.
        metadata: the string pairs of the file's header.
        other_keys: names of the tensors that stand beside the VAE in a full checkpoint.
        taesd_scale: what a TAESD file carries in `vae_scale`.
    """
    scaled = family_of_scale(taesd_scale, latent_channels) if taesd_scale else None
    evidence = (
        (_from_vae_lab(metadata.get("vae_lab.family", "")), "the file's metadata"),
        (_from_config(config) if config else None, "config.json"),
        (scaled, "the file's vae_scale"),
        (_from_modelspec(metadata.get("modelspec.architecture", "")), "the file's metadata"),
        (_from_neighbours(other_keys), "the checkpoint's other keys"),
    )
    for name, source in evidence:
        family = FAMILIES.get(name or "unknown")
        if family and family.latent_channels == latent_channels:
            return family.name, source
    return "unknown", "not known"


def with_scaling(architecture: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Put a family's constants into an AutoencoderKL's config, as diffusers pipelines read them.

    An AutoencoderTiny stays as it is: its own latents are the model's, its scale is 1.
    """
    family, result = FAMILIES[name], dict(architecture)
    if family.scale is not None and architecture["_class_name"] == "AutoencoderKL":
        result["scaling_factor"] = family.scale
        result["shift_factor"] = family.shift or None
        result["latents_mean"] = list(family.mean) if family.mean else None
        result["latents_std"] = list(family.std) if family.std else None
    return result


def family_of_scale(scale: float, latent_channels: int) -> str:
    """Name the family whose models multiply latents by `scale`, or "unknown"."""
    known = (f for f in FAMILIES.values() if f.scale and f.latent_channels == latent_channels)
    return next((f.name for f in known if math.isclose(f.scale, scale, rel_tol=1e-3)), "unknown")


def _from_config(config: Mapping[str, Any]) -> str:
    tiny = config.get("_class_name") == "AutoencoderTiny"
    channels = config.get("latent_channels", 4)
    # Configs of SD1 and SD2 from before the field existed: their class means 0.18215 by default.
    default = 0.18215 if channels == 4 and not tiny else None
    scale = config.get("scaling_factor", default)
    return family_of_scale(scale, channels) if isinstance(scale, (int, float)) else "unknown"


def _from_vae_lab(text: str) -> str:
    """Read our own entry: JSON text, as in a file of ours, or the bare word."""
    return text.strip('"')


def _from_modelspec(architecture: str) -> str:
    for prefix, name in _MODELSPEC_PREFIXES.items():
        if architecture.lower().startswith(prefix):
            return name
    return "unknown"


def _from_neighbours(other_keys: Iterable[str]) -> str:
    seen = {mark for key in other_keys for mark in _BESIDE if key.startswith(mark)}
    return next((name for mark, name in _BESIDE.items() if mark in seen), "unknown")
