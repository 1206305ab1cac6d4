"""What a VAE's file says of itself: text only, the same for equal runs, and nothing private.

`modelspec.*` follows https://github.com/Stability-AI/ModelSpec (sai_model_spec 1.0.0), as far as
its fields fit a VAE; `vae_lab.*` is JSON. There are no paths, dates or durations.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

from trainer.names import printable
from trainer.vae.base import Base, scaling_of
from vae_core.families import MODELSPEC

# Where a run was kept and watched says nothing about the weights, and differs between equal runs.
NOT_RECIPE = frozenset(
    {"output", "config", "resume", "dry_run", "workers", "log_with", "log_every"}
    | {"keep_checkpoints", "checkpoint_every"}
)
_ABSOLUTE = re.compile(r"/|~|\\\\|[A-Za-z]:[/\\]|file:")
_IMPLEMENTATION = {
    "ldm": "https://github.com/CompVis/latent-diffusion",
    "taesd": "https://github.com/madebyollin/taesd",
}


def weights_metadata(base: Base) -> dict[str, str]:
    """Describe weights that come from `base`: enough to rebuild and to place them."""
    return {
        "format": "pt",
        **identity(base.architecture, base.family),
        "vae_lab.base_sha256": as_json(base.sha256),
    }


def export_metadata(
    base: Base, config: Mapping[str, Any], report: Mapping[str, Any], trained: str
) -> dict[str, str]:
    """Describe a finished run's weights: what they are, what made them, how they measured."""
    how = "encoder unchanged" if trained == "decoder" else "encoder trained too"
    recipe = {key: base_name(value) for key, value in config.items() if key not in NOT_RECIPE}
    side = config.get("resolution")
    return {
        **weights_metadata(base),
        **modelspec(base.architecture, base.family, f"{base.name}, fine-tuned"),
        "modelspec.description": f"VAE fine-tuned with VAE Lab from {base.name}; {how}.",
        **({"modelspec.resolution": f"{side}x{side}"} if isinstance(side, int) else {}),
        **carried(base.metadata, ("modelspec.license",)),
        "vae_lab.config": as_json(recipe),
        "vae_lab.report": as_json(report),
    }


def identity(architecture: Mapping[str, Any], family: str) -> dict[str, str]:
    """Give the three entries that a loader needs: architecture, family, scaling."""
    return {
        "vae_lab.architecture": as_json(architecture),
        "vae_lab.family": as_json(family),
        "vae_lab.scaling": as_json(scaling_of(family)),
    }


def modelspec(architecture: Mapping[str, Any], family: str, title: str) -> dict[str, str]:
    """Give the four entries that the specification demands."""
    tiny = architecture["_class_name"] == "AutoencoderTiny"
    known = None if tiny else MODELSPEC.get(family)
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": known or ("autoencoder-tiny" if tiny else "autoencoder-kl"),
        "modelspec.implementation": _IMPLEMENTATION["taesd" if tiny else "ldm"],
        "modelspec.title": title,
    }


def carried(metadata: Mapping[str, str], keys: tuple[str, ...]) -> dict[str, str]:
    """Take over what a source file says of itself and still holds."""
    return {key: printable(metadata[key]) for key in keys if key in metadata}


def as_json(value: Any) -> str:
    """Write JSON with sorted keys; absolute paths become base names, NaN and infinity null."""
    return json.dumps(_plain(value), sort_keys=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return printable(value.name)
    if isinstance(value, str):
        return base_name(value) if _ABSOLUTE.match(value) else printable(value)
    return value


def base_name(value: Any) -> Any:
    """Reduce a text that has folders in it to its last part; anything else stays as it is."""
    if not isinstance(value, str) or not any(slash in value for slash in "/\\"):
        return value
    return printable(PureWindowsPath(value).name)
